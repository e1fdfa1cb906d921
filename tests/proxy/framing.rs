//! Farebox and its upstreams always agree on where a request ends.

use bytes::Bytes;

use super::settlement::raw;
use super::tls::{self, settled};
use crate::support::h2::{HOST, http2};
use crate::support::token;
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request that a smuggler would like the upstream to take for a second one.
const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nhost: x\r\n\r\n";

/// The requests in the bytes that an upstream was sent, split by their own framing. Panics if a
/// request has two framings, or if something that is no request follows one.
pub fn requests(mut bytes: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{bytes:?}"));
        let values = |name: &str| -> Vec<&str> {
            let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            let named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
            named.map(|(_, value)| value.trim()).collect()
        };
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "two framings: {head:?}");
        assert!(!head.lines().any(|line| line.starts_with([' ', '\t'])), "folded: {head:?}");
        assert!(!head.contains("\r\r") && !head.contains('\0'), "{head:?}");
        let mut body = String::new();
        let mut rest = rest;
        if let [length] = lengths[..] {
            let length: usize = length.parse().unwrap_or_else(|_| panic!("{head:?}"));
            body.push_str(&rest[..length.min(rest.len())]);
            rest = &rest[length.min(rest.len())..];
        } else if let [coding] = codings[..] {
            assert_eq!(coding, "chunked");
            while let Some((size, after)) = rest.split_once("\r\n") {
                let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{rest:?}"));
                body.push_str(&after[..size]);
                rest = &after[size + 2..];
                if size == 0 {
                    break;
                }
            }
        }
        found.push((head.lines().next().unwrap().to_owned(), body));
        bytes = rest;
    }
    found
}

