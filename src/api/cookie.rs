//! The account page's cookie: a place where a credential may stand, for own routes only.
//!
//! It carries the credential itself. There is no second secret and no state: it means the same to
//! every gateway, and ends at once with the token or the key that is in it.
//!
//! A browser sends cookies whoever made the request, so where it came from counts. Browsers say so
//! in `sec-fetch-site`, or else in `origin`; a page can forge neither.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::identify::{Credentials, SESSION_COOKIE};
use crate::problem::{Problem, Text};

/// The largest credential that fits: browsers drop a cookie beyond 4096 bytes.
const MAX_BYTES: usize = 3500;

/// What cannot stand in a cookie (RFC 6265, 4.1.1). Tokens and our own keys have none of it.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\').add(b'%');

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who had a request made, as its browser tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// A page of this very origin.
    OwnPage,
    /// The person: an address typed, a bookmark.
    Person,
    /// Another site's page, or another origin's of this site.
    Elsewhere,
    /// No browser, or one that does not tell.
    Unknown,
}

impl Sender {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
            Some(b"same-origin") => Self::OwnPage,
            Some(b"none") => Self::Person,
            Some(_) => Self::Elsewhere,
            // Browsers say it to secure origins only, and older ones never.
            None => match headers.get(header::ORIGIN) {
                Some(origin) if is_host(origin, headers) => Self::OwnPage,
                Some(_) => Self::Elsewhere,
                None => Self::Unknown,
            },
        }
    }
}

/// Whether an origin is the host that was asked.
fn is_host(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| origin.is_some_and(|(_, ours)| ours.eq_ignore_ascii_case(host)))
}

/// The credential of a request's cookie; none where another site's page had it sent.
///
/// # Errors
/// 403 for what would change something and was not sent by our own page.
pub(super) fn read(method: &Method, headers: &HeaderMap) -> Result<Credentials, Problem> {
    let mut credentials = Credentials::default();
    for value in values(headers) {
        // Two that differ are refused like two that differ in headers.
        credentials.add(&percent_decode_str(value).decode_utf8_lossy());
    }
    if credentials.is_empty() {
        return Ok(credentials);
    }
    match Sender::of(headers) {
        Sender::OwnPage => Ok(credentials),
        _ if !method.is_safe() => Err(not_our_page()),
        Sender::Person | Sender::Unknown => Ok(credentials),
        Sender::Elsewhere => Ok(Credentials::default()),
    }
}

/// Lets pass what a page of ours sent.
pub(super) fn require_own_page(headers: &HeaderMap) -> Result<(), Problem> {
    if Sender::of(headers) == Sender::OwnPage { Ok(()) } else { Err(not_our_page()) }
}

fn values(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == SESSION_COOKIE).then_some(value)
    })
}

/// `set-cookie` for a credential that is good for `seconds`.
///
/// # Errors
/// 400 for a credential that is too long for a cookie.
pub(super) fn set(
    credential: &str,
    seconds: u64,
    path: &str,
    headers: &HeaderMap,
) -> Result<HeaderValue, Problem> {
    let value: Cow<'_, str> = utf8_percent_encode(credential, ESCAPED).into();
    if value.len() > MAX_BYTES {
        return Err(Problem::bad_request(Text::new(
            format!(
                "This token is too long for the account page's cookie: {} of at most {MAX_BYTES} \
                 bytes. Have the app issue a smaller one for it, without groups and permissions.",
                value.len()
            ),
            format!(
                "Ce jeton est trop long pour le cookie de la page du compte : {} octets sur \
                 {MAX_BYTES} au plus. Faites émettre par l'application un jeton plus petit, sans \
                 groupes ni permissions.",
                value.len()
            ),
        )));
    }
    attributes(&value, seconds, path, headers)
}

/// `set-cookie` that forgets it.
pub(super) fn clear(path: &str, headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    attributes("", 0, path, headers)
}

fn attributes(
    value: &str,
    seconds: u64,
    path: &str,
    headers: &HeaderMap,
) -> Result<HeaderValue, Problem> {
    // On this very machine nobody listens in, and browsers differ in what they take without TLS.
    let secure = if is_loopback(headers) { "" } else { "; Secure" };
    let cookie = format!(
        "{SESSION_COOKIE}={value}; HttpOnly; SameSite=Strict; Path={path}; Max-Age={seconds}{secure}"
    );
    let cookie = HeaderValue::from_str(&cookie).map(|mut cookie| {
        cookie.set_sensitive(true);
        cookie
    });
    // Whatever is no visible ASCII is escaped.
    cookie.map_err(|_| Problem::unreadable_request())
}

fn is_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn not_our_page() -> Problem {
    Problem::forbidden(Text::new(
        "A browser's session can be used from the account page itself only. Other pages send \
         their own `Authorization: Bearer …`.",
        "La session d'un navigateur ne sert qu'à la page du compte elle-même. Les autres pages \
         envoient leur propre `Authorization: Bearer …`.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_sender_is_whom_the_browser_names() {
        for (sender, lines) in [
            (Sender::OwnPage, &[("sec-fetch-site", "same-origin")][..]),
            (Sender::Person, &[("sec-fetch-site", "none")]),
            (Sender::Elsewhere, &[("sec-fetch-site", "same-site")]),
            (Sender::Elsewhere, &[("sec-fetch-site", "cross-site")]),
            (Sender::Elsewhere, &[("sec-fetch-site", "")]),
            (Sender::Unknown, &[("host", "a.example")]),
            (Sender::OwnPage, &[("host", "a.example"), ("origin", "https://A.example")]),
            (Sender::OwnPage, &[("host", "a.example:81"), ("origin", "http://a.example:81")]),
            (Sender::Elsewhere, &[("host", "a.example"), ("origin", "https://a.example:81")]),
            (Sender::Elsewhere, &[("host", "a.example"), ("origin", "https://b.a.example")]),
            (Sender::Elsewhere, &[("host", "a.example"), ("origin", "null")]),
            (Sender::Elsewhere, &[("origin", "https://a.example")]),
            // What the browser says of the site comes first.
            (
                Sender::Elsewhere,
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("host", "a.example"),
                    ("origin", "https://a.example"),
                ],
            ),
        ] {
            assert_eq!(Sender::of(&headers(lines)), sender, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_is_secure_but_on_this_machine() {
        for (host, here) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("app.localhost:1", true),
            ("127.0.0.1:8080", true),
            ("127.9.9.9", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1:8080", false),
            ("", false),
        ] {
            let cookie = set("x", 9, "/credits", &headers(&[("host", host)])).unwrap();
            assert_eq!(!cookie.to_str().unwrap().contains("; Secure"), here, "{host}");
        }
    }

    #[test]
    fn what_was_set_is_read_back() {
        for credential in ["fb_abc", "a.b-c_d", r#"odd";,\%20 key"#, "sk-1"] {
            let cookie = set(credential, 9, "/credits", &HeaderMap::new()).unwrap();
            let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            let sent = headers(&[("cookie", &format!("other=1; {pair}; last=2"))]);
            let read = read(&Method::GET, &sent).unwrap();
            let mut expected = Credentials::default();
            expected.add(credential);
            assert_eq!(read.headers(), expected.headers(), "{pair}");
        }
        assert!(set(&"x".repeat(MAX_BYTES + 1), 9, "/credits", &HeaderMap::new()).is_err());
    }
}
