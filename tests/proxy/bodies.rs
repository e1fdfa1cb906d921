//! Bodies of requests: small ones are read before their call is forwarded, and nobody has an
//! upstream work for free by keeping the last byte back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use super::settlement::{raw, route};
use super::tls;
use crate::support::h2::{HOST, http2, read};
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, config_with, eventually, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The longest body that is read before its call is forwarded.
const SMALL: usize = 64 * 1024;

const MIB: usize = 1 << 20;

/// Reads whatever comes and never answers.
async fn silent() -> RawUpstream {
    RawUpstream::start(|mut wire| async move {
        wire.rest().await;
    })
    .await
}

async fn with_body_timeout(upstream: &RawUpstream, timeout: &str) -> TestGateway {
    let server = format!("body_timeout = \"{timeout}\"");
    let gateway = TestGateway::start(&config_with(upstream.address, &server, "", &route(""))).await;
    gateway.grant("alice", 100).await;
    gateway
}

/// A body of `length` bytes in which every part differs from its neighbours.
fn body(length: usize) -> String {
    (0..length).map(|n| char::from(b'a' + (n / 7 % 26) as u8)).collect()
}

/// How many bytes of bodies the newest connection of an upstream has received.
fn body_bytes(upstream: &RawUpstream) -> Option<usize> {
    let seen = upstream.seen().pop()?;
    seen.split_once("\r\n\r\n").map(|(_, body)| body.len())
}

fn declared(length: usize) -> String {
    format!("content-length: {length}\r\n")
}

#[derive(Clone, Copy, Debug)]
enum Leaves {
    HangsUp,
    /// Says that it sends nothing more, and still reads.
    Finishes,
}

