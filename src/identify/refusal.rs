//! Why a call has no account.

use http::StatusCode;

/// Why a caller could not be identified. Each one displays as the sentence its client reads; it
/// says what to do and never repeats the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// No credential header at all.
    #[error("No credentials were sent; send an API key or a token as `Authorization: Bearer …`.")]
    NoCredentials,
    /// Several credentials that differ: guessing which one pays is not ours to do.
    #[error("Several different credentials were sent; send exactly one.")]
    AmbiguousCredentials,
    /// A credential header, or a token's claims, that cannot be read.
    #[error(
        "The credentials could not be read; send one key or token as `Authorization: Bearer …`."
    )]
    Malformed,
    /// No such API key.
    #[error("This token or key is not valid here; check it, or create a new one.")]
    UnknownKey,
    /// An API key that was taken back. Outside it reads like [`Self::UnknownKey`].
    #[error("This token or key is not valid here; check it, or create a new one.")]
    Revoked,
    /// `exp` is over.
    #[error("The token has expired; sign in again to get a new one.")]
    Expired,
    /// A token that would be good for ever.
    #[error("The token has no expiry; it must carry an `exp` claim.")]
    NoExpiry,
    /// `nbf` is still to come.
    #[error("The token is not valid yet; check the clock of the service that issued it.")]
    NotYetValid,
    /// `iss` is not a configured one.
    #[error("The token comes from an issuer that is not accepted here; check its `iss` claim.")]
    WrongIssuer,
    /// `aud` is not a configured one.
    #[error("The token was made for another service; check its `aud` claim.")]
    WrongAudience,
    /// Not signed by a key of its issuer.
    #[error("The token's signature does not match a trusted key; sign in again to get a new one.")]
    BadSignature,
    /// An algorithm that no issuer in the config uses, `none` among them.
    #[error("The token is signed with an algorithm that is not accepted here.")]
    AlgorithmNotAllowed,
    /// A `crit` header: extensions that must be understood (RFC 7515, 4.1.11), and none is.
    #[error("The token requires an extension (`crit`) that is not supported here.")]
    CriticalExtension,
    /// The claim that names the account is missing or cannot be an account's id.
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
    /// The issuer's keys have not been fetched yet: our failure, not the caller's.
    #[error("Tokens cannot be checked at the moment; try again shortly.")]
    KeysUnavailable,
}

impl Unauthenticated {
    /// 401, but 400 for a header that makes no sense and 503 for what the caller cannot mend.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidAccountHeader => StatusCode::BAD_REQUEST,
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The one of two refusals that came further: with several issuers, what the issuer that
    /// knew most about the token had to say.
    pub(super) fn further(self, other: Self) -> Self {
        if other.progress() > self.progress() { other } else { self }
    }

    /// How far a token came before it was refused.
    const fn progress(self) -> u8 {
        match self {
            Self::AlgorithmNotAllowed => 0,
            Self::WrongIssuer => 1,
            Self::BadSignature => 2,
            // Above a bad signature: the issuer we could not ask may be the one that signed.
            Self::KeysUnavailable => 3,
            _ => 4,
        }
    }
}
