//! Identifies callers: the headers of a call become an account, or a refusal that says what to do.
//!
//! # The contract
//! - A call has one credential: an API key or a JWT as `Authorization: Bearer …`, or in one of the
//!   headers where AI SDKs put it ([`CREDENTIAL_HEADERS`], which the proxy strips). The same
//!   credential in two headers is accepted, and two different credentials are refused. An empty
//!   header counts as absent.
//! - A credential whose SHA-256 is in the [`KeyRing`] is that key, whatever it looks like, so keys
//!   imported from another gateway keep working. Any other credential in three parts is a JWT.
//! - Only the config ([`JwtConfig`]) decides how a JWT is verified: the token chooses neither its
//!   algorithm nor the source of its key, and it must expire.
//! - A verified token is cached by its SHA-256 until it expires or its issuer withdraws a
//!   key, so that its signature is checked once and not on each call.
//! - Only a service key may act for another account ([`ACCOUNT_HEADER`]).
//!
//! Identification needs neither the ledger nor the network, except for the JWKS of an issuer. The JWKS is fetched in
//! the background ([`Identifier::run`]). If none of its keys made a token's signature, it is also fetched at once: at
//! most a few times in half a minute, and once for each client.
//!
//! Browsers cannot set headers on a WebSocket. A credential in a query string would end up in
//! logs, so it is not read; such a page opens its socket through its own backend.

mod cache;
mod check;
mod config;
mod credential;
mod entry;
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
