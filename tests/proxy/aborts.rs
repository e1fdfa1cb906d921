//! Clients that leave.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::settlement::raw;
use super::tls;
use crate::support::eventually;
use crate::support::h2::{http2, read, send};
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};

#[tokio::test]
async fn leaving_after_the_whole_request_was_sent_is_charged_unless_the_route_says_otherwise() {
    for (option, balance) in
        [("", 95), ("on_client_abort = \"charge\"", 95), ("on_client_abort = \"release\"", 100)]
    {
        let (upstream, arrived) = RawUpstream::waiting().await;
        let gateway = raw(&upstream, option).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        assert!(eventually(async || upstream.seen().concat().ends_with("{}")).await);
        arrived.notified().await;
        drop(client);
        assert_eq!(gateway.settled_balance("alice").await, balance, "{option}");
    }
}

#[tokio::test]
async fn leaving_without_a_body_to_send_is_charged() {
    let (upstream, arrived) = RawUpstream::waiting().await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", "", "")).await;
    arrived.notified().await;
    drop(client);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn leaving_before_the_whole_request_was_sent_is_free() {
    let (upstream, arrived) = RawUpstream::waiting().await;
    let gateway = raw(&upstream, "").await;
    for (framing, part) in [
        ("content-length: 100000\r\n", "a part of it"),
        ("transfer-encoding: chunked\r\n", ""),
        ("transfer-encoding: chunked\r\n", "nonsense\r\n"),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", framing, part)).await;
        arrived.notified().await;
        drop(client);
        assert_eq!(gateway.settled_balance("alice").await, 100, "{part}");
    }
}

#[tokio::test]
async fn leaving_in_the_middle_of_a_stream_follows_the_route() {
    for (option, balance) in [("", 95), ("on_client_abort = \"release\"", 100)] {
        let upstream = RawUpstream::start(|mut wire| async move {
            wire.message().await;
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            wire.rest().await;
        })
        .await;
        let gateway = raw(&upstream, option).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        client.up_to("first").await.unwrap();
        drop(client);
        assert_eq!(gateway.settled_balance("alice").await, balance, "{option}");
    }
}

#[tokio::test]
async fn a_whole_answer_is_charged_though_the_client_kept_a_byte_of_its_request_back() {
    // An upstream that does not wait for the body; a client that takes the answer and leaves.
    for option in ["", "on_client_abort = \"release\""] {
        let upstream = RawUpstream::start(|mut wire| async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nall of!").await;
            wire.rest().await;
        })
        .await;
        let gateway = raw(&upstream, option).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", "content-length: 99999\r\n", "")).await;
        assert_eq!(client.message().await.unwrap().1, "all of!");
        drop(client);
        assert_eq!(gateway.settled_balance("alice").await, 95, "{option}");
    }
}

/// An answer counts whether or not it has a body.
#[tokio::test]
async fn an_answer_without_a_body_is_charged_though_the_client_kept_a_byte_of_its_request_back() {
    const MIB: usize = 1 << 20;
    for (answer, method) in [
        ("204 No Content\r\n", "POST"),
        ("302 Found\r\nlocation: /\r\ncontent-length: 0\r\n", "POST"),
        ("200 OK\r\ncontent-length: 0\r\n", "POST"),
        ("200 OK\r\ncontent-length: 00\r\n", "POST"),
        ("205 Reset Content\r\ncontent-length: 0\r\n", "PUT"),
        ("304 Not Modified\r\n", "GET"),
        ("200 OK\r\ncontent-length: 7\r\n", "HEAD"),
        ("200 OK\r\n", "HEAD"),
    ] {
        for option in ["", "on_client_abort = \"release\""] {
            let upstream = RawUpstream::start(move |mut wire| async move {
                wire.head().await;
                wire.send(format!("HTTP/1.1 {answer}\r\n")).await;
                wire.rest().await;
            })
            .await;
            let gateway = raw(&upstream, option).await;
            let mut client = Wire::connect(gateway.public()).await;
            let length = format!("content-length: {MIB}\r\n");
            let part = "x".repeat(MIB - 1);
            client.send(request(&format!("{method} /x/y"), "alice", &length, &part)).await;
            let head = client.head().await.unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {}", &answer[..3])), "{head}");
            assert_eq!(header(&head, "x-credits-cost"), Some("5"));
            drop(client);
            let balance = gateway.settled_balance("alice").await;
            assert_eq!(balance, 95, "{method} {answer} {option}");
        }
    }
}

#[tokio::test]
async fn most_of_an_answer_is_charged_though_the_client_kept_a_byte_of_its_request_back() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nmost\r\n").await;
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /x/y", "alice", "content-length: 99999\r\n", "")).await;
    client.up_to("most").await.unwrap();
    drop(client);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