#[tokio::test]
async fn a_small_body_that_lacks_a_byte_reaches_no_upstream_and_is_free() {
    let upstream = silent().await;
    let gateway = raw(&upstream, "").await;
    for leaves in [Leaves::HangsUp, Leaves::Finishes] {
        for method in ["POST", "PUT", "PATCH"] {
            for length in [1, 10, SMALL] {
                let mut client = Wire::connect(gateway.public()).await;
                let line = format!("{method} /x/y");
                let part = body(length - 1);
                client.send(request(&line, "alice", &declared(length), &part)).await;
                let is_held = eventually(async || gateway.balance("alice").await["held"] == 5);
                assert!(is_held.await, "the hold comes first");
                match leaves {
                    Leaves::HangsUp => drop(client),
                    Leaves::Finishes => {
                        client.finish().await;
                        assert_eq!(client.rest().await, "");
                    }
                }
                let balance = gateway.settled_balance("alice").await;
                assert_eq!(balance, 100, "{method} {length} {leaves:?}");
            }
        }
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn a_get_head_delete_or_options_is_whole_with_its_head() {
    let upstream = silent().await;
    let gateway = raw(&upstream, "").await;
    let mut balance = 100;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for framing in [declared(1), declared(MIB), "transfer-encoding: chunked\r\n".to_owned()] {
            let before = upstream.seen().len();
            let mut client = Wire::connect(gateway.public()).await;
            client.send(request(&format!("{method} /x/y"), "alice", &framing, "")).await;
            assert!(eventually(async || upstream.seen().len() > before).await, "{method}");
            drop(client);
            balance -= 5;
            assert_eq!(gateway.settled_balance("alice").await, balance, "{method} {framing}");
        }
    }
}

#[tokio::test]
async fn a_large_body_counts_as_sent_when_at_most_64_kib_of_it_are_missing() {
    for (sent, option, charged) in [
        (0, "", false),
        (100, "", false),
        (MIB - SMALL - 1, "", false),
        (MIB - SMALL, "", true),
        (MIB - 10, "", true),
        (MIB - 10, "on_client_abort = \"release\"", false),
    ] {
        let upstream = silent().await;
        let gateway = raw(&upstream, option).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", &declared(MIB), &body(sent))).await;
        assert!(eventually(async || body_bytes(&upstream) == Some(sent)).await, "{sent}");
        drop(client);
        let balance = if charged { 95 } else { 100 };
        assert_eq!(gateway.settled_balance("alice").await, balance, "{sent} {option}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_counts_as_sent_with_its_first_byte() {
    for (part, then, option, charged) in [
        ("", "", "", false),
        ("4\r\npa", "", "", true),
        ("4\r\npart\r\n", "", "", true),
        ("4\r\npart\r\n", "nonsense\r\n", "", true),
        ("4\r\npart\r\n", "", "on_client_abort = \"release\"", false),
    ] {
        let upstream = silent().await;
        let gateway = raw(&upstream, option).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", "transfer-encoding: chunked\r\n", part)).await;
        let is_there =
            |bytes: usize| if part.is_empty() { bytes == 0 } else { bytes > "4\r\np".len() };
        assert!(eventually(async || body_bytes(&upstream).is_some_and(is_there)).await, "{part:?}");
        client.send(then).await;
        drop(client);
        let balance = if charged { 95 } else { 100 };
        assert_eq!(gateway.settled_balance("alice").await, balance, "{part:?} {then:?} {option}");
    }
}

#[tokio::test]
async fn a_small_body_that_stops_is_a_408_and_reaches_no_upstream() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = with_body_timeout(&upstream, "300ms").await;
    for length in [1, 10, SMALL] {
        let mut client = Wire::connect(gateway.public()).await;
        let part = body(length - 1);
        let started = Instant::now();
        client.send(request("POST /x/y", "alice", &declared(length), &part)).await;
        let (answer, text) = client.message().await.unwrap();
        assert_eq!(status(&answer), 408, "{text}");
        assert_eq!(header(&answer, "x-credits-cost"), None);
        assert_eq!(header(&answer, "connection"), Some("close"));
        assert!(text.contains("REQUEST_TIMEOUT") && text.contains("stopped arriving"), "{text}");
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
        assert_eq!(client.rest().await, "");
        assert_eq!(gateway.settled_balance("alice").await, 100);
    }
    assert_eq!(upstream.seen(), [""; 0]);
    // Each part of a body starts the time anew: a slow upload is no pause.
    let gateway = with_body_timeout(&upstream, "2s").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /x/y", "alice", &declared(6), "")).await;
    let started = Instant::now();
    for byte in "slowly".bytes() {
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.send([byte]).await;
    }
    assert!(started.elapsed() > Duration::from_secs(2));
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    assert!(upstream.seen().concat().ends_with("\r\n\r\nslowly"));
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

/// A client that stops is no better than one that leaves, whichever time runs out first.
#[tokio::test]
async fn a_larger_body_that_stops_is_a_408_and_paid_for_like_one_whose_client_left() {
    let chunked = "transfer-encoding: chunked\r\n";
    for (server, option) in [("300ms", ""), ("60s", "read_timeout = \"300ms\"")] {
        for (framing, part, balance) in [
            (declared(MIB), body(100), 100),
            (declared(MIB), body(MIB - 10), 95),
            (chunked.to_owned(), String::new(), 100),
            (chunked.to_owned(), "4\r\npart\r\n".to_owned(), 95),
        ] {
            let upstream = silent().await;
            let server = format!("body_timeout = \"{server}\"");
            let text = config_with(upstream.address, &server, "", &route(option));
            let gateway = TestGateway::start(&text).await;
            gateway.grant("alice", 100).await;
            let mut client = Wire::connect(gateway.public()).await;
            client.send(request("POST /x/y", "alice", &framing, &part)).await;
            let (answer, text) = client.message().await.unwrap();
            assert_eq!(status(&answer), 408, "{framing} {text}");
            assert!(text.contains("REQUEST_TIMEOUT"), "{text}");
            let paid = gateway.settled_balance("alice").await;
            assert_eq!(paid, balance, "{framing} {} bytes, {server} {option}", part.len());
        }
    }
}

#[tokio::test]
async fn farebox_answers_expect_itself_where_it_reads_the_body() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for expect in ["expect: 100-continue\r\n", "Expect: 100-Continue\r\n"] {
        let before = upstream.seen().concat();
        let mut client = Wire::connect(gateway.public()).await;
        let more = format!("{expect}{}", declared(4));
        client.send(request("POST /x/y", "alice", &more, "")).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
        assert_eq!(gateway.balance("alice").await["held"], 5, "it is held before the body comes");
        assert_eq!(upstream.seen().concat(), before, "nothing is forwarded before the body came");
        client.send("body").await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
        gateway.settled_balance("alice").await;
        let seen = upstream.seen().concat();
        assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
        assert!(!seen.to_ascii_lowercase().contains("expect:"), "{seen}");
        // The connection goes on.
        client.send(post("/x/y", "alice", "more")).await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
    }
}

#[tokio::test]
async fn a_refused_call_is_not_asked_for_its_body() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let more = format!("expect: 100-continue\r\n{}", declared(4));
    for (path, account, code) in [("/x/y", "poor", 402), ("/nothing", "alice", 404)] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("POST {path}"), account, &more, "")).await;
        let answer = client.rest().await;
        assert_eq!(status(&answer), code, "{answer}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn an_http_1_0_client_is_sent_no_100() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for length in [4, SMALL + 1] {
        let mut client = Wire::connect(gateway.public()).await;
        let more = format!("expect: 100-continue\r\n{}", declared(length));
        let whole = request("POST /x/y", "alice", &more, &body(length));
        client.send(whole.replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
        let answer = client.rest().await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    }
    assert!(!upstream.seen().concat().contains("expect"));
}

