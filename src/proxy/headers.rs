//! Sets the headers of the forwarded request and of the answer.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use pingora_error::{Error, ErrorType, OrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::call::{About, Admitted};
use super::hop;
use super::retries::IDEMPOTENCY_KEY;
use super::upstream::Upstream;
use crate::credits::{Credits, SignedCredits};
use crate::identify::{ACCOUNT_HEADER, CREDENTIAL_HEADERS, SESSION_COOKIES};
use crate::ledger::Hold;

// Names as text: Pingora copies the name of each header that is given as a `HeaderName`.
pub(super) const X_REQUEST_ID: &str = "x-request-id";
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_CREDITS_COST: &str = "x-credits-cost";
const X_CREDITS_REMAINING: &str = "x-credits-remaining";
const X_CREDITS_HELD: &str = "x-credits-held";

/// The client's limit on the cost of its call, in credits.
pub(super) const X_CREDITS_MAX: &str = "x-credits-max";
/// With this header the client asks for a report of the cost at the end of a stream.
pub(super) const X_CREDITS_REPORT: &str = "x-credits-report";

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Client headers that are not forwarded, because they could misrepresent the caller or the call.
/// Some frameworks take the path and the method from the last seven, and so would run another call
/// than the one that was priced. CGI programs see `proxy` as `HTTP_PROXY`, and would send their own
/// requests through that proxy.
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

/// Beginnings of further names that are dropped for the same reason.
const DROPPED_PREFIXES: [&str; 3] = ["x-farebox-", "x-credits-", "x-forwarded-"];

/// Beginnings of the names that only Farebox may use.
const OWN_PREFIXES: [&str; 2] = ["x-farebox-", "x-credits-"];

/// Whether all upstreams read this name in the same way. CGI, WSGI, Rack and PHP read
/// `x_farebox_account` as `x-farebox-account` (RFC 3875, 4.1.18); some of them do so with
/// `x.farebox.account` and `x~farebox~account` too.
fn is_plain(name: &HeaderName) -> bool {
    name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_ours(name: &HeaderName) -> bool {
    OWN_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Whether a client's header is not forwarded.
fn is_dropped(name: &HeaderName, upstream: &Upstream) -> bool {
    !is_plain(name)
        || hop::is_of_connection(name)
        || DROPPED.contains(&name.as_str())
        || DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
        || !upstream.forward_authorization && CREDENTIAL_HEADERS.contains(name)
}

/// How the request is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Onward {
    /// Whether the request has a body.
    pub has_body: bool,
    /// Whether the client's connection is encrypted.
    pub is_tls: bool,
    /// Whether the client asks for a WebSocket and the route allows it.
    pub is_websocket: bool,
    /// Whether the client's idempotency key is forwarded. On priced routes Farebox reads the key
    /// itself and does not forward it: an upstream that also read keys could mistake two accounts'
    /// equal keys for one.
    pub passes_key: bool,
}

/// Turns the client's request head into the one that is sent upstream, over HTTP/1.1. Farebox's own
/// headers tell the upstream who calls.
pub(super) fn towards_upstream(
    head: &mut RequestHeader,
    call: &Admitted,
    about: &About,
    onward: Onward,
) -> Result<()> {
    let upstream = &call.destination()?.upstream;
    let host = hop::host(head);
    let goes_no_further = |name: &&HeaderName| {
        is_dropped(name, upstream)
            || call.nominated.contains(name)
            || !onward.passes_key && *name == IDEMPOTENCY_KEY
    };
    let dropped: Vec<HeaderName> = head.headers.keys().filter(goes_no_further).cloned().collect();
    for name in &dropped {
        head.remove_header(name);
    }
    drop_session(head)?;
    frame(head, onward.has_body)?;
    if onward.is_websocket {
        head.insert_header(header::CONNECTION, HeaderValue::from_static("Upgrade"))?;
        head.insert_header(header::UPGRADE, HeaderValue::from_static("websocket"))?;
    }
    head.set_version(Version::HTTP_11);
    let target = [call.path.as_str(), &call.query].concat();
    if head.raw_path() != target.as_bytes() || head.uri.authority().is_some() {
        head.set_raw_path(target.as_bytes())?;
    }
    head.insert_header(header::HOST, upstream.authority.clone())?;
    for (name, value) in &upstream.headers {
        head.insert_header(name.clone(), value.clone())?;
    }
    head.insert_header(ACCOUNT_HEADER.as_str(), call.account.as_str())?;
    head.insert_header(X_REQUEST_ID, about.id.as_str())?;
    if let Some(client) = &about.client {
        head.insert_header(X_FORWARDED_FOR, client.text.clone())?;
    }
    let scheme = if onward.is_tls { "https" } else { "http" };
    head.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static(scheme))?;
    if let Some(host) = host {
        head.insert_header(X_FORWARDED_HOST, host)?;
    }
    Ok(())
}

/// Sets the framing of the request's body: by its length if the client declared one, else chunked.
fn frame(head: &mut RequestHeader, has_body: bool) -> Result<()> {
    let is_chunked = head.remove_header(&TRANSFER_ENCODING).is_some();
    if is_chunked || has_body && !head.headers.contains_key(CONTENT_LENGTH) {
        head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    Ok(())
}

/// Removes the account page's cookie: it is a credential, and browsers send it to every route. The
/// other cookies are joined into one line, as HTTP/1.1 requires (RFC 9113, 8.2.3).
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

/// Headers that ask for less than a whole answer: for a part of it, for its changes, or for no body
/// if the client already has the answer (RFC 9110, 13.1 and 14.2; RFC 3229). Such an answer may
/// lack the usage.
const ASKING_FOR_LESS: [HeaderName; 7] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    HeaderName::from_static("a-im"),
];

