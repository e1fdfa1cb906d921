//! The cases of requests and of their compression.

use super::http2::{Case, Outcome};
use super::http2_cases::*;
use crate::support::frames::*;
use crate::support::h2::HOST;

pub fn messages() -> Vec<Case> {
    vec![
        case("9113 8.1", "a GET is served", |make| make.get(1), served()),
        case(
            "9113 8.1",
            "a HEAD is served",
            |make| head(1, END_STREAM, &make.block("HEAD", &[])),
            served(),
        ),
        case(
            "9113 8.1",
            "a POST with trailers is served",
            |make| {
                let mut trailers = Vec::new();
                field(&mut trailers, "x-sum", "1");
                [make.post(1), frame(DATA, 0, 1, b"body"), head(1, END_STREAM, &trailers)].concat()
            },
            Outcome::Served(1, b"body".to_vec()),
        ),
        case(
            "9113 8.1",
            "a second head without an end is refused",
            |make| {
                let mut trailers = Vec::new();
                field(&mut trailers, "x-sum", "1");
                [make.post(1), frame(DATA, 0, 1, b"body"), head(1, 0, &trailers)].concat()
            },
            MALFORMED,
        ),
        case(
            "9113 8.1",
            "pseudo-fields are no trailers",
            |make| {
                let mut trailers = Vec::new();
                field(&mut trailers, ":method", "POST");
                [make.post(1), frame(DATA, 0, 1, b"body"), head(1, END_STREAM, &trailers)].concat()
            },
            MALFORMED,
        )
        .known(
            "the h2 crate looks at pseudo-fields in heads alone (recv_trailers, proto/streams/recv.rs); \
             Farebox passes no trailers on",
        ),
        case(
            "9113 8.1.1",
            "a body that is shorter than its length is refused",
            |make| make.posted(&[("content-length", "5")], &[b"body"]),
            MALFORMED,
        ),
        case(
            "9113 8.1.1",
            "a body that is longer than its length is refused",
            |make| make.posted(&[("content-length", "1")], &[b"bo", b"dy"]),
            MALFORMED,
        ),
        case(
            "9113 8.1.1",
            "a length without a body is refused",
            |make| head(1, END_STREAM, &make.block("POST", &[("content-length", "4")])),
            MALFORMED,
        ),
        case(
            "9113 8.2.1",
            "a name in capitals is refused",
            |make| make.get_with(&[("X-A", "b")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.1",
            "a name with a colon is refused",
            |make| make.get_with(&[("x:a", "b")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.1",
            "an empty name is refused",
            |make| make.get_with(&[("", "b")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.1",
            "a value with a line break is refused",
            |make| make.get_with(&[("x-a", "b\r\nx-request-id: mine")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.1",
            "a value with NUL is refused",
            |make| make.get_with(&[("x-a", "b\0c")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.2",
            "a connection field is refused",
            |make| make.get_with(&[("connection", "keep-alive")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.2",
            "a transfer coding is refused",
            |make| make.posted(&[("transfer-encoding", "chunked")], &[b"0\r\n\r\n"]),
            MALFORMED,
        ),
        case(
            "9113 8.2.2",
            "an upgrade is refused",
            |make| make.get_with(&[("upgrade", "websocket")]),
            MALFORMED,
        ),
        case(
            "9113 8.2.2",
            "a te of anything but trailers is refused",
            |make| make.get_with(&[("te", "trailers, deflate;q=0.5")]),
            MALFORMED,
        ),
        case(
            "9113 8.3",
            "a pseudo-field that nobody knows is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":path", "PATH"),
                        (":authority", HOST),
                        (":test", "a"),
                    ]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3",
            "a pseudo-field of answers is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":path", "PATH"),
                        (":authority", HOST),
                        (":status", "200"),
                    ]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3",
            "a pseudo-field behind a field is refused",
            |make| {
                let mut block = Vec::new();
                field(&mut block, ":method", "GET");
                field(&mut block, ":scheme", "https");
                make.rest(&mut block, &[]);
                field(&mut block, ":path", &make.path);
                field(&mut block, ":authority", HOST);
                head(1, END_STREAM, &block)
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "an empty path is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":path", ""),
                        (":authority", HOST),
                    ]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a request without a method is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[(":scheme", "https"), (":path", "PATH"), (":authority", HOST)]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a request without a scheme is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[(":method", "GET"), (":path", "PATH"), (":authority", HOST)]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a request without a path is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[(":method", "GET"), (":scheme", "https"), (":authority", HOST)]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a second method is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[
                        (":method", "GET"),
                        (":method", "POST"),
                        (":scheme", "https"),
                        (":path", "PATH"),
                        (":authority", HOST),
                    ]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a second path is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":path", "PATH"),
                        (":path", "/free/smuggled"),
                        (":authority", HOST),
                    ]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "an authority with a user is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &make.pseudo(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":path", "PATH"),
                        (":authority", "user@shop.test"),
                    ]),
                )
            },
            MALFORMED,
        ),
        case(
            "9113 8.3.1",
            "a host beside another authority is refused",
            |make| make.get_with(&[("host", "other")]),
            MALFORMED,
        ),
        case(
            "9113 8.1",
            "a refused HEAD ends with its head",
            |make| {
                let broken = Make { path: format!("{}/broken", make.path) };
                head(1, END_STREAM, &broken.block("HEAD", &[]))
            },
            Outcome::RefusedByHead,
        ),
    ]
}

pub fn hpack() -> Vec<Case> {
    vec![
        case(
            "7541 2.3.3",
            "an index beyond all tables is refused",
            |make| {
                head(1, END_STREAM, &[&make.block("GET", &[])[..], &[0xff, 0x80, 0x01]].concat())
            },
            COMPRESSION,
        ),
        case(
            "7541 4.2",
            "an update of the table behind a field is refused",
            |make| head(1, END_STREAM, &[&make.block("GET", &[])[..], &[0x20]].concat()),
            COMPRESSION,
        ),
        case(
            "7541 5.2",
            "padding of eight bits and more is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &[
                        &make.block("GET", &[])[..],
                        &[0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x84, 0x49, 0x50, 0x9f, 0xff],
                    ]
                    .concat(),
                )
            },
            COMPRESSION,
        ),
        case(
            "7541 5.2",
            "padding of zeros is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &[
                        &make.block("GET", &[])[..],
                        &[0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x83, 0x49, 0x50, 0x90],
                    ]
                    .concat(),
                )
            },
            COMPRESSION,
        ),
        case(
            "7541 5.2",
            "the symbol of the end is refused",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &[
                        &make.block("GET", &[])[..],
                        &[
                            0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0xff, 0x87, 0x49, 0x51, 0xff, 0xff,
                            0xff, 0xfa, 0x7f,
                        ],
                    ]
                    .concat(),
                )
            },
            COMPRESSION,
        ),
        case(
            "7541 6.1",
            "index 0 is refused",
            |make| head(1, END_STREAM, &[&make.block("GET", &[])[..], &[0x80]].concat()),
            COMPRESSION,
        ),
        case(
            "7541 6.2",
            "fields with every kind of literal are taken",
            |make| {
                let literals: &[u8] =
                    &[0x40, 3, b'x', b'-', b'a', 1, b'b', 0xbe, 0x10, 3, b'x', b'-', b'c', 1, b'd'];
                head(1, END_STREAM, &[&make.block("GET", &[])[..], literals].concat())
            },
            served(),
        ),
        case(
            "7541 6.3",
            "updates of the table before the fields are taken",
            |make| {
                head(
                    1,
                    END_STREAM,
                    &[&[0x20, 0x3f, 0xe1, 0x1f][..], &make.block("GET", &[])].concat(),
                )
            },
            served(),
        ),
        case(
            "7541 6.3",
            "a table larger than the settings allow is refused",
            |make| {
                head(1, END_STREAM, &[&[0x3f, 0xe1, 0x5f][..], &make.block("GET", &[])].concat())
            },
            COMPRESSION,
        ),
    ]
}
