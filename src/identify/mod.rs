//! Identify: the headers of a call become an account, or a refusal that says what to do.
//!
//! # The contract
//! - One credential a call: an API key or a JWT as `Authorization: Bearer …`, or in one of the
//!   headers where AI SDKs put it ([`CREDENTIAL_HEADERS`], which the proxy strips). The same one
//!   twice is fine, two different ones are refused; an empty header is no credential.
//! - A credential whose SHA-256 is in the [`KeyRing`] is that key, whatever it looks like: keys
//!   brought over from another gateway keep working. Anything else in three parts is a JWT.
//! - A JWT is judged by the config alone ([`JwtConfig`]): the token chooses neither its
//!   algorithm nor its key's source, and it must expire.
//! - A verified token is remembered by its SHA-256 until it expires or its issuer withdraws a
//!   key, so that a signature is checked once and not on each call.
//! - A service key alone may act for another account ([`ACCOUNT_HEADER`]).
//!
//! Nothing here needs the ledger or the network to say yes, but for the JWKS of an issuer, which
//! is fetched in the background ([`Identifier::run`]), and sooner where a token has a signature that
//! no key of it made: a few times in half a minute, once for each client.
//!
//! Browsers cannot set headers on a WebSocket; a credential in a query string would end up in
//! logs, so it is not read. Such a page opens its socket through its own backend.

mod cache;
mod check;
mod config;
mod credential;
mod identifier;
mod jwks;
mod jwt;
mod key_set;
mod key_source;
mod keys;
mod new_key;
mod refusal;
mod token;

#[cfg(test)]
mod tests;

pub use config::{ApiKeysConfig, AuthConfig, JwtConfig};
pub use credential::{ACCOUNT_HEADER, CREDENTIAL_HEADERS, Credentials, SESSION_COOKIES};
pub use identifier::{CredentialKind, Identifier, Identity};
pub use keys::{KeyRing, KeyTaken};
pub use new_key::NewKey;
pub use refusal::Unauthenticated;
