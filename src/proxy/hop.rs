//! Headers that belong to one connection and are not forwarded (RFC 9110, 7.6.1).

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, header};
use pingora_http::RequestHeader;

use crate::problem::{Problem, texts};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The most headers that a request may name in `connection`.
const MAX_NOMINATED: usize = 10;

/// Headers about the client's own connection, and headers that make sense only on it.
const OF_REQUESTS: [HeaderName; 9] = [
    CONNECTION,
    UPGRADE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    HeaderName::from_static("http2-settings"),
];

/// Headers about the upstream's own connection.
const OF_ANSWERS: [HeaderName; 5] =
    [CONNECTION, header::PROXY_AUTHENTICATE, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION];

/// Headers that a `connection` header must not name: upstreams rely on them.
const PROTECTED: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// Whether a request header belongs to the client's connection.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    OF_REQUESTS.contains(name)
}

/// The options in all `connection` headers of a message.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(CONNECTION).iter();
    let options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Whether any of a message's `connection` headers says that the connection ends after it.
pub(super) fn asks_to_close(headers: &HeaderMap) -> bool {
    options(headers).any(|option| option.eq_ignore_ascii_case(b"close"))
}

fn is_framing(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING
}

/// The headers that a request's `connection` names in addition to the usual ones. They are not
/// forwarded. Framing headers are left out, because Farebox sets the framing anew.
///
/// # Errors
/// 400 if `connection` lists more than [`MAX_NOMINATED`] options, an invalid name or a protected
/// one.
pub(super) fn nominated(headers: &HeaderMap) -> Result<Vec<HeaderName>, Problem> {
    let mut names = Vec::new();
    for (count, option) in options(headers).enumerate() {
        if option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        let name = HeaderName::from_bytes(option).ok().filter(|_| option.iter().all(is_tchar));
        let name = name.filter(|name| !PROTECTED.contains(&name.as_str()));
        let Some(name) = name.filter(|_| count < MAX_NOMINATED) else {
            return Err(Problem::bad_request(texts::BAD_CONNECTION_HEADER));
        };
        if !is_framing(&name) && !is_of_connection(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// True for a character that may stand in a token (RFC 9110, 5.6.2).
fn is_tchar(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// Removes an `upgrade` header that the `connection` header does not name. A server must ignore
/// such a header (RFC 9110, 7.8), but Pingora would follow it.
pub(super) fn drop_unnamed_upgrade(head: &mut RequestHeader) {
    if head.headers.contains_key(UPGRADE)
        && !options(&head.headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
    {
        head.remove_header(&UPGRADE);
    }
}

/// Whether a request asks for a WebSocket and for no other protocol.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let is_websocket =
        upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket && upgrades.next().is_none()
}

/// The headers of an answer that belong to the upstream's connection: the usual ones and those that
/// its `connection` header names.
pub(super) fn of_answer(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names: Vec<HeaderName> =
        OF_ANSWERS.iter().filter(|name| headers.contains_key(*name)).cloned().collect();
    if headers.contains_key(CONNECTION) {
        let nominated = options(headers).filter_map(|name| HeaderName::from_bytes(name).ok());
        names.extend(nominated.filter(|name| !is_framing(name)));
    }
    names
}

/// How long the upstream keeps an idle connection, in seconds, if its answer tells (`keep-alive:
/// timeout=5`).
pub(super) fn keep_alive_secs(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse().ok())?
    })
}

/// The host of a request. An HTTP/2 request has it in its target (RFC 9113, 8.3.1).
pub(super) fn host(head: &RequestHeader) -> Option<http::HeaderValue> {
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let authority = authority.and_then(|authority| authority.parse().ok());
    authority.or_else(|| head.headers.get(HOST).cloned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn names(lines: &[(&str, &str)]) -> Result<Vec<String>, u16> {
        let found = nominated(&headers(lines)).map_err(|problem| problem.status.as_u16())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_the_connection_header_names_goes_no_further() {
        assert_eq!(names(&[]), Ok(vec![]));
        assert_eq!(names(&[("connection", "keep-alive, Upgrade, close,, ")]), Ok(vec![]));
        let two = [("connection", "X-One , te"), ("connection", "x-two")];
        assert_eq!(names(&two), Ok(vec!["x-one".to_owned(), "x-two".to_owned()]));
        assert_eq!(names(&[("connection", "content-length, transfer-encoding")]), Ok(vec![]));
    }

    #[test]
    fn ten_headers_can_be_nominated_and_no_more() {
        let listed = |count: usize| (0..count).map(|n| format!("x-{n}")).collect::<Vec<_>>();
        assert_eq!(names(&[("connection", &listed(10).join(","))]), Ok(listed(10)));
        assert_eq!(names(&[("connection", &listed(11).join(","))]), Err(400));
    }

    #[test]
    fn what_is_protected_or_no_name_cannot_be_nominated() {
        for option in [
            "host",
            "Host",
            "X-Forwarded-For",
            "x-forwarded-proto",
            ":authority",
            "\"x\"",
            "a b",
            "é",
        ] {
            assert_eq!(names(&[("connection", option)]), Err(400), "{option}");
        }
    }

    #[test]
    fn an_upgrade_counts_only_where_the_connection_header_names_it() {
        for (connection, stays) in [
            ("upgrade", true),
            ("keep-alive, UPGRADE", true),
            ("keep-alive", false),
            ("upgraded", false),
        ] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.insert_header(CONNECTION, connection).unwrap();
            head.insert_header(UPGRADE, "websocket").unwrap();
            drop_unnamed_upgrade(&mut head);
            assert_eq!(head.headers.contains_key(UPGRADE), stays, "{connection}");
        }
    }

    #[test]
    fn only_one_websocket_is_one() {
        assert!(is_websocket(&headers(&[("upgrade", "WebSocket")])));
        for other in [
            &[][..],
            &[("upgrade", "h2c")],
            &[("upgrade", "websocket, h2c")],
            &[("upgrade", "websocket"), ("upgrade", "h2c")],
        ] {
            assert!(!is_websocket(&headers(other)), "{other:?}");
        }
    }

    #[test]
    fn an_upstream_says_how_long_it_keeps_a_connection() {
        for (value, secs) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout = 7", Some(7)),
            ("max=100", None),
            ("timeout=soon", None),
            ("", None),
        ] {
            assert_eq!(keep_alive_secs(&headers(&[("keep-alive", value)])), secs, "{value}");
        }
        assert_eq!(keep_alive_secs(&HeaderMap::new()), None);
    }

    #[test]
    fn what_an_answer_says_of_its_connection_is_found() {
        let answer = headers(&[
            ("connection", "close, x-hop, content-length"),
            ("keep-alive", "timeout=5"),
            ("content-length", "2"),
            ("x-hop", "1"),
            ("x-end", "2"),
        ]);
        let mut found: Vec<_> = of_answer(&answer).iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(found, ["close", "connection", "keep-alive", "x-hop"]);
    }

    #[test]
    fn the_host_of_http_2_is_in_the_target() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        assert_eq!(host(&head), None);
        head.insert_header(HOST, "header.example").unwrap();
        assert_eq!(host(&head).unwrap(), "header.example");
        head.set_uri("https://target.example/".parse().unwrap());
        assert_eq!(host(&head).unwrap(), "target.example");
    }
}