#[tokio::test]
async fn ambiguous_framing_never_reaches_an_upstream_as_two_framings() {
    let chunked = "4\r\nbody\r\n0\r\n\r\n";
    let zero = format!("0\r\n\r\n{SMUGGLED}");
    let long = format!("{}", SMUGGLED.len());
    let cases: Vec<(String, String)> = [
        ("content-length: 6\r\ntransfer-encoding: chunked\r\n", &*zero),
        ("transfer-encoding: chunked\r\ncontent-length: 6\r\n", &*zero),
        ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", &*zero),
        ("transfer-encoding: chunked\r\ncontent-length : 6\r\n", &*zero),
        ("content-length: 0\r\ncontent-length: 33\r\n", SMUGGLED),
        ("content-length: 33\r\ncontent-length: 0\r\n", SMUGGLED),
        ("content-length: 0, 33\r\n", SMUGGLED),
        ("content-length: +0\r\n", SMUGGLED),
        ("content-length: -1\r\n", SMUGGLED),
        ("content-length: 0x0\r\n", SMUGGLED),
        ("content-length: \r\n", SMUGGLED),
        ("content-length: 99999999999999999999999999\r\n", SMUGGLED),
        ("transfer-encoding: xchunked\r\n", chunked),
        ("transfer-encoding: chunked, identity\r\n", chunked),
        ("transfer-encoding: identity, chunked\r\n", chunked),
        ("transfer-encoding: chunked, chunked\r\n", chunked),
        ("transfer-encoding: gzip, chunked\r\n", chunked),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunked),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", &*zero),
        ("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", &*zero),
        ("transfer-encoding:\tchunked\r\n", chunked),
        ("transfer-encoding: chunked\t\r\n", chunked),
        ("transfer-encoding: \x0bchunked\r\n", chunked),
        ("transfer-encoding : chunked\r\n", chunked),
        (" transfer-encoding: chunked\r\n", chunked),
        ("x: y\r\n transfer-encoding: chunked\r\n", chunked),
        ("transfer-encoding:\r\n chunked\r\n", chunked),
        ("content-length: 6\r\nx: y\rtransfer-encoding: chunked\r\n", &*zero),
        ("content-length: 6\r\nx: y\ntransfer-encoding: chunked\r\n", &*zero),
        ("content-length: 6\r\ntransfer_encoding: chunked\r\n", &*zero),
        ("content-length: 6\r\ntransfer-encoding: CHUNKED\r\n", &*zero),
        ("transfer-encoding: \"chunked\"\r\n", chunked),
        ("transfer-encoding: chunked;a=b\r\n", chunked),
        ("connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n", chunked),
        ("connection: content-length\r\ncontent-length: 33\r\n", SMUGGLED),
        ("connection: close, content-length\r\ncontent-length: 4\r\n", "body"),
        ("upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 33\r\n", SMUGGLED),
        ("transfer-encoding: chunked\r\n", "4;ext=\"\r\n\"\r\nbody\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "4\nbody\n0\n\n"),
        ("transfer-encoding: chunked\r\n", "-4\r\nbody\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "0x4\r\nbody\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "10000000000000004\r\nbody\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "4\r\nbodyx\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "4\r\nbody\r\n0\r\ncontent-length: 9\r\n\r\n"),
        ("expect: 100-continue\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n", &*zero),
    ]
    .into_iter()
    .map(|(head, body)| (head.to_owned(), body.to_owned()))
    .chain([(format!("content-length: {long}\r\n"), SMUGGLED.to_owned())])
    .collect();
    for method in ["POST", "GET", "HEAD"] {
        for (framing, body) in &cases {
            let upstream = RawUpstream::answering(OK).await;
            let gateway = raw(&upstream, "").await;
            let mut client = Wire::connect(gateway.public()).await;
            let request = request(&format!("{method} /x/y"), "alice", framing, body);
            // The other end may have hung up in the meantime.
            let _ = client.try_send(request).await;
            let _ = client.try_send(post("/x/last", "alice", "last")).await;
            client.finish_quietly().await;
            client.rest().await;
            for connection in upstream.seen() {
                for (line, body) in requests(&connection) {
                    let allowed = ["/x/y HTTP/1.1", "/x/last HTTP/1.1"];
                    let target = line.split_once(' ').unwrap().1;
                    assert!(allowed.contains(&target), "{method} {framing:?}: {line:?} {body:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn two_framings_are_refused_with_400_and_the_connection_is_closed() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for framing in [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "content-length: 6\r\ncontent-length: 7\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        let body = format!("0\r\n\r\n{SMUGGLED}");
        client.send(request("POST /x/y", "alice", framing, &body)).await;
        let answer = client.rest().await;
        assert_eq!(status(&answer), 400, "{framing}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer: {answer}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn a_length_that_is_told_twice_or_is_no_plain_number_is_400_and_reaches_no_upstream() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for lengths in [
        &["4", "4"][..],
        &["4", "5"],
        &["4", "4", "4"],
        &["0", "0"],
        &["4, 4"],
        &["4,4"],
        &["4,"],
        &[",4"],
        &["4", ""],
        &[""],
        &["+4"],
        &["-4"],
        &["0x4"],
        &["4.0"],
        &["4e0"],
        &["4 4"],
        &["4;"],
        &["\"4\""],
        &["\u{b}4"],
        &["\u{664}"],
        &["18446744073709551620"],
    ] {
        for name in ["content-length: ", "Content-Length:"] {
            let lines: String =
                lengths.iter().map(|length| format!("{name}{length}\r\n")).collect();
            let mut client = Wire::connect(gateway.public()).await;
            client.send(request("POST /x/y", "alice", &lines, "body")).await;
            let answer = client.rest().await;
            assert_eq!(status(&answer), 400, "{lines:?}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer: {answer}");
        }
    }
    assert_eq!(upstream.seen(), [""; 0]);

    // Over HTTP/2, where a malformed request may also be a stream error (RFC 9113, 8.1.1).
    let (gateway, certificate) = tls::gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    for lengths in [&["4", "4"][..], &["4, 4"], &["4", "5"], &["+4"], &["0x4"], &[""], &[" 4"]] {
        client = client.ready().await.unwrap();
        let mut request = http::Request::post(format!("https://{HOST}/x/y"))
            .header("authorization", format!("Bearer {}", token("alice")));
        for length in lengths {
            request = request.header("content-length", *length);
        }
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"body"), true).unwrap();
        match answer.await {
            Ok(answer) => assert_eq!(answer.status(), 400, "{lengths:?}"),
            Err(error) => assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR), "{error}"),
        }
    }
    assert_eq!(upstream.seen(), [""; 0]);
    assert_eq!(settled(&gateway).await, 100);
}

#[tokio::test]
async fn http_1_0_has_no_transfer_encoding() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    let whole = request("POST /x/y", "alice", "transfer-encoding: chunked\r\n", "0\r\n\r\n");
    client.send(whole.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert_eq!(status(&client.rest().await), 400);
    assert_eq!(upstream.seen(), [""; 0]);

    // A request without a length is served, and its connection closed.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", "body").replace("HTTP/1.1", "HTTP/1.0")).await;
    let answer = client.rest().await;
    assert_eq!(status(&answer), 200);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn a_body_of_a_get_arrives_as_that_get_s_body() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    let length = format!("content-length: {}\r\n", SMUGGLED.len());
    client.send(request("GET /x/y", "alice", &length, SMUGGLED)).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    client.send(post("/x/next", "alice", "next")).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    let seen: Vec<_> = upstream.seen().iter().flat_map(|bytes| requests(bytes)).collect();
    let seen: Vec<_> = seen.iter().map(|(line, body)| (line.as_str(), body.as_str())).collect();
    assert_eq!(seen, [("GET /x/y HTTP/1.1", SMUGGLED), ("POST /x/next HTTP/1.1", "next")]);
}

#[tokio::test]
async fn trailers_do_not_break_a_request_or_an_answer() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.up_to("0\r\n").await;
        wire.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
        )
        .await;
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    let more = "transfer-encoding: chunked\r\ntrailer: x-sum\r\n";
    let body = "4\r\nbody\r\n0\r\nx-sum: 2\r\n\r\n";
    client.send(request("POST /x/y", "alice", more, body)).await;
    assert_eq!(status(&client.head().await.unwrap()), 200);
    assert!(client.up_to("0\r\n").await.unwrap().contains("hello"));
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

