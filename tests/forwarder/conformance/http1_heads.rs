//! The cases of request lines and fields, in the order of their sections.

use super::http1::{Case, Outcome};
use super::http1_cases::case;

/// All cases of request lines and fields.
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
];
