//! Reads a request's target and its framing. A head that two servers could read differently is
//! refused.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Version};

use super::client::Client;
use super::hop;
use crate::app::refuse_path;
use crate::price::CanonicalPath;
use crate::problem::{Problem, texts};

/// A request's target.
#[derive(Debug)]
pub(super) struct Target {
    /// The path, which is priced and forwarded.
    pub path: CanonicalPath,
    /// The query with its `?`, as it was sent; empty if there is none.
    pub query: String,
    /// The headers that the `connection` header names. They are not forwarded.
    pub nominated: Vec<HeaderName>,
}

/// Reads the target of a request, and checks its framing. Refuses an ambiguous head.
pub(super) fn read(client: &Client, max_header_bytes: usize) -> Result<Target, Problem> {
    check_framing(client, max_header_bytes)?;
    let head = client.head();
    let nominated = hop::nominated(&head.headers)?;
    let raw = head.raw_path();
    let raw = if raw.starts_with(b"/") { raw } else { own_authority(client, raw)? };
    let (path, query) = match raw.iter().position(|b| *b == b'?') {
        Some(mark) => raw.split_at(mark),
        None => (raw, &raw[raw.len()..]),
    };
    let path = CanonicalPath::parse(path).map_err(refuse_path)?;
    let query = str::from_utf8(query)
        .ok()
        .filter(|query| is_plain(query))
        .ok_or_else(|| Problem::bad_request(texts::QUERY_NOT_ENCODED))?;
    Ok(Target { path, query: query.to_owned(), nominated })
}

fn is_plain(query: &str) -> bool {
    query.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// The path of an absolute-form target (`GET http://host/path`). Its host must be the one in the
/// `host` header.
fn own_authority<'a>(client: &Client, raw: &'a [u8]) -> Result<&'a [u8], Problem> {
    let ambiguous = || Problem::bad_request(texts::NOT_ON_THIS_HOST);
    let rest = raw
        .strip_prefix(b"http://")
        .or_else(|| raw.strip_prefix(b"https://"))
        .ok_or_else(ambiguous)?;
    let slash = rest.iter().position(|b| *b == b'/').ok_or_else(ambiguous)?;
    let (authority, path) = rest.split_at(slash);
    let host = client.head().headers.get(HOST).map(|host| host.as_bytes());
    let same = host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
    if same { Ok(path) } else { Err(ambiguous()) }
}

/// Refuses a head that is too large, and a body whose end is ambiguous. If the upstream saw another
/// end of the request than Farebox does, it could take a part of the body for a second request,
/// which would not be priced.
fn check_framing(client: &Client, max_header_bytes: usize) -> Result<(), Problem> {
    let headers = &client.head().headers;
    // Pingora accepts several lengths if they are equal. They are refused here, because a sender
    // may add them up.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some_and(|length| !is_number(length)) || lengths.next().is_some() {
        return Err(Problem::bad_request(texts::BAD_CONTENT_LENGTH));
    }
    match headers.get(HOST) {
        None if client.head().version == Version::HTTP_11 => {
            return Err(Problem::bad_request(texts::NO_HOST));
        }
        // The host is forwarded to the upstream, so it must be valid.
        Some(host) if !is_host(host.as_bytes()) => {
            return Err(Problem::bad_request(texts::BAD_HOST));
        }
        _ => {}
    }
    // HTTP/2 has one framing only, and h2 limits its heads (`connection.rs`).
    let Some(raw) = client.raw_head() else { return Ok(()) };
    if raw.len() > max_header_bytes {
        return Err(Problem::head_too_large(max_header_bytes));
    }
    // If a head has both framing headers, Pingora keeps only one of them. So they are counted in
    // the raw bytes.
    let sent =
        |name: &str| raw.split(|b| *b == b'\n').filter(|line| names(line, name.as_bytes())).count();
    let Some(coding) = headers.get(TRANSFER_ENCODING) else { return Ok(()) };
    if sent(CONTENT_LENGTH.as_str()) > 0 || sent(TRANSFER_ENCODING.as_str()) > 1 {
        return Err(Problem::bad_request(texts::TWO_FRAMINGS));
    }
    // The body is forwarded as chunked, so any other coding would be lost.
    if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return Err(Problem::bad_request(texts::BAD_TRANSFER_CODING));
    }
    Ok(())
}

/// Whether the value is a host with or without a port (RFC 3986, 3.2.2 and 3.2.3). An empty host is
/// allowed.
fn is_host(host: &[u8]) -> bool {
    let is_end = |rest: &[u8]| match rest {
        [] => true,
        [colon, port @ ..] => *colon == b':' && port.iter().all(u8::is_ascii_digit),
    };
    if let [b'[', rest @ ..] = host {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let (address, rest) = rest.split_at(end);
        let is_of_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
        return !address.is_empty() && address.iter().all(is_of_address) && is_end(&rest[1..]);
    }
    let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    let (name, rest) = host.split_at(end);
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    name.iter().all(is_of_name) && is_end(rest)
}

/// Whether a line of the head is a header with this name.
fn names(line: &[u8], name: &[u8]) -> bool {
    let field = line.split(|b| *b == b':').next().unwrap_or_default();
    field.len() < line.len() && field.trim_ascii().eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for good in [
            "",
            "shop",
            "shop.example",
            "Shop.Example:80",
            "shop_1",
            "a-b",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:443",
            "[::ffff:192.0.2.1]",
            "shop:",
            "xn--bcher-kva.example",
            "a%20b",
        ] {
            assert!(is_host(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "a b",
            "shop/path",
            "shop?a",
            "shop#a",
            "user@shop",
            "shop:80:80",
            "shop:eighty",
            "[::1",
            "::1",
            "[]",
            "[::1]80",
            "[::1%25eth0]",
            "shop\\path",
            "<shop>",
            "\"shop\"",
            "sh\top",
            "caf\u{e9}",
            "a,b c",
            "shop:-1",
            "{shop}",
            "sh|op",
            "sh^op",
            "sh`op",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad:?}");
        }
    }
}