#[tokio::test]
async fn of_a_larger_body_the_upstream_says_whether_it_wants_it() {
    let upstream = RawUpstream::start(|mut wire| async move {
        let head = wire.head().await.unwrap();
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        if head.starts_with("POST /x/no") {
            wire.send("HTTP/1.1 417 No\r\ncontent-length: 2\r\n\r\nno").await;
        } else {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            wire.exactly(SMALL + 1).await.unwrap();
            wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        }
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let more = format!("expect: 100-continue\r\n{}", declared(SMALL + 1));
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /x/yes", "alice", &more, "")).await;
    assert_eq!(status(&client.head().await.unwrap()), 100);
    client.send(body(SMALL + 1)).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    assert_eq!(gateway.settled_balance("alice").await, 95);
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /x/no", "alice", &more, "")).await;
    assert_eq!(status(&client.message().await.unwrap().0), 417);
    drop(client);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn a_body_arrives_whole_however_it_comes_and_so_does_the_next_request() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    gateway.grant("alice", 1000).await;
    let mut client = Wire::connect(gateway.public()).await;
    for length in [0, 1, 2, 4095, 4096, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL] {
        for piece in [usize::MAX, 16_384, 1000] {
            let content = body(length);
            // The next request comes in the same bytes, right behind the body.
            let both = [post("/x/first", "alice", &content), post("/x/next", "alice", "next")];
            let both = both.concat().into_bytes();
            for part in both.chunks(piece) {
                client.send(part).await;
            }
            for _ in 0..2 {
                assert_eq!(status(&client.message().await.unwrap().0), 200);
            }
            let seen = upstream.seen().concat();
            let first = &seen[seen.rfind("POST /x/first ").unwrap()..];
            let (head, rest) = first.split_once("\r\n\r\n").unwrap();
            assert_eq!(header(head, "content-length"), Some(&*length.to_string()));
            assert_eq!(header(head, "transfer-encoding"), None);
            let (arrived, next) = rest.split_once("POST /x/next ").unwrap();
            assert!(arrived == content, "{length} in pieces of {piece}");
            assert!(next.ends_with("\r\n\r\nnext"), "{length} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_client_that_says_it_sends_nothing_more_has_left() {
    let upstream = silent().await;
    let gateway = raw(&upstream, "").await;
    let mut balance = 100;
    for whole in [post("/x/y", "alice", "{}"), request("GET /x/y", "alice", "", "")] {
        let before = upstream.seen().len();
        let mut client = Wire::connect(gateway.public()).await;
        client.send(whole).await;
        assert!(eventually(async || upstream.seen().len() > before).await);
        client.finish().await;
        assert_eq!(client.rest().await, "");
        balance -= 5;
        assert_eq!(gateway.settled_balance("alice").await, balance);
    }
}

/// A request of alice over HTTP/2, with a length or without one.
fn head(method: &str, length: Option<usize>) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("https://{HOST}/x/y"));
    let request = request.header("authorization", format!("Bearer {}", token("alice")));
    match length {
        Some(length) => request.header("content-length", length),
        None => request,
    }
    .body(())
    .unwrap()
}

/// Sends a body within the window that the other end grants.
async fn send_all(stream: &mut h2::SendStream<Bytes>, content: &str, piece: usize) {
    for part in content.as_bytes().chunks(piece) {
        let mut part = Bytes::copy_from_slice(part);
        while !part.is_empty() {
            stream.reserve_capacity(part.len());
            let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let granted = granted.unwrap().unwrap().min(part.len());
            stream.send_data(part.split_to(granted), false).unwrap();
        }
    }
}

#[tokio::test]
async fn an_http_2_body_with_a_length_arrives_whole_however_it_comes() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = tls::gateway(upstream.address, "", "").await;
    gateway.grant("alice", 1000).await;
    let mut client = http2(gateway.public(), &certificate).await;
    for length in [1, 1000, SMALL - 1, SMALL, SMALL + 1] {
        for (piece, trailers) in [(16_384, false), (999, false), (16_384, true)] {
            client = client.ready().await.unwrap();
            let (answer, mut stream) =
                client.send_request(head("POST", Some(length)), false).unwrap();
            let content = body(length);
            send_all(&mut stream, &content, piece).await;
            if trailers {
                stream.send_trailers(http::HeaderMap::new()).unwrap();
            } else {
                stream.send_data(Bytes::new(), true).unwrap();
            }
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
            let seen = upstream.seen().concat();
            let last = &seen[seen.rfind("POST /x/y ").unwrap()..];
            let (head, arrived) = last.split_once("\r\n\r\n").unwrap();
            assert_eq!(header(head, "content-length"), Some(&*length.to_string()));
            assert_eq!(header(head, "transfer-encoding"), None);
            assert!(arrived == content, "{length} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn over_http_2_too_nobody_has_work_done_by_keeping_a_byte_back() {
    for (method, length, sent, charged) in [
        ("POST", Some(10), 9, None),
        ("POST", Some(SMALL), SMALL - 1, None),
        ("POST", Some(MIB), 100, Some(false)),
        ("POST", Some(MIB), MIB - 10, Some(true)),
        ("POST", None, 0, Some(false)),
        ("POST", None, 1, Some(true)),
        ("GET", Some(1), 0, Some(true)),
        ("DELETE", None, 0, Some(true)),
    ] {
        let upstream = silent().await;
        let (gateway, certificate) = tls::gateway(upstream.address, "", "").await;
        let mut client = http2(gateway.public(), &certificate).await;
        let (answer, mut stream) = client.send_request(head(method, length), false).unwrap();
        send_all(&mut stream, &body(sent), 16_384).await;
        let is_there = eventually(async || {
            let account = gateway.admin(http::Method::GET, "/admin/accounts/alice", None).await;
            // A body without a length goes on in chunks.
            account["held"] == 5
                && match charged {
                    None => true,
                    Some(_) => body_bytes(&upstream).is_some_and(|arrived| arrived >= sent),
                }
        });
        assert!(is_there.await, "{method} {length:?} {sent}");
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        let balance = if charged == Some(true) { 95 } else { 100 };
        assert_eq!(tls::settled(&gateway).await, balance, "{method} {length:?} {sent}");
        assert_eq!(upstream.seen().is_empty(), charged.is_none(), "{method} {length:?} {sent}");
    }
}

#[tokio::test]
async fn an_http_2_body_that_stops_is_a_408_and_reaches_no_upstream() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) =
        tls::gateway(upstream.address, "body_timeout = \"300ms\"", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, mut stream) = client.send_request(head("POST", Some(10)), false).unwrap();
    send_all(&mut stream, "123456789", 100).await;
    assert_eq!(answer.await.unwrap().status(), 408);
    assert_eq!(tls::settled(&gateway).await, 100);
    assert_eq!(upstream.seen(), [""; 0]);
    // The connection's other streams go on.
    client = client.ready().await.unwrap();
    let (answer, mut stream) = client.send_request(head("POST", Some(2)), false).unwrap();
    stream.send_data(Bytes::from_static(b"{}"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn only_a_client_that_waits_for_a_100_is_sent_one() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for path in ["/credits/check", "/x/y"] {
        for (expect, expected) in [("100-continue", 100), ("a, 100-Continue", 100), ("a", 200)] {
            let mut client = Wire::connect(gateway.public()).await;
            let body = r#"{"endpoint":"/x/y"}"#;
            let more = format!("content-length: {}\r\nexpect: {expect}\r\n", body.len());
            client.send(request(&format!("POST {path}"), "alice", &more, "")).await;
            if expected == 200 {
                client.send(body).await;
            }
            let (head, _) = client.message().await.unwrap();
            assert_eq!(status(&head), expected, "{path} {expect}: {head}");
        }
    }
}
