//! Headers towards the upstream and towards the client.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::call::Call;
use super::upstream::Upstream;
use crate::identify::{ACCOUNT_HEADER, CREDENTIAL_HEADERS};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_CREDITS_COST: HeaderName = HeaderName::from_static("x-credits-cost");
const X_CREDITS_REMAINING: HeaderName = HeaderName::from_static("x-credits-remaining");

/// Headers by which a client could have its call read as another one, or claim to be somebody.
const DROPPED: [&str; 9] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Names that only Farebox speaks under.
const OWN_PREFIXES: [&str; 2] = ["x-farebox-", "x-credits-"];

fn is_ours(name: &HeaderName) -> bool {
    OWN_PREFIXES.iter().any(|prefix| starts_like(name.as_str(), prefix))
}

/// A spelling with underscores of a header that is dropped.
fn is_dropped_in_disguise(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.contains('_') && DROPPED.iter().any(|d| d.len() == name.len() && starts_like(name, d))
}

/// Whether an upstream may read `name` as something that starts with `prefix`: CGI, WSGI, Rack
/// and PHP do not tell `_` from `-` (RFC 3875, 4.1.18).
fn starts_like(name: &str, prefix: &str) -> bool {
    let like = |(n, p): (u8, u8)| n == p || (n == b'_' && p == b'-');
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(like)
}

/// The head that goes upstream: the client's, with our word on who calls.
pub(super) fn towards_upstream(
    session: &Session,
    head: &mut RequestHeader,
    call: &Call,
    upstream: &Upstream,
) -> Result<()> {
    let theirs: Vec<HeaderName> = (head.headers.keys())
        .filter(|name| is_ours(name) || is_dropped_in_disguise(name))
        .cloned()
        .collect();
    for name in &theirs {
        head.remove_header(name);
    }
    let host = head.headers.get(header::HOST).cloned();
    for name in DROPPED {
        head.remove_header(name);
    }
    if !upstream.forward_authorization {
        for name in &CREDENTIAL_HEADERS {
            head.remove_header(name);
        }
    }
    head.insert_header(header::HOST, upstream.authority.clone())?;
    for (name, value) in &upstream.headers {
        head.insert_header(name.clone(), value.clone())?;
    }
    if let Some(account) = &call.account {
        head.insert_header(ACCOUNT_HEADER.clone(), account.as_str())?;
    }
    head.insert_header(X_REQUEST_ID, call.id.as_str())?;
    if let Some(client) = call.client {
        head.insert_header("x-forwarded-for", client.to_string())?;
    }
    let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    head.insert_header("x-forwarded-proto", if tls { "https" } else { "http" })?;
    if let Some(host) = host {
        head.insert_header("x-forwarded-host", host)?;
    }
    Ok(())
}

/// Our words on the upstream's answer. What the upstream says under our names is dropped.
pub(super) fn towards_client(head: &mut ResponseHeader, call: &Call) -> Result<()> {
    let theirs: Vec<HeaderName> =
        head.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in &theirs {
        head.remove_header(name);
    }
    head.insert_header(X_REQUEST_ID, call.id.as_str())?;
    let charged = call.route().is_some_and(|route| route.rule.charges_for(head.status.as_u16()));
    if let Some(hold) = call.hold.as_ref().filter(|_| charged) {
        head.insert_header(X_CREDITS_COST, hold.amount().to_string())?;
        head.insert_header(X_CREDITS_REMAINING, hold.after().available().to_string())?;
    }
    Ok(())
}

/// A header of the request, if it is one line of text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok())
}
