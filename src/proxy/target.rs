//! The head of a request, read one way only: its target, and its framing.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Version};

use super::client::Client;
use super::hop;
use crate::app::refuse_path;
use crate::price::CanonicalPath;
use crate::problem::{Problem, Text};

/// A request's target.
#[derive(Debug)]
pub(super) struct Target {
    /// The path that is priced and that the upstream sees.
    pub path: CanonicalPath,
    /// The query with its `?`, as it was sent; empty where there is none.
    pub query: String,
    /// Headers that the `connection` header names, and that go no further.
    pub nominated: Vec<HeaderName>,
}

/// Reads the head, or refuses what could be read in two ways.
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
    let query = str::from_utf8(query).ok().filter(|query| is_plain(query)).ok_or_else(|| {
        Problem::bad_request(Text::new(
            "The query string has characters that must be percent-encoded.",
            "La chaîne de requête contient des caractères à encoder.",
        ))
    })?;
    Ok(Target { path, query: query.to_owned(), nominated })
}

fn is_plain(query: &str) -> bool {
    query.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// The path of an absolute-form target (`GET http://host/path`), which must name the host that
/// the `host` header names.
fn own_authority<'a>(client: &Client, raw: &'a [u8]) -> Result<&'a [u8], Problem> {
    let ambiguous = || {
        Problem::bad_request(Text::new(
            "The request's target is not a path on this host. Send it as `/path`.",
            "La cible de la requête n'est pas un chemin de cet hôte. Envoyez-la comme `/chemin`.",
        ))
    };
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

/// Refuses a head that is too large, and a body whose end could be read in two ways: an upstream
/// must not be able to see another end of the request than we do.
fn check_framing(client: &Client, max_header_bytes: usize) -> Result<(), Problem> {
    let headers = &client.head().headers;
    // Pingora lets one number pass that is told several times, and a sender may mean each of them.
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some_and(|length| !is_number(length)) || lengths.next().is_some() {
        return Err(Problem::bad_request(Text::new(
            "The request's body has two lengths, or one that is no number. Send one \
             `content-length`, with digits only.",
            "Le corps de la requête a deux longueurs, ou une qui n'est pas un nombre. Envoyez un \
             seul `content-length`, en chiffres seulement.",
        )));
    }
    match headers.get(HOST) {
        None if client.head().version == Version::HTTP_11 => {
            return Err(Problem::bad_request(Text::new(
                "The request names no host. Send one `host` header (RFC 9112, 3.2).",
                "La requête ne nomme aucun hôte. Envoyez un en-tête `host` (RFC 9112, 3.2).",
            )));
        }
        // The upstream is told of it.
        Some(host) if !is_host(host.as_bytes()) => {
            return Err(Problem::bad_request(Text::new(
                "The `host` header is no host. Send a name or an address, and a port if you like \
                 (RFC 9110, 7.2).",
                "L'en-tête `host` n'est pas un hôte. Envoyez un nom ou une adresse, et un port si \
                 vous voulez (RFC 9110, 7.2).",
            )));
        }
        _ => {}
    }
    // HTTP/2 has no other framing, and its own limit for heads (`listener.rs`).
    let Some(raw) = client.raw_head() else { return Ok(()) };
    if raw.len() > max_header_bytes {
        return Err(Problem::head_too_large(max_header_bytes));
    }
    // Pingora keeps only one of the two; what the client sent is still in the raw bytes.
    let sent =
        |name: &str| raw.split(|b| *b == b'\n').filter(|line| names(line, name.as_bytes())).count();
    let Some(coding) = headers.get(TRANSFER_ENCODING) else { return Ok(()) };
    if sent(CONTENT_LENGTH.as_str()) > 0 || sent(TRANSFER_ENCODING.as_str()) > 1 {
        return Err(Problem::bad_request(Text::new(
            "The request's body has two framings. Send either `content-length` or one \
             `transfer-encoding: chunked`.",
            "Le corps de la requête a deux délimitations. Envoyez soit `content-length`, soit un \
             seul `transfer-encoding: chunked`.",
        )));
    }
    // A further coding would be lost: the body goes on in chunks alone.
    if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return Err(Problem::bad_request(Text::new(
            "The request's body has a transfer coding that is not taken here. Send it with \
             `transfer-encoding: chunked` alone.",
            "Le corps de la requête a un codage de transfert qui n'est pas accepté ici. Envoyez-le \
             avec `transfer-encoding: chunked` seulement.",
        )));
    }
    Ok(())
}

/// Whether this is a host with or without a port (RFC 3986, 3.2.2 and 3.2.3). It may be empty.
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

/// Whether a header line is of this name.
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
