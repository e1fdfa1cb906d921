//! The cases of bodies, connections and methods, in the order of their sections.

use super::http1::{Case, Outcome};
use super::http1_cases::case;

/// All cases of bodies, connections and methods.
pub const CASES: &[Case] = &[
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
