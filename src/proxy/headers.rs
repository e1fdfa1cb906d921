//! Headers towards the upstream and towards the client.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::call::Call;
use super::upstream::Upstream;
use crate::identify::{ACCOUNT_HEADER, CREDENTIAL_HEADERS, SESSION_COOKIES};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_CREDITS_COST: HeaderName = HeaderName::from_static("x-credits-cost");
const X_CREDITS_REMAINING: HeaderName = HeaderName::from_static("x-credits-remaining");

/// Headers by which a client could have its call read as another one, or claim to be somebody.
/// Some frameworks take path and method from the last seven of them, whatever was priced. CGI programs
/// would take their own proxy from the second one (`HTTP_PROXY`).
const DROPPED: [&str; 10] = [
    "forwarded",
    "proxy",
    "x-real-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// The same, by their beginnings.
const DROPPED_PREFIXES: [&str; 3] = ["x-farebox-", "x-credits-", "x-forwarded-"];

/// Names that only Farebox speaks under.
const OWN_PREFIXES: [&str; 2] = ["x-farebox-", "x-credits-"];

/// What an upstream says of its own connection.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether a name means the same to every upstream. CGI, WSGI, Rack and PHP read `x_farebox_account` as
/// they read `x-farebox-account` (RFC 3875, 4.1.18), and some of them `x.farebox.account` and
/// `x~farebox~account` too.
fn is_plain(name: &HeaderName) -> bool {
    name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_ours(name: &HeaderName) -> bool {
    OWN_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Whether a client's header goes no further.
fn is_dropped(name: &HeaderName, upstream: &Upstream) -> bool {
    !is_plain(name)
        || DROPPED.contains(&name.as_str())
        || DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
        || !upstream.forward_authorization && CREDENTIAL_HEADERS.contains(name)
}

/// The head that goes upstream: the client's, with our word on who calls.
pub(super) fn towards_upstream(
    session: &Session,
    head: &mut RequestHeader,
    call: &Call,
    upstream: &Upstream,
) -> Result<()> {
    let host = head.headers.get(header::HOST).cloned();
    let dropped: Vec<HeaderName> =
        head.headers.keys().filter(|name| is_dropped(name, upstream)).cloned().collect();
    for name in &dropped {
        head.remove_header(name);
    }
    drop_session(head)?;
    head.insert_header(header::HOST, upstream.authority.clone())?;
    for (name, value) in &upstream.headers {
        head.insert_header(name.clone(), value.clone())?;
    }
    if let Some(account) = &call.account {
        head.insert_header(ACCOUNT_HEADER.clone(), account.as_str())?;
    }
    head.insert_header(X_REQUEST_ID, call.id.as_str())?;
    if let Some(client) = call.client {
        head.insert_header(X_FORWARDED_FOR, client.to_string())?;
    }
    let tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
    let scheme = HeaderValue::from_static(if tls { "https" } else { "http" });
    head.insert_header(X_FORWARDED_PROTO, scheme)?;
    if let Some(host) = host {
        head.insert_header(X_FORWARDED_HOST, host)?;
    }
    Ok(())
}

/// Takes out the account page's cookie: it is a credential, and browsers send it to every route. What is left
/// is one line, as HTTP/1.1 has it (RFC 9113, 8.2.3).
fn drop_session(head: &mut RequestHeader) -> Result<()> {
    let is_session = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        SESSION_COOKIES.iter().any(|cookie| name.trim_ascii() == cookie.as_bytes())
    };
    let lines = || head.headers.get_all(header::COOKIE).iter();
    let pairs = || lines().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    if lines().nth(1).is_none() && !pairs().any(|pair| is_session(&pair)) {
        return Ok(());
    }
    let mut others = Vec::new();
    for pair in pairs().filter(|pair| !is_session(pair)).map(<[u8]>::trim_ascii) {
        if !pair.is_empty() {
            others.extend_from_slice(if others.is_empty() { b"" } else { b"; " });
            others.extend_from_slice(pair);
        }
    }
    head.remove_header(&header::COOKIE);
    if !others.is_empty() {
        head.insert_header(header::COOKIE, others)?;
    }
    Ok(())
}

/// Our words on the upstream's answer. What the upstream says under our names is dropped.
pub(super) fn towards_client(head: &mut ResponseHeader, call: &Call) -> Result<()> {
    drop_ours(head);
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        drop_hop_by_hop(head);
    }
    head.insert_header(X_REQUEST_ID, call.id.as_str())?;
    let charged = call.route().is_some_and(|route| route.rule.charges_for(head.status.as_u16()));
    if let Some(hold) = call.hold.as_ref().filter(|_| charged) {
        head.insert_header(X_CREDITS_COST, hold.amount().to_string())?;
        head.insert_header(X_CREDITS_REMAINING, hold.after().available().to_string())?;
    }
    Ok(())
}

/// Drops what the upstream says under our names.
pub(super) fn drop_ours(head: &mut ResponseHeader) {
    let theirs: Vec<HeaderName> =
        head.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in &theirs {
        head.remove_header(name);
    }
}

/// Drops what the upstream says of its own connection (RFC 9110, 7.6.1). The framing stays: it
/// is Pingora that frames the answer anew.
fn drop_hop_by_hop(head: &mut ResponseHeader) {
    let nominated = head.headers.get_all(header::CONNECTION).iter();
    let nominated: Vec<HeaderName> = nominated
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING)
        .collect();
    for name in nominated.iter().chain(&HOP_BY_HOP) {
        head.remove_header(name);
    }
}

/// A header of the request, if it is one line of text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok())
}