/// The mistake is the client's, and no upstream's.
#[tokio::test]
async fn a_body_that_cannot_be_read_is_400_on_farebox_s_own_routes_too() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for (lines, body) in [
        ("transfer-encoding: chunked\r\n", "zz\r\n{\"end"),
        ("transfer-encoding: chunked\r\n", "4\r\nbody!\r\n"),
        ("content-length: 20\r\n", "{\"end"),
    ] {
        for (path, refusal) in [
            ("/credits/check", 400),
            ("/credits/buy", 400),
            // Refused by the head alone: nobody reads the body.
            ("/credits/balance", 405),
            ("/credits/nope", 404),
        ] {
            let mut client = Wire::connect(gateway.public()).await;
            client.send(request(&format!("POST {path}"), "alice", lines, body)).await;
            client.finish().await;
            let answer = client.head().await.unwrap();
            assert_eq!(status(&answer), refusal, "{path} {body:?}: {answer}");
        }
    }
}

/// An answer that clients could end at another byte than Farebox does would poison what follows on
/// its connection.
#[tokio::test]
async fn an_answer_has_one_framing_or_is_a_502_and_free() {
    let chunks = "4\r\nbody\r\n0\r\n\r\n";
    let mut cases = Vec::new();
    for coding in ["gzip, chunked", "chunked, gzip", "identity", "gzip", "chunked, chunked", ""] {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n");
        cases.push((format!("{head}{chunks}"), 502, None, None));
    }
    let twice = "transfer-encoding: chunked\r\n".repeat(2);
    cases.push((format!("HTTP/1.1 200 OK\r\n{twice}\r\n{chunks}"), 502, None, None));
    let both = "transfer-encoding: identity\r\ncontent-length: 4\r\n";
    cases.push((format!("HTTP/1.1 200 OK\r\n{both}\r\nbody"), 502, None, None));
    let capitals = "Transfer-Encoding: Chunked\r\n";
    cases.push((format!("HTTP/1.1 200 OK\r\n{capitals}\r\n{chunks}"), 200, None, Some("body")));
    for lengths in ["content-length: 4\r\ncontent-length: 4\r\n", "content-length: 4, 4\r\n"] {
        let whole = format!("HTTP/1.1 200 OK\r\n{lengths}\r\nbody");
        cases.push((whole, 200, Some("4"), Some("body")));
    }
    for framing in ["content-length: 4\r\n", "transfer-encoding: chunked\r\n"] {
        cases.push((format!("HTTP/1.1 204 No Content\r\n{framing}\r\n"), 204, None, None));
        let interim = format!("HTTP/1.1 103 Early Hints\r\n{framing}\r\n");
        let last = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        cases.push((format!("{interim}{last}"), 103, None, None));
    }
    for (answer, code, length, body) in cases {
        let said = answer.clone();
        let upstream = RawUpstream::start(move |mut wire| {
            let said = said.clone();
            async move {
                wire.head().await;
                wire.send(said).await;
                wire.rest().await;
            }
        })
        .await;
        let gateway = raw(&upstream, "").await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("GET /x/y", "alice", "", "")).await;
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), code, "{answer:?}: {head}");
        if code == 502 {
            assert_eq!(header(&head, "connection"), Some("close"));
            assert_eq!(gateway.settled_balance("alice").await, 100, "{answer:?}");
            continue;
        }
        assert_eq!(header(&head, "content-length"), length, "{answer:?}: {head}");
        assert!(head.to_ascii_lowercase().matches("content-length").count() <= 1, "{head}");
        let is_chunked = header(&head, "transfer-encoding").is_some();
        assert_eq!(is_chunked, body.is_some() && length.is_none(), "{answer:?}: {head}");
        if let Some(body) = body {
            assert!(client.up_to(body).await.is_some(), "{answer:?}");
        }
    }
}
