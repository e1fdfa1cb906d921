//! The cases of frames, streams, settings and windows.

use super::http2::{Case, Outcome};
use super::http2_cases::*;
use crate::support::frames::*;

pub fn connections() -> Vec<Case> {
    vec![
        case(
            "9113 3.4",
            "a wrong preface ends the connection",
            |_| b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec(),
            PROTOCOL,
        )
        .bare(),
        case(
            "9113 3.4",
            "a preface without settings ends the connection",
            |make| [PREFACE, &make.get(1)].concat(),
            PROTOCOL,
        )
        .bare()
        .known(
            "the server handshake of the h2 crate ends with the preface (server.rs, Handshaking); the \
             settings may come behind other frames",
        ),
        case(
            "9113 4.1",
            "a frame of an unknown kind is passed over",
            |make| [frame(0x16, 0, 0, &[0; 8]), make.get(1)].concat(),
            served(),
        ),
        case(
            "9113 4.1",
            "flags that nobody knows are passed over",
            |make| [frame(PING, 0x16, 0, &[0; 8]), make.get(1)].concat(),
            served(),
        ),
        case(
            "9113 4.1",
            "the reserved bit is passed over",
            |make| [frame(PING, 0, 0x8000_0000, &[0; 8]), make.get(1)].concat(),
            served(),
        ),
        case(
            "9113 4.2",
            "a DATA frame of 16384 bytes is taken",
            |make| make.posted(&[], &[&[b'x'; 16_384]]),
            Outcome::Served(1, vec![b'x'; 16_384]),
        ),
        case(
            "9113 4.2",
            "a larger DATA frame is refused",
            |make| make.posted(&[], &[&[b'x'; 16_385]]),
            Outcome::Stream(&[FRAME_SIZE_ERROR]),
        ),
        case(
            "9113 4.2",
            "a larger HEADERS frame is refused",
            |make| make.get_with(&[("x-long", &"x".repeat(16_385))]),
            SIZE,
        ),
        case(
            "9113 4.3",
            "a PRIORITY frame within a head is refused",
            |make| {
                [
                    frame(HEADERS, END_STREAM, 1, &make.block("GET", &[])),
                    frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]),
                ]
                .concat()
            },
            PROTOCOL,
        ),
        case(
            "9113 4.3",
            "a head within another head is refused",
            |make| [frame(HEADERS, END_STREAM, 1, &make.block("GET", &[])), make.get(3)].concat(),
            PROTOCOL,
        ),
        case(
            "9113 5.5",
            "an unknown frame within a head is refused",
            |make| {
                [frame(HEADERS, END_STREAM, 1, &make.block("GET", &[])), frame(0x16, 0, 0, &[0; 8])]
                    .concat()
            },
            PROTOCOL,
        ),
        case(
            "9113 7",
            "a GOAWAY with an unknown code changes nothing",
            |_| frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 255]),
            Outcome::Connection(&[0]),
        ),
        case(
            "9113 7",
            "a reset with an unknown code changes nothing",
            |make| [make.post(1), reset(1, 255)].concat(),
            Outcome::Ignored,
        ),
    ]
}

