//! The account page's cookie, which holds a credential. Only Farebox's own routes accept it.
//!
//! The cookie is the credential itself. So there is no second secret, and no session needs to be
//! stored: every gateway accepts the cookie until its token or key ends.
//!
//! A browser sends cookies no matter which page made the request. So the origin of the page is
//! checked. Browsers name it in `sec-fetch-site` or else in `origin`, and a page can forge neither.
//!
//! A cookie does not tell which host set it. Other hosts of the same domain can set cookies for the
//! whole domain, unless the cookie's name begins with `__Host-`: browsers accept such a cookie only
//! from this very host, over https. So a page over https uses such a cookie, and its requests
//! ignore any other.
//!
//! Only the page knows its scheme, since a proxy in front may end TLS and rewrite `host`. The page
//! sends the scheme in [`PAGE_SCHEME`]. Another site's page cannot send that header without a CORS
//! preflight.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::identify::{Credentials, SESSION_COOKIES};
use crate::problem::{Problem, texts};

/// The longest credential, in bytes, that fits into a cookie: browsers drop cookies above 4096
/// bytes.
const MAX_BYTES: usize = 3500;

/// The characters that are escaped, because a cookie must not contain them (RFC 6265, 4.1.1).
/// Tokens and Farebox's own keys have none of them.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\').add(b'%');

/// A header in which the account page tells its own scheme, `http` or `https`. Without this header,
/// or with any other value, the page counts as loaded over https.
const PAGE_SCHEME: HeaderName = HeaderName::from_static("x-farebox-page");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The sender of a request, according to its browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// A page of this origin.
    OwnPage,
    /// The user, who typed the address or used a bookmark.
    Person,
    /// A page of another site, or of another origin of this site.
    Elsewhere,
    /// Not a browser, or one that sends neither header.
    Unknown,
}

impl Sender {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
            Some(b"same-origin") => Self::OwnPage,
            Some(b"none") => Self::Person,
            Some(_) => Self::Elsewhere,
            // Browsers send `sec-fetch-site` only to secure origins, and older browsers never send
            // it.
            None => match headers.get(header::ORIGIN) {
                Some(origin) if is_host(origin, headers) => Self::OwnPage,
                Some(_) => Self::Elsewhere,
                None => Self::Unknown,
            },
        }
    }
}

/// True if an origin has the same host as the one that the request was sent to.
fn is_host(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| origin.is_some_and(|(_, ours)| ours.eq_ignore_ascii_case(host)))
}

/// The credential in a request's cookie. Empty if another site's page sent the request.
///
/// # Errors
/// 403 for a request that changes something and did not come from the account page.
pub(super) fn read(method: &Method, headers: &HeaderMap) -> Result<Credentials, Problem> {
    let [of_https, of_http] = SESSION_COOKIES;
    let mut credentials = credentials_in(headers, of_https);
    if credentials.is_empty() && is_http_page(headers) {
        credentials = credentials_in(headers, of_http);
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

/// Accepts only requests that the account page sent.
pub(super) fn require_own_page(headers: &HeaderMap) -> Result<(), Problem> {
    if Sender::of(headers) == Sender::OwnPage { Ok(()) } else { Err(not_our_page()) }
}

/// The credentials in all cookies of this name. If they differ, the request is refused later, like
/// a request whose headers have different credentials.
fn credentials_in(headers: &HeaderMap, cookie: &str) -> Credentials {
    let mut credentials = Credentials::default();
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    for pair in lines.flat_map(|line| line.split(';')) {
        if let Some((name, value)) = pair.trim().split_once('=')
            && name == cookie
        {
            credentials.add(&percent_decode_str(value).decode_utf8_lossy());
        }
    }
    credentials
}

fn is_http_page(headers: &HeaderMap) -> bool {
    headers.get(PAGE_SCHEME).is_some_and(|scheme| scheme == "http")
}

/// The `set-cookie` header for a credential, which is valid for `seconds`.
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
        return Err(Problem::bad_request(texts::token_too_long(value.len(), MAX_BYTES)));
    }
    let [of_https, of_http] = SESSION_COOKIES;
    if is_http_page(headers) {
        cookie_line(of_http, &value, seconds, &format!("Path={path}"))
    } else {
        cookie_line(of_https, &value, seconds, "Path=/; Secure")
    }
}

