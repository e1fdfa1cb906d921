//! The cases of HTTP/1.1: one table, and therefore longer than a file of code is.

use super::http1::{Case, Outcome};

/// A case that Farebox gets right.
const fn case(
    section: &'static str,
    name: &'static str,
    bytes: &'static str,
    outcome: Outcome,
) -> Case {
    Case { section, name, bytes, outcome, known: None }
}

impl Case {
    /// A case that Farebox gets wrong, and why.
    const fn known(self, reason: &'static str) -> Self {
        Self { known: Some(reason), ..self }
    }
}

/// All cases, in the order of their sections.
pub const CASES: &[Case] = &[
    case(
        "9112 2.2",
        "an empty line before a request is passed over",
        "\r\nGET {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9112 2.2",
        "a bare CR in a field is no white space",
        "GET {path} HTTP/1.1\r\n{who}x-a: b\rc\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 2.2",
        "white space before the first field is refused",
        "GET {path} HTTP/1.1\r\n x-a: b\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 2.2",
        "lines that end with LF alone are read one way or refused",
        "GET {path} HTTP/1.1\n{who}\n",
        Outcome::ServedOrRefused,
    ),
    case(
        "9112 2.3",
        "a version in lower case is none",
        "GET {path} http/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 2.3",
        "a version without its minor number is none",
        "GET {path} HTTP/1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 2.3",
        "HTTP/2.0 is not asked for in text",
        "GET {path} HTTP/2.0\r\n{who}\r\n",
        Outcome::Refused(&[400, 505]),
    ),
    case(
        "9112 2.3",
        "HTTP/1.2 is answered as 1.1 or refused",
        "GET {path} HTTP/1.2\r\n{who}\r\n",
        Outcome::Refused(&[400, 505]),
    ),
    case(
        "9112 3",
        "a request without a version is not served",
        "GET {path}\r\n\r\n",
        Outcome::Refused(&[400, 0]),
    ),
    case(
        "9112 3",
        "two spaces in a request line are one way or refused",
        "GET  {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3",
        "tabs do not part a request line",
        "GET\t{path}\tHTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3",
        "a third word in a request line is refused",
        "GET {path} more HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    )
    .known(
        "pingora-core percent-encodes the spaces of such a target and reads the head again \
         (escape_illegal_request_line, v1/server.rs); the route and the upstream see the same `%20`",
    ),
    case(
        "9112 3.1",
        "a method is a token",
        "G(T {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.1",
        "a method has a letter",
        " {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.1",
        "methods have their case",
        "get {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::ServedOrRefused,
    ),
    case(
        "9112 3.2",
        "a request without a host is 400",
        "GET {path} HTTP/1.1\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a request with two hosts is 400",
        "GET {path} HTTP/1.1\r\n{who}host: other\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a request with the same host twice is 400",
        "GET {path} HTTP/1.1\r\n{who}host: shop\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a host with a space is 400",
        "GET {path} HTTP/1.1\r\nhost: a b\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a host with a path is 400",
        "GET {path} HTTP/1.1\r\nhost: shop/path\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a host with a user is 400",
        "GET {path} HTTP/1.1\r\nhost: user@shop\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a host with a query is 400",
        "GET {path} HTTP/1.1\r\nhost: shop?a\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a host beyond ASCII is 400",
        "GET {path} HTTP/1.1\r\nhost: caf\u{e9}\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "a host with a port that is no number is 400",
        "GET {path} HTTP/1.1\r\nhost: shop:http\r\n{auth}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 3.2",
        "an empty host is a host",
        "GET {path} HTTP/1.1\r\nhost:\r\n{auth}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9112 3.2",
        "an address with a port is a host",
        "GET {path} HTTP/1.1\r\nhost: [::1]:8080\r\n{auth}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9112 3.2",
        "HTTP/1.0 needs no host",
        "GET {path} HTTP/1.0\r\n{auth}\r\n",
        Outcome::ServedLast,
    ),
    case(
        "9112 3.2.1",
        "a target with a fragment is read one way or refused",
        "GET {path}#a HTTP/1.1\r\n{who}\r\n",
        Outcome::ServedOrRefused,
    ),
    case(
        "9112 3.2.1",
        "a target with a control character is refused",
        "GET {path}\x01 HTTP/1.1\r\n{who}\r\n",
        Outcome::RefusedKept(&[400]),
    ),
    case(
        "9112 3.2.1",
        "a target beyond ASCII is refused",
        "GET {path}\u{e9} HTTP/1.1\r\n{who}\r\n",
        Outcome::RefusedKept(&[400]),
    ),
    case(
        "9112 3.2.2",
        "the absolute form of this host is served",
        "GET http://shop{path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9112 3.2.2",
        "the absolute form of another host is refused",
        "GET http://other{path} HTTP/1.1\r\n{who}\r\n",
        Outcome::RefusedKept(&[400]),
    ),
    case(
        "9112 3.2.3",
        "CONNECT is 405",
        "CONNECT shop:80 HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[405]),
    ),
    case(
        "9112 3.2.3",
        "a target of the authority form is refused",
        "GET shop:80 HTTP/1.1\r\n{who}\r\n",
        Outcome::RefusedKept(&[400]),
    ),
    case(
        "9112 3.2.4",
        "OPTIONS of the server has no price",
        "OPTIONS * HTTP/1.1\r\n{who}\r\n",
        Outcome::RefusedKept(&[400, 404]),
    ),
    case(
        "9112 5",
        "a field without a colon is refused",
        "GET {path} HTTP/1.1\r\n{who}x-a\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 5",
        "a field without a name is refused",
        "GET {path} HTTP/1.1\r\n{who}: a\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 5.1",
        "white space before a colon is refused",
        "GET {path} HTTP/1.1\r\n{who}x-a : b\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 5.1",
        "white space before the colon of a length is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length : 4\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 5.1",
        "a name with a space is refused",
        "GET {path} HTTP/1.1\r\n{who}x a: b\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 5.2",
        "a folded line is read one way or refused",
        "GET {path} HTTP/1.1\r\n{who}x-a: b\r\n c\r\n\r\n",
        Outcome::ServedOrRefused,
    ),
    case(
        "9110 5.5",
        "a value with NUL is refused",
        "GET {path} HTTP/1.1\r\n{who}x-a: b\0c\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9110 5.5",
        "a value with a control character is refused",
        "GET {path} HTTP/1.1\r\n{who}x-a: b\x01c\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9110 5.5",
        "a value beyond ASCII passes",
        "GET {path} HTTP/1.1\r\n{who}x-a: caf\u{e9}\r\n\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9110 5.6.2",
        "a name beyond ASCII is refused",
        "GET {path} HTTP/1.1\r\n{who}x-\u{e9}: a\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "6585 5",
        "a head that is too large is 431",
        "GET {path} HTTP/1.1\r\n{who}x-long: {long}\r\n\r\n",
        Outcome::Refused(&[431]),
    ),
    case(
        "9112 6",
        "a body of a GET is that body and no request",
        "GET {path} HTTP/1.1\r\n{who}content-length: 4\r\n\r\nbody",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 6.1",
        "a length beside chunks is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /free/smuggled HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.1",
        "chunks beside a length are refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\nGET /free/smuggled HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.1",
        "HTTP/1.0 has no chunks",
        "POST {path} HTTP/1.0\r\n{who}transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /free/smuggled HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.1",
        "a coding that nobody knows is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: unknown\r\n\r\nbody",
        Outcome::Refused(&[400, 501]),
    ),
    case(
        "9112 6.1",
        "a coding that only looks like chunked is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        Outcome::Refused(&[400, 501]),
    ),
    case(
        "9112 6.1",
        "chunked in capitals is chunked",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: CHUNKED\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 6.1",
        "chunked with a vertical tab is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\nGET /free/smuggled HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400, 501]),
    ),
    case(
        "9112 6.3",
        "chunked that is not the last coding is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /free/smuggled HTTP/1.1\r\n{who}\r\n",
        Outcome::Refused(&[400, 501]),
    ),
    case(
        "9112 6.3",
        "chunked twice is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Outcome::Refused(&[400, 501]),
    ),
    case(
        "9112 6.3",
        "two lengths are refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 4\r\ncontent-length: 5\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "one length told twice is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 4\r\ncontent-length: 4\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "a list of lengths is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 4, 4\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "a length with a sign is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: +4\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "a length below zero is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: -4\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "a length in hexadecimal is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 0x4\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "an empty length is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: \r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "a length beyond all numbers is refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 99999999999999999999\r\n\r\nbody",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 6.3",
        "a length with leading zeros is read one way or refused",
        "POST {path} HTTP/1.1\r\n{who}content-length: 004\r\n\r\nbody",
        Outcome::ServedOrRefused,
    ),
    case(
        "9112 6.3",
        "a POST without a length has no body",
        "POST {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9112 7.1",
        "chunks are put together",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 7.1",
        "a size may have capitals and leading zeros",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n000A\r\n0123456789\r\n0\r\n\r\n",
        Outcome::Served(1, "0123456789"),
    ),
    case(
        "9112 7.1",
        "a last chunk may be several zeros",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n000\r\n\r\n",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 7.1.1",
        "an extension of a chunk is passed over",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4;name=value\r\nbody\r\n0;last\r\n\r\n",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 7.1.1",
        "a quoted extension is passed over",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4;a=\"b c\"\r\nbody\r\n0\r\n\r\n",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 7.1.1",
        "an extension with a bare LF is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4;a\nb\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    )
    .known(
        "httparse::parse_chunk_size takes any byte in an extension (`_ if in_ext`); chunks go up \
         without their extensions",
    ),
    case(
        "9112 7.1.2",
        "a trailer is no field",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\ncontent-length: 9\r\n\r\n",
        Outcome::Served(1, "body"),
    ),
    case(
        "9112 7.1",
        "a size that is no number is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 7.1",
        "an empty size is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    )
    .known(
        "httparse::parse_chunk_size, which pingora-core calls (v1/body.rs), takes no digit for 0, the \
         end of the body; what follows is the next request, as the upstream's own framing has it",
    ),
    case(
        "9112 7.1",
        "a size with 0x is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 7.1",
        "a size below zero is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 7.1",
        "a size beyond all numbers is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n10000000000000004\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 7.1",
        "a size with a space before it is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n 4\r\nbody\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 7.1",
        "a chunk that is longer than its size is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4\r\nbodies\r\n0\r\n\r\n",
        Outcome::Refused(&[400]),
    ),
    case(
        "9112 7.1",
        "a chunk without its line break is refused",
        "POST {path} HTTP/1.1\r\n{who}transfer-encoding: chunked\r\n\r\n4\r\nbody0\r\n\r\n",
        Outcome::Refused(&[400, 408]),
    ),
    case(
        "9112 9.3",
        "two requests at once are both answered",
        "GET {path} HTTP/1.1\r\n{who}\r\nGET {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(2, ""),
    ),
    case(
        "9112 9.3",
        "a request behind a body is read",
        "POST {path} HTTP/1.1\r\n{who}content-length: 4\r\n\r\nbodyPOST {path} HTTP/1.1\r\n{who}content-length: 4\r\n\r\nbody",
        Outcome::Served(2, "body"),
    ),
    case(
        "9112 9.3",
        "HTTP/1.0 closes the connection",
        "GET {path} HTTP/1.0\r\n{who}\r\n",
        Outcome::ServedLast,
    ),
    case(
        "9112 9.3",
        "HTTP/1.0 keeps the connection if it is asked to",
        "GET {path} HTTP/1.0\r\n{who}connection: keep-alive\r\n\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9112 9.6",
        "a client that says close is closed",
        "GET {path} HTTP/1.1\r\n{who}connection: close\r\n\r\n",
        Outcome::ServedLast,
    ),
    case(
        "9112 9.6",
        "close is found in a list and in any case",
        "GET {path} HTTP/1.1\r\n{who}connection: x-a, CLOSE\r\n\r\n",
        Outcome::ServedLast,
    ),
    case(
        "9112 9.6",
        "close is found in a second line",
        "GET {path} HTTP/1.1\r\n{who}connection: x-a\r\nconnection: close\r\n\r\n",
        Outcome::ServedLast,
    ),
    case(
        "9112 9.6",
        "nothing is served behind a close",
        "GET {path} HTTP/1.1\r\n{who}connection: close\r\n\r\nGET /free/smuggled HTTP/1.1\r\n{who}\r\n",
        Outcome::ServedLast,
    ),
    case(
        "9110 9.3.2",
        "an answer to HEAD has no body",
        "HEAD {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9110 9.3.8",
        "TRACE is not forwarded",
        "TRACE {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::RefusedKept(&[400, 404, 405, 501]),
    ),
    case(
        "9110 9.1",
        "a method that nobody knows is forwarded where the route takes all",
        "REPORT {path} HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(1, ""),
    ),
    case(
        "9110 7.6.1",
        "an upstream that closes says so in any line of connection",
        "GET {path}/two-lines HTTP/1.1\r\n{who}\r\n",
        Outcome::Served(1, ""),
    ),
];