pub fn streams() -> Vec<Case> {
    vec![
        case(
            "9113 5.1",
            "DATA on an idle stream is refused",
            |_| frame(DATA, END_STREAM, 1, b"test"),
            PROTOCOL,
        ),
        case("9113 5.1", "a reset of an idle stream is refused", |_| reset(1, 8), PROTOCOL),
        case("9113 5.1", "a window of an idle stream is refused", |_| window(1, 100), PROTOCOL),
        case(
            "9113 5.1",
            "a CONTINUATION on an idle stream is refused",
            |make| frame(CONTINUATION, END_HEADERS, 1, &make.block("GET", &[])),
            PROTOCOL,
        ),
        case(
            "9113 5.1",
            "PRIORITY on an idle stream is taken",
            |make| [frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 255]), make.get(1)].concat(),
            served(),
        ),
        case(
            "9113 5.1",
            "DATA behind the end of a request is refused",
            |make| [make.get(1), frame(DATA, END_STREAM, 1, b"test")].concat(),
            Outcome::StreamAfter(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case(
            "9113 5.1",
            "a head behind the end of a request is refused",
            |make| [make.get(1), make.get(1)].concat(),
            Outcome::StreamAfter(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        case(
            "9113 5.1",
            "a window behind the end of a request is taken",
            |make| [make.get(1), window(1, 1)].concat(),
            served(),
        ),
        case(
            "9113 5.1",
            "PRIORITY behind the end of a request is taken",
            |make| [make.get(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255])].concat(),
            served(),
        ),
        case(
            "9113 5.1",
            "DATA behind a reset is refused",
            |make| [make.post(1), reset(1, 8), frame(DATA, END_STREAM, 1, b"test")].concat(),
            Outcome::Ignored,
        ),
        case("9113 5.1.1", "an even stream is refused", |make| make.get(2), PROTOCOL),
        case(
            "9113 5.1.1",
            "a stream below the last one is refused",
            |make| [make.get(5), make.get(3)].concat(),
            Outcome::Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case(
            "9113 5.1.2",
            "more streams than the server takes are refused",
            |make| {
                let mut bytes = Vec::new();
                for n in 0..1200 {
                    bytes.extend(make.post(2 * n + 1));
                }
                bytes
            },
            Outcome::StreamAfter(&[PROTOCOL_ERROR, REFUSED_STREAM]),
        ),
        case(
            "9113 5.3",
            "a head with a priority is taken",
            |make| {
                let block = [&[0, 0, 0, 0, 15][..], &make.block("GET", &[])].concat();
                frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY_FLAG, 1, &block)
            },
            served(),
        ),
    ]
}

pub fn frames() -> Vec<Case> {
    vec![
        case(
            "9113 6.1",
            "DATA on stream 0 is refused",
            |_| frame(DATA, END_STREAM, 0, b"test"),
            PROTOCOL,
        ),
        case(
            "9113 6.1",
            "padding is taken off",
            |make| [make.post(1), frame(DATA, END_STREAM | PADDED, 1, b"\x03body\0\0\0")].concat(),
            Outcome::Served(1, b"body".to_vec()),
        ),
        case(
            "9113 6.1",
            "padding longer than its frame is refused",
            |make| [make.post(1), frame(DATA, END_STREAM | PADDED, 1, b"\x06body")].concat(),
            PROTOCOL,
        ),
        case(
            "9113 6.1",
            "several DATA frames are put together",
            |make| make.posted(&[], &[b"bo", b"", b"dy", b""]),
            Outcome::Served(1, b"body".to_vec()),
        ),
        case("9113 6.2", "a head on stream 0 is refused", |make| make.get(0), PROTOCOL),
        case(
            "9113 6.2",
            "padding of a head is taken off",
            |make| {
                let block = [&[2][..], &make.block("GET", &[]), &[0, 0]].concat();
                frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &block)
            },
            served(),
        ),
        case(
            "9113 6.2",
            "padding longer than its head is refused",
            |make| {
                let block = make.block("GET", &[]);
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM | PADDED,
                    1,
                    &[&[255][..], &block[..100]].concat(),
                )
            },
            PROTOCOL,
        ),
        case(
            "9113 6.3",
            "PRIORITY on stream 0 is refused",
            |_| frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 255]),
            PROTOCOL,
        ),
        case(
            "9113 6.3",
            "PRIORITY of another length is refused",
            |make| [make.post(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 0])].concat(),
            Outcome::Stream(&[FRAME_SIZE_ERROR]),
        ),
        case("9113 6.4", "a reset on stream 0 is refused", |_| reset(0, 8), PROTOCOL),
        case(
            "9113 6.4",
            "a reset of another length is refused",
            |make| [make.post(1), frame(RST_STREAM, 0, 1, &[0, 0, 0])].concat(),
            SIZE,
        ),
        case(
            "9113 6.6",
            "a push by a client is refused",
            |make| frame(PUSH_PROMISE, END_HEADERS, 1, &make.block("GET", &[])),
            PROTOCOL,
        ),
        case("9113 6.7", "PING is answered", |_| Vec::new(), Outcome::Ignored),
        case("9113 6.7", "PING on a stream is refused", |_| frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        case("9113 6.7", "PING of another length is refused", |_| frame(PING, 0, 0, &[0; 6]), SIZE),
        case(
            "9113 6.8",
            "GOAWAY on a stream is refused",
            |_| frame(GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL,
        ),
        case(
            "9113 6.10",
            "a head in many frames is put together",
            |make| {
                let block = make.block("GET", &[]);
                let mut bytes = frame(HEADERS, END_STREAM, 1, &block[..10]);
                for part in block[10..block.len() - 5].chunks(block.len() / 3) {
                    bytes.extend(frame(CONTINUATION, 0, 1, part));
                }
                bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &block[block.len() - 5..]));
                bytes
            },
            served(),
        ),
        case(
            "9113 6.10",
            "a CONTINUATION on stream 0 is refused",
            |make| {
                [
                    frame(HEADERS, END_STREAM, 1, &make.block("GET", &[])),
                    frame(CONTINUATION, END_HEADERS, 0, &[]),
                ]
                .concat()
            },
            PROTOCOL,
        ),
        case(
            "9113 6.10",
            "a CONTINUATION behind the end of a head is refused",
            |make| [make.post(1), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            PROTOCOL,
        ),
        case(
            "9113 6.10",
            "DATA within a head is refused",
            |make| {
                [
                    frame(HEADERS, 0, 1, &make.block("POST", &[])),
                    frame(DATA, END_STREAM, 1, b"test"),
                ]
                .concat()
            },
            PROTOCOL,
        ),
    ]
}

