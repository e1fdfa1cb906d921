//! The reasons why a caller could not be identified.

use http::StatusCode;

/// The reason why a caller could not be identified. Its display text is the sentence that the client
/// reads, which says what to do and never repeats the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// There is no credential header.
    #[error("No credentials were sent; send an API key or a token as `Authorization: Bearer …`.")]
    NoCredentials,
    /// Several credentials differ, and Farebox cannot guess which of them pays.
    #[error("Several different credentials were sent; send exactly one.")]
    AmbiguousCredentials,
    /// A credential header, or a token's claims, cannot be parsed.
    #[error(
        "The credentials could not be read; send one key or token as `Authorization: Bearer …`."
    )]
    Malformed,
    /// There is no such API key.
    #[error("This token or key is not valid here; check it, or create a new one.")]
    UnknownKey,
    /// The API key was revoked. Clients see the same text as for [`Self::UnknownKey`].
    #[error("This token or key is not valid here; check it, or create a new one.")]
    Revoked,
    /// The token's `exp` has passed.
    #[error("The token has expired; sign in again to get a new one.")]
    Expired,
    /// The token has no `exp`, so it would be valid for ever.
    #[error("The token has no expiry; it must carry an `exp` claim.")]
    NoExpiry,
    /// The token's `nbf` is still to come.
    #[error("The token is not valid yet; check the clock of the service that issued it.")]
    NotYetValid,
    /// The token's `iss` is not a configured one.
    #[error("The token comes from an issuer that is not accepted here; check its `iss` claim.")]
    WrongIssuer,
    /// The token's `aud` is not a configured one.
    #[error("The token was made for another service; check its `aud` claim.")]
    WrongAudience,
    /// No key of the token's issuer made the signature.
    #[error("The token's signature does not match a trusted key; sign in again to get a new one.")]
    BadSignature,
    /// The token's algorithm is `none`, or is not one that an issuer in the config uses.
    #[error("The token is signed with an algorithm that is not accepted here.")]
    AlgorithmNotAllowed,
    /// The token has a `crit` header (RFC 7515, 4.1.11) with extensions that must be understood;
    /// Farebox has none.
    #[error("The token requires an extension (`crit`) that is not supported here.")]
    CriticalExtension,
    /// The claim with the account is missing, or is not an account's id.
    #[error("The token does not name an account; check the claim that should hold its id.")]
    NoAccountClaim,
    /// The claim names an account below the `account_prefix` of another issuer.
    #[error(
        "The token names an account of another issuer; check the claim that should hold its id."
    )]
    ForeignAccount,
    /// A service key names an account that cannot exist.
    #[error("`x-farebox-account` must be one account id: 1 to 255 visible ASCII characters.")]
    InvalidAccountHeader,
    /// The issuer's keys have not been fetched yet, or the ledger does not tell of new API keys. The failure is ours, not
    /// the caller's.
    #[error("Tokens and keys cannot be checked at the moment; try again shortly.")]
    KeysUnavailable,
}

impl Unauthenticated {
    /// 401 for most refusals; 400 for an invalid header; 503 if the caller can do nothing about it.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidAccountHeader => StatusCode::BAD_REQUEST,
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The refusal that came after more checks. If there are several issuers, it is the refusal of
    /// the issuer that fits the token best.
    pub(super) fn further(self, other: Self) -> Self {
        if other.progress() > self.progress() { other } else { self }
    }

    /// The number of checks that a token passed before it was refused.
    const fn progress(self) -> u8 {
        match self {
            Self::AlgorithmNotAllowed => 0,
            Self::WrongIssuer => 1,
            Self::BadSignature => 2,
            // This ranks above a bad signature, because the issuer whose keys are missing may be
            // the one that signed the token.
            Self::KeysUnavailable => 3,
            _ => 4,
        }
    }
}
