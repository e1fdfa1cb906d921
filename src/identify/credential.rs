//! Finds the one credential among a call's headers.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::account::AccountId;
use crate::identify::Unauthenticated;

/// Every header that may carry a credential: the standard one, and those of Anthropic, Azure and
/// Google. The proxy forwards none of them unless the upstream's config asks for it.
pub static CREDENTIAL_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// The header in which a service key names the account that it acts for. From other callers it is
/// ignored.
pub static ACCOUNT_HEADER: HeaderName = HeaderName::from_static("x-farebox-account");

/// The cookies of the account page, which are read on Farebox's own routes only. The first is for pages
/// over https, and no other host of the domain can set it; the second is for pages over http. The proxy
/// removes both from forwarded requests.
pub const SESSION_COOKIES: [&str; 2] = ["__Host-farebox_session", "farebox_session"];

/// The longest credential, in bytes. Tokens with many groups reach a few KiB. A higher limit would let
/// unknown callers cause more work, for hashing and parsing.
pub(super) const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;

/// The headers that identify a caller, copied from the request. They are secrets, so this has no
/// `Debug`.
#[derive(Clone, Default)]
pub struct Credentials(HeaderMap);

impl Credentials {
    /// The credentials in a request's headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::new();
        let accounts = headers.get_all(&ACCOUNT_HEADER).iter();
        for (name, value) in sent(headers).chain(accounts.map(|value| (&ACCOUNT_HEADER, value))) {
            kept.append(name, value.clone());
        }
        Self(kept)
    }

    /// Adds a credential that does not come from these headers, as a bearer token. Text that cannot
    /// stand in a header is ignored.
    pub fn add(&mut self, credential: &str) {
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {credential}")) {
            self.0.append(AUTHORIZATION, value);
        }
    }

    /// True if there is no credential.
    pub fn is_empty(&self) -> bool {
        sent(&self.0).next().is_none()
    }

    /// The headers, for [`Identifier::identify`](crate::identify::Identifier::identify).
    pub fn headers(&self) -> &HeaderMap {
        &self.0
    }

    /// The credential itself; `None` unless there is exactly one.
    pub fn expose(&self) -> Option<&str> {
        read(&self.0).ok()
    }
}

/// Reads the call's credential. Several headers may carry it if it is the same in each.
pub(super) fn read(headers: &HeaderMap) -> Result<&str, Unauthenticated> {
    let mut found = None;
    for (name, value) in sent(headers) {
        let credential = read_one(name, value)?;
        if found.is_some_and(|other| other != credential) {
            return Err(Unauthenticated::AmbiguousCredentials);
        }
        found = Some(credential);
    }
    found.ok_or(Unauthenticated::NoCredentials)
}

/// The headers that carry a credential. An empty header counts as absent, since SDKs and scripts send
/// one when a key is not set.
fn sent(headers: &HeaderMap) -> impl Iterator<Item = (&'static HeaderName, &HeaderValue)> {
    let all = CREDENTIAL_HEADERS.iter();
    let all = all.flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
    all.filter(|(name, value)| {
        let text = value.as_bytes().trim_ascii();
        let is_bare = **name == AUTHORIZATION && text.eq_ignore_ascii_case(b"bearer");
        !text.is_empty() && !is_bare
    })
}

/// The account that a service key names, if it names one.
pub(super) fn read_account(headers: &HeaderMap) -> Result<Option<AccountId>, Unauthenticated> {
    let mut values = headers.get_all(&ACCOUNT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Unauthenticated::InvalidAccountHeader);
    }
    let account = value.to_str().ok().and_then(|text| text.parse().ok());
    account.map(Some).ok_or(Unauthenticated::InvalidAccountHeader)
}

fn read_one<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, Unauthenticated> {
    let text = value.to_str().map_err(|_| Unauthenticated::Malformed)?;
    let credential = if *name == AUTHORIZATION { bearer(text) } else { Some(text) };
    credential
        .filter(|text| (1..=MAX_CREDENTIAL_BYTES).contains(&text.len()))
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or(Unauthenticated::Malformed)
}

/// The credential after `Bearer `, in any case (RFC 9110, 11.1).
fn bearer(text: &str) -> Option<&str> {
    let (scheme, credential) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim_matches(' '))
}