pub fn settings() -> Vec<Case> {
    vec![
        case(
            "9113 6.5",
            "an ACK with a payload is refused",
            |_| frame(SETTINGS, ACK, 0, &[0, 3, 0, 0, 0, 1]),
            SIZE,
        ),
        case(
            "9113 6.5",
            "settings of a stream are refused",
            |_| frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 1]),
            PROTOCOL,
        ),
        case(
            "9113 6.5",
            "settings of another length are refused",
            |_| frame(SETTINGS, 0, 0, &[0, 3, 0]),
            SIZE,
        ),
        case("9113 6.5.2", "a push setting of 2 is refused", |_| setting(2, 2), PROTOCOL),
        case(
            "9113 6.5.2",
            "a window above 2147483647 is refused",
            |_| setting(4, 1 << 31),
            Outcome::Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        case("9113 6.5.2", "a frame size below 16384 is refused", |_| setting(5, 16_383), PROTOCOL),
        case(
            "9113 6.5.2",
            "a frame size above 16777215 is refused",
            |_| setting(5, 1 << 24),
            PROTOCOL,
        ),
        case(
            "9113 6.5.2",
            "a setting that nobody knows is passed over",
            |make| [setting(0xff, 1), make.get(1)].concat(),
            served(),
        ),
        case(
            "9113 6.5.3",
            "the last of two windows counts",
            |make| [setting(4, 0), setting(4, 1000), make.get(1)].concat(),
            served(),
        ),
    ]
}

pub fn flow() -> Vec<Case> {
    vec![
        case("9113 6.9", "a window of nothing is refused", |_| window(0, 0), PROTOCOL),
        case(
            "9113 6.9",
            "a stream's window of nothing is refused",
            |make| [make.post(1), window(1, 0)].concat(),
            MALFORMED,
        ),
        case(
            "9113 6.9",
            "a window of another length is refused",
            |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            SIZE,
        ),
        case(
            "9113 6.9.1",
            "a window beyond all bounds is refused",
            |_| [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
            Outcome::Connection(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "9113 6.9.1",
            "a stream's window beyond all bounds is refused",
            |make| [make.post(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)].concat(),
            Outcome::Stream(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "9113 6.9.2",
            "an answer waits for its window",
            |make| [setting(4, 0), make.get(1), setting(4, 1)].concat(),
            Outcome::Ignored,
        ),
        case(
            "9113 6.9.2",
            "an answer goes on once its window grows",
            |make| [setting(4, 0), make.get(1), window(1, 1), window(1, 1)].concat(),
            served(),
        ),
        case(
            "9113 6.9.2",
            "a window may be below zero",
            |make| [make.get(1), setting(4, 0), window(1, 70_000)].concat(),
            Outcome::Ignored,
        ),
    ]
}