/// An upstream that is silent because its client is silent has not broken off its answer.
#[tokio::test]
async fn an_answer_that_waits_for_a_client_that_stopped_is_charged_like_one_whose_client_left() {
    for (option, balance) in [("", 95), ("on_client_abort = \"release\"", 100)] {
        let upstream = RawUpstream::start(|mut wire| async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nmost\r\n").await;
            wire.rest().await;
        })
        .await;
        let gateway = raw(&upstream, &format!("read_timeout = \"200ms\"\n{option}")).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", "content-length: 99999\r\n", "")).await;
        let answer = client.rest().await;
        assert!(answer.contains("most") && !answer.ends_with("0\r\n\r\n"), "{answer}");
        assert_eq!(gateway.settled_balance("alice").await, balance, "{option}");
    }
}

#[tokio::test]
async fn a_client_that_left_after_a_large_body_or_behind_more_bytes_is_not_charged_where_the_route_says_so()
 {
    for (body, behind, reset) in [
        (150_000, 0, false),
        (1_000_000, 0, false),
        (1_000_000, 0, true),
        (10, 5_000, false),
        (10, 5_000, true),
    ] {
        for (option, balance) in [("on_client_abort = \"release\"", 100), ("", 95)] {
            let go = Arc::new(Notify::new());
            let signal = go.clone();
            let upstream = RawUpstream::start(move |mut wire| {
                let go = signal.clone();
                async move {
                    if wire.message().await.is_some() {
                        go.notified().await;
                        let _ =
                            wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            })
            .await;
            let gateway = raw(&upstream, option).await;
            let socket = tokio::net::TcpStream::connect(gateway.public()).await.unwrap();
            if reset {
                socket.set_zero_linger().unwrap();
            }
            let mut client = Wire::over(socket);
            client.send(post("/x/y", "alice", &"b".repeat(body))).await;
            client.send("x".repeat(behind)).await;
            let is_sent = async || upstream.seen().concat().matches('b').count() >= body;
            assert!(eventually(is_sent).await);
            drop(client);
            go.notify_one();
            let left = gateway.settled_balance("alice").await;
            assert_eq!(left, balance, "{body} {behind} reset: {reset} {option}");
        }
    }
}

/// How long the upstream of the next tests waits for a client that does not read.
const PATIENCE: Duration = Duration::from_millis(1500);

/// An upstream with an answer that is larger than all buffers. The upstream hangs up on a client
/// that does not read the answer, and then notifies the test.
async fn impatient() -> (RawUpstream, Arc<Notify>) {
    let gone = Arc::new(Notify::new());
    let gives_up = gone.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let gives_up = gives_up.clone();
        async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 900000000\r\n\r\n").await;
            let part = vec![b'x'; 64 << 10];
            while let Ok(Ok(())) = tokio::time::timeout(PATIENCE, wire.try_send(&part)).await {}
            drop(wire);
            gives_up.notify_one();
        }
    })
    .await;
    (upstream, gone)
}

#[tokio::test]
async fn an_upstream_that_gives_up_on_a_client_that_does_not_read_is_paid_like_one_whose_client_left()
 {
    for (option, balance) in [("", 95), ("on_client_abort = \"release\"", 100)] {
        let (upstream, gone) = impatient().await;
        let gateway = raw(&upstream, option).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        client.head().await.unwrap();
        // The client reads on once its upstream is gone.
        gone.notified().await;
        client.rest().await;
        assert_eq!(gateway.settled_balance("alice").await, balance, "{option}");
    }
}

#[tokio::test]
async fn so_is_one_that_gives_up_on_an_http_2_client() {
    for (option, balance) in [("", 95), ("on_client_abort = \"release\"", 100)] {
        let (upstream, gone) = impatient().await;
        let (gateway, certificate) = tls::gateway(upstream.address, "", option).await;
        let mut client = http2(gateway.public(), &certificate).await;
        let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
        let mut body = answer.await.unwrap().into_body();
        gone.notified().await;
        assert!(read(&mut body).await.is_err(), "the answer is cut, and does not seem whole");
        assert_eq!(tls::settled(&gateway).await, balance, "{option}");
    }
}

#[tokio::test]
async fn a_pipelined_request_is_not_taken_for_a_client_that_left() {
    let go = Arc::new(Notify::new());
    let signal = go.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let go = signal.clone();
        async move {
            while let Some((head, _)) = wire.message().await {
                go.notified().await;
                let path = head.split(' ').nth(1).unwrap();
                let length = path.len();
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}"))
                    .await;
            }
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/first", "alice", "{}")).await;
    assert!(eventually(async || upstream.seen().concat().ends_with("{}")).await);
    client.send(post("/x/second", "alice", "{}")).await;
    client.send(request("GET /credits/balance", "alice", "", "")).await;
    go.notify_one();
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), body.as_str()), (200, "/x/first"));
    assert_eq!(header(&head, "x-credits-remaining"), Some("95"));
    go.notify_one();
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), body.as_str()), (200, "/x/second"));
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    assert_eq!(gateway.settled_balance("alice").await, 90);
}
