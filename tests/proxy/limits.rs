//! Clients that are slow, large or many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::settlement::route;
use crate::support::h2::{connect, http2, send};
use crate::support::wire::{RawUpstream, Wire, post, request, status};
use crate::support::{TestGateway, config_with, eventually, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn limited(server: &str) -> (TestGateway, RawUpstream) {
    let upstream = RawUpstream::answering(OK).await;
    let text = config_with(upstream.address, server, "", &route(""));
    let gateway = TestGateway::start(&text).await;
    (gateway, upstream)
}

/// Sends `bytes` one by one, 20 ms apart, until the other end hangs up; how long that took.
async fn drip(client: &mut Wire, bytes: &str) -> Duration {
    let started = Instant::now();
    for byte in bytes.as_bytes() {
        if client.try_send([*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.rest().await;
    started.elapsed()
}

#[tokio::test]
async fn a_head_must_come_in_time_even_drip_by_drip() {
    let (gateway, upstream) = limited("header_timeout = \"300ms\"").await;
    let head = request("GET /x/y", "alice", &"x: y\r\n".repeat(100), "");
    for sent in ["", "GET /x/y HTTP/1.1\r\nhost:"] {
        let mut client = Wire::connect(gateway.public()).await;
        let started = Instant::now();
        client.send(sent).await;
        client.rest().await;
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
    let mut client = Wire::connect(gateway.public()).await;
    let took = drip(&mut client, &head).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn the_next_head_must_come_in_time_too() {
    let (gateway, _upstream) = limited("keepalive_timeout = \"400ms\"").await;
    gateway.grant("alice", 100).await;
    let head = request("GET /x/y", "alice", &"x: y\r\n".repeat(100), "");
    for sent in ["", &*head] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
        let took = drip(&mut client, sent).await;
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_as_long_as_the_config_says() {
    let (gateway, _upstream) =
        limited("header_timeout = \"200ms\"\nkeepalive_timeout = \"10s\"").await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    for _ in 0..2 {
        client.send(post("/x/y", "alice", "{}")).await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
        // This is longer than a first head may take.
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn a_call_may_take_longer_than_a_head() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        wire.send(OK).await;
    })
    .await;
    let server = "header_timeout = \"100ms\"\nkeepalive_timeout = \"200ms\"";
    let text = config_with(upstream.address, server, "", &route(""));
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    assert_eq!(gateway.post("alice", "/x/y").await.status(), 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_431() {
    let (gateway, upstream) = limited("max_header_bytes = 2048").await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", &format!("x: {}\r\n", "y".repeat(1000)), "")).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    for more in [format!("x: {}\r\n", "y".repeat(2048)), "x: y\r\n".repeat(500)] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("GET /x/y", "alice", &more, "")).await;
        let answer = client.rest().await;
        // A head with more headers than the parser counts is unreadable.
        assert!(matches!(status(&answer), 431 | 400), "{answer}");
    }
    assert_eq!(upstream.seen().concat().matches("GET ").count(), 1);
}

#[tokio::test]
async fn the_next_connection_waits_where_calls_run_on_all_and_is_served_when_one_has_ended() {
    let go = Arc::new(Notify::new());
    let signal = go.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let go = signal.clone();
        async move {
            while wire.message().await.is_some() {
                go.notified().await;
                wire.send(OK).await;
            }
        }
    })
    .await;
    let text = config_with(upstream.address, "max_connections = 2", "", &route(""));
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let address = gateway.public();
    let (mut first, mut second) = (Wire::connect(address).await, Wire::connect(address).await);
    for wire in [&mut first, &mut second] {
        wire.send(post("/x/y", "alice", "{}")).await;
    }
    assert!(eventually(async || upstream.seen().len() == 2).await);
    let mut third = Wire::connect(address).await;
    third.send(request("GET /credits/balance", "alice", "", "")).await;
    let waited = tokio::time::timeout(Duration::from_millis(800), third.head()).await;
    assert!(waited.is_err(), "the third is not served yet");
    go.notify_waiters();
    for wire in [&mut first, &mut second] {
        assert_eq!(status(&wire.message().await.unwrap().0), 200, "calls are not cut off");
    }
    assert_eq!(status(&third.message().await.unwrap().0), 200);
}

#[tokio::test]
async fn silent_connections_make_room_at_the_limit_and_keep_nobody_out() {
    let (gateway, _upstream) = limited("max_connections = 4").await;
    gateway.grant("alice", 100).await;
    let address = gateway.public();
    // Two that have called and two that have not: all are silent.
    let mut silent = vec![serve(address).await, serve(address).await];
    for sent in ["", "GET /x/y HTTP/1.1\r\nhost:"] {
        let mut wire = Wire::connect(address).await;
        wire.send(sent).await;
        silent.push(wire);
    }
    for _ in 0..4 {
        let started = Instant::now();
        let mut caller = Wire::connect(address).await;
        caller.send(post("/x/y", "alice", "{}")).await;
        assert_eq!(status(&caller.message().await.unwrap().0), 200);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        silent.push(caller);
    }
}

#[tokio::test]
async fn idle_http_2_connections_make_room_too_and_one_on_which_a_call_runs_does_not() {
    let go = Arc::new(Notify::new());
    let signal = go.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let go = signal.clone();
        async move {
            while let Some((head, _)) = wire.message().await {
                if head.contains("/x/slow") {
                    go.notified().await;
                }
                wire.send(OK).await;
            }
        }
    })
    .await;
    let (gateway, certificate) =
        super::tls::gateway(upstream.address, "max_connections = 3", "").await;
    let mut busy = http2(gateway.public(), &certificate).await;
    let (slow, _) = send(&mut busy, "GET", "/x/slow", "alice", true);
    assert!(eventually(async || upstream.seen().concat().contains("/x/slow")).await);
    let mut idle = Vec::new();
    for _ in 0..6 {
        let started = Instant::now();
        let mut client = http2(gateway.public(), &certificate).await;
        let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
        let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
        assert_eq!(answer.expect("idle connections keep it out").unwrap().status(), 200);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        idle.push(client);
    }
    go.notify_one();
    assert_eq!(slow.await.unwrap().status(), 200, "its connection was not given away");
}

async fn serve(address: SocketAddr) -> Wire {
    let mut client = Wire::connect(address).await;
    client.send(request("GET /credits/balance", "alice", "", "")).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    client
}

#[tokio::test]
async fn a_connection_that_sends_nothing_gives_its_place_back() {
    let upstream = RawUpstream::answering(OK).await;
    let server = "header_timeout = \"200ms\"\nmax_connections = 1";
    // Slow to shake hands.
    let (gateway, certificate) = super::tls::gateway(upstream.address, server, "").await;
    let mut silent = Wire::connect(gateway.public()).await;
    let stream = connect(gateway.public(), &certificate, &["h2"]).await.unwrap();
    assert_eq!(silent.rest().await, "");
    // Shakes hands, and never sends HTTP/2's preface.
    let mut silent = Wire::over(stream);
    let next = connect(gateway.public(), &certificate, &["http/1.1"]);
    let next = tokio::time::timeout(Duration::from_secs(5), next).await;
    assert!(next.is_ok(), "the place of a silent HTTP/2 connection was given away");
    silent.rest().await;
    drop(next);
    // Sends the preface, and no request.
    let stream = connect(gateway.public(), &certificate, &["h2"]).await.unwrap();
    let (_client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let ended = tokio::time::timeout(Duration::from_secs(5), connection).await;
    assert!(ended.is_ok(), "an HTTP/2 connection without a request was closed");
}

#[tokio::test]
async fn an_own_route_reads_no_endless_body() {
    let (gateway, _upstream) = limited("").await;
    let request = gateway.client.post(gateway.url("/credits/check")).bearer_auth(token("alice"));
    let answer = request.body("x".repeat(600 * 1024)).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert!(eventually(async || gateway.balance("alice").await["held"] == 0).await);
}

#[tokio::test]
async fn a_body_for_an_own_route_must_come_in_time_even_drip_by_drip() {
    let (gateway, _upstream) = limited("header_timeout = \"300ms\"").await;
    let mut client = Wire::connect(gateway.public()).await;
    let length = "content-length: 900\r\n";
    client.send(request("POST /credits/check", "alice", length, "")).await;
    let started = Instant::now();
    for _ in 0..200 {
        if client.try_send("x").await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if started.elapsed() > Duration::from_millis(1000) {
            break;
        }
    }
    assert_eq!(status(&client.head().await.expect("an answer")), 408);
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_own_route_refuses_by_the_head_before_it_reads_a_body() {
    let (gateway, _upstream) = limited("").await;
    let anonymous = |target: &str| {
        format!("POST {target} HTTP/1.1\r\nhost: shop\r\ncontent-length: 60000\r\n\r\n")
    };
    let length = "content-length: 60000\r\n";
    for (head, refusal) in [
        (anonymous("/credits/check"), 401),
        (anonymous("/credits/buy"), 401),
        (anonymous("/credits/holds"), 401),
        (anonymous("/credits/nothing-here"), 404),
        (request("POST /credits/holds", "alice", length, ""), 403),
        (request("PUT /credits/check", "alice", length, ""), 405),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(&head).await;
        let (answer, _) = client.message().await.expect("an answer before the body");
        assert_eq!(status(&answer), refusal, "{head}");
    }
}

#[tokio::test]
async fn an_own_route_asks_for_a_body_that_waits_only_where_it_reads_it() {
    let (gateway, _upstream) = limited("").await;
    let body = r#"{"endpoint":"/x/y","method":"POST"}"#;
    let more = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len());
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /credits/check", "alice", &more, "")).await;
    assert_eq!(status(&client.head().await.expect("a 100")), 100);
    client.send(body).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    // The connection goes on.
    client.send(request("GET /credits/balance", "alice", "", "")).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);

    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /credits/holds", "alice", &more, "")).await;
    assert_eq!(status(&client.rest().await), 403, "no 100, and the connection ends");
}

#[tokio::test]
async fn a_head_just_past_the_limit_is_a_431_whether_or_not_it_ends() {
    let (gateway, upstream) = limited("max_header_bytes = 4096").await;
    gateway.grant("alice", 100).await;
    let frame = request("GET /x/y", "alice", "x: \r\n", "").len();
    let of_length = |bytes: usize| {
        request("GET /x/y", "alice", &format!("x: {}\r\n", "y".repeat(bytes - frame)), "")
    };
    let mut client = Wire::connect(gateway.public()).await;
    for _ in 0..3 {
        client.send(of_length(4096)).await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
    }
    for (sent, what) in [
        (of_length(4097), "a byte more"),
        (of_length(4097)[..4097].to_owned() + "y", "without its end"),
        (of_length(60_000), "far more"),
        (of_length(60_000)[..50_000].to_owned(), "far more, without its end"),
    ] {
        for after_a_call in [false, true] {
            let mut client = Wire::connect(gateway.public()).await;
            if after_a_call {
                client.send(of_length(2000)).await;
                assert_eq!(status(&client.message().await.unwrap().0), 200);
            }
            client.send(&sent).await;
            let (head, body) = client.message().await.expect(what);
            assert_eq!(status(&head), 431, "{what}");
            assert!(body.contains("larger than 4096 bytes"), "{what}: {body}");
            assert!(head.contains("x-request-id: "), "{what}: {head}");
            client.finish_quietly().await;
            assert_eq!(client.rest().await, "", "{what}: the connection ends");
        }
    }
    assert_eq!(upstream.seen().concat().matches("GET ").count(), 3 + 4);
}

#[tokio::test]
async fn an_endless_head_is_cut_off_near_the_limit() {
    let (gateway, upstream) = limited("max_header_bytes = 4096").await;
    for endless in ["x", "x: y\r\n"] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send("GET /x/y HTTP/1.1\r\nhost: shop\r\nx: ").await;
        let mut sent = 0;
        let part = endless.repeat(1024 / endless.len());
        while sent < 900 << 10 && client.try_send(&part).await.is_ok() {
            sent += part.len();
            // The part that was sent has been read before the next one.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(sent < 256 << 10, "took {sent} bytes of {endless:?}");
    }
    // A body that comes with its head is no head.
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", &"x".repeat(1 << 20))).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    for _ in 0..20 {
        client.send(post("/x/y", "poor", &"x".repeat(3000))).await;
        assert_eq!(status(&client.message().await.unwrap().0), 402);
    }
    assert_eq!(upstream.seen().len(), 1);
}