/// Frames a request whose whole body is in memory. The body is declared as JSON, because Farebox
/// read the price from JSON and the upstream must not parse the body as another format. The request
/// asks for a whole and unencoded answer, so that Farebox can read the usage.
pub(super) fn frame_metered(head: &mut RequestHeader, body_bytes: usize) -> Result<()> {
    head.remove_header(&TRANSFER_ENCODING);
    head.remove_header(&header::CONTENT_ENCODING);
    for name in &ASKING_FOR_LESS {
        head.remove_header(name);
    }
    head.insert_header(CONTENT_LENGTH, body_bytes)?;
    let is_json = |value: &HeaderValue| {
        value.as_bytes().eq_ignore_ascii_case(JSON.as_bytes())
            || value.as_bytes().eq_ignore_ascii_case(b"application/json; charset=utf-8")
    };
    if !head.headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        head.insert_header(header::CONTENT_TYPE, JSON)?;
    }
    head.insert_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

/// The credits that are shown in the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The call is not charged, or not for this answer.
    Nothing,
    /// The charge, and the credits that are available after it.
    Charged { cost: Credits, remaining: Option<SignedCredits> },
    /// The charge is not known yet. These credits are held for it.
    Held(Credits),
}

impl Told {
    /// The credits for the head of an answer with a fixed price.
    pub fn fixed(hold: Option<&Hold>, is_charged: bool) -> Self {
        match hold.filter(|_| is_charged) {
            Some(hold) => {
                Self::Charged { cost: hold.amount(), remaining: Some(hold.after().available()) }
            }
            None => Self::Nothing,
        }
    }
}

/// Adds Farebox's headers to the upstream's answer. Headers of the upstream under Farebox's names
/// are dropped.
///
/// # Errors
/// The answer has a framing that clients may read in two ways. The upstream is at fault.
pub(super) fn towards_client(head: &mut ResponseHeader, about: &About, told: Told) -> Result<()> {
    drop_ours(head);
    one_framing(head)?;
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        for name in hop::of_answer(&head.headers) {
            head.remove_header(&name);
        }
    }
    head.set_version(Version::HTTP_11);
    head.insert_header(X_REQUEST_ID, about.id.as_str())?;
    match told {
        Told::Nothing => {}
        Told::Charged { cost, remaining } => {
            head.insert_header(X_CREDITS_COST, cost.to_string())?;
            if let Some(remaining) = remaining {
                head.insert_header(X_CREDITS_REMAINING, remaining.to_string())?;
            }
        }
        Told::Held(held) => head.insert_header(X_CREDITS_HELD, held.to_string())?,
    }
    Ok(())
}

/// Reduces the framing of an answer to one kind. Farebox asks for no transfer coding but `chunked`
/// (RFC 9112, 6.1). With another one, the client and Farebox could disagree on where the body ends.
/// A length that is declared several times, which Pingora has found to be equal, is declared once
/// (RFC 9110, 8.6).
pub(super) fn one_framing(head: &mut ResponseHeader) -> Result<()> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some()
            || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        let unasked = "a transfer coding that nobody asked for";
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, unasked).into_up());
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let Some(first) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() || first.contains(&b',') {
        let once = first.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        let once =
            HeaderValue::from_bytes(once).or_err(ErrorType::InvalidHTTPHeader, "a length")?;
        head.insert_header(CONTENT_LENGTH, once)?;
    }
    Ok(())
}

/// Makes an answer chunked if it has a body and declares no end for it.
pub(super) fn frame_answer(head: &mut ResponseHeader) -> Result<()> {
    let is_framed =
        head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if is_framed || head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))
}

/// Drops the upstream's headers under Farebox's names, and the framing of an answer whose status
/// rules out a body. A client that relied on that framing would take the next answer for the body
/// (RFC 9110, 8.6).
pub(super) fn drop_ours(head: &mut ResponseHeader) {
    if head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        head.remove_header(&CONTENT_LENGTH);
        head.remove_header(&TRANSFER_ENCODING);
    }
    let theirs: Vec<HeaderName> =
        head.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in &theirs {
        head.remove_header(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(lines: &[(&'static str, &str)], has_body: bool) -> [Option<String>; 2] {
        let mut head = RequestHeader::build("POST", b"/", None).unwrap();
        for (name, value) in lines {
            head.append_header(*name, *value).unwrap();
        }
        frame(&mut head, has_body).unwrap();
        [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| {
            let value = head.headers.get(name)?;
            Some(value.to_str().unwrap().to_owned())
        })
    }

    #[test]
    fn a_body_has_exactly_one_framing() {
        let length = Some("4".to_owned());
        let chunked = Some("chunked".to_owned());
        assert_eq!(framing(&[], false), [None, None]);
        assert_eq!(framing(&[], true), [None, chunked.clone()], "an HTTP/2 body without a length");
        assert_eq!(framing(&[("content-length", "4")], true), [length, None]);
        assert_eq!(framing(&[("content-length", "0")], false), [Some("0".to_owned()), None]);
        assert_eq!(framing(&[("transfer-encoding", "CHUNKED")], true), [None, chunked.clone()]);
        assert_eq!(framing(&[("transfer-encoding", "chunked")], false), [None, chunked]);
    }

    #[test]
    fn an_answer_without_an_end_of_its_own_is_sent_in_chunks() {
        let framed = |status: u16, name: Option<&'static str>| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            if let Some(name) = name {
                head.insert_header(name, "2").unwrap();
            }
            frame_answer(&mut head).unwrap();
            head.headers.contains_key(TRANSFER_ENCODING)
        };
        assert!(framed(200, None));
        assert!(!framed(200, Some("content-length")));
        assert!(framed(200, Some("transfer-encoding")), "it stays");
        assert!(!framed(101, None), "a tunnel has no chunks");
    }
}