/// The two `set-cookie` headers that delete the cookie under either of its names.
pub(super) fn clear(path: &str) -> Result<[HeaderValue; 2], Problem> {
    let [of_https, of_http] = SESSION_COOKIES;
    Ok([
        cookie_line(of_https, "", 0, "Path=/; Secure")?,
        cookie_line(of_http, "", 0, &format!("Path={path}"))?,
    ])
}

fn cookie_line(name: &str, value: &str, seconds: u64, scope: &str) -> Result<HeaderValue, Problem> {
    let cookie = format!("{name}={value}; HttpOnly; SameSite=Strict; Max-Age={seconds}; {scope}");
    let cookie = HeaderValue::from_str(&cookie).map(|mut cookie| {
        cookie.set_sensitive(true);
        cookie
    });
    // This cannot happen: every byte that is not visible ASCII is escaped.
    cookie.map_err(|_| Problem::unreadable_request())
}

fn not_our_page() -> Problem {
    Problem::forbidden(texts::FOREIGN_SESSION)
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
    fn the_sender_is_the_one_that_the_browser_names() {
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
            // `sec-fetch-site` takes precedence.
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

    fn sent(cookies: &str, more: &[(&'static str, &str)]) -> Credentials {
        let mut sent = headers(more);
        sent.insert("cookie", HeaderValue::from_str(cookies).unwrap());
        read(&Method::GET, &sent).unwrap()
    }

    #[test]
    fn a_cookie_is_of_this_host_over_https_unless_the_page_says_that_it_came_by_http() {
        for (lines, is_http) in [
            (&[][..], false),
            (&[("x-farebox-page", "https")], false),
            (&[("x-farebox-page", "ftp")], false),
            // This is the case behind a proxy that ends TLS and rewrites the host.
            (&[("host", "127.0.0.1:8080"), ("x-farebox-page", "https")], false),
            (&[("host", "localhost"), ("x-forwarded-proto", "http")], false),
            (&[("x-farebox-page", "http")], true),
            (&[("host", "pay.example.com"), ("x-farebox-page", "http")], true),
            (&[("x-forwarded-proto", "https"), ("x-farebox-page", "http")], true),
        ] {
            let cookie = set("x", 9, "/credits", &headers(lines)).unwrap();
            let expected = if is_http {
                "farebox_session=x; HttpOnly; SameSite=Strict; Max-Age=9; Path=/credits"
            } else {
                "__Host-farebox_session=x; HttpOnly; SameSite=Strict; Max-Age=9; Path=/; Secure"
            };
            assert_eq!(cookie, expected, "{lines:?}");
        }
    }

    #[test]
    fn a_cookie_that_another_host_of_the_domain_can_set_counts_for_pages_over_http_alone() {
        const HTTP: &[(&str, &str)] = &[("x-farebox-page", "http")];
        const HTTPS: &[(&str, &str)] = &[("x-farebox-page", "https")];
        let mut alice = Credentials::default();
        alice.add("alice");
        let ours = "__Host-farebox_session=alice";
        for (cookies, more) in [
            (format!("farebox_session=mallory; {ours}"), HTTPS),
            (format!("{ours}; farebox_session=mallory"), &[]),
            (format!("farebox_session=mallory; {ours}; farebox_session=eve"), HTTP),
            ("farebox_session=alice".to_owned(), HTTP),
        ] {
            assert_eq!(sent(&cookies, more).headers(), alice.headers(), "{cookies} {more:?}");
        }
        for more in [HTTPS, &[]] {
            assert!(sent("farebox_session=mallory", more).is_empty(), "{more:?}");
        }
    }

    #[test]
    fn a_credential_that_was_set_is_read_back() {
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
