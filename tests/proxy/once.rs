//! A request that may have reached an upstream is never sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;

use super::settlement::{raw, route};
use crate::support::wire::{RawUpstream, Wire, post, request, status};
use crate::support::{TestGateway, config_text, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers the first request of each connection, and hangs up upon the second one: after its
/// head or with a part of an answer.
async fn hangs_up_on_the_second(last_words: &'static str) -> RawUpstream {
    RawUpstream::start(move |mut wire| async move {
        wire.message().await;
        wire.send(OK).await;
        if wire.message().await.is_some() {
            wire.send(last_words).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_reused_connection_that_hangs_up_is_a_502_and_not_a_second_try() {
    for last_words in ["", "HTTP/1.1 200"] {
        for method in ["GET", "HEAD", "PUT", "DELETE", "POST"] {
            let upstream = hangs_up_on_the_second(last_words).await;
            let gateway = raw(&upstream, "").await;
            assert_eq!(gateway.post("alice", "/x/first").await.status(), 200);
            let mut client = Wire::connect(gateway.public()).await;
            let body = if method == "POST" { "content-length: 2\r\n" } else { "" };
            let text = if method == "POST" { "{}" } else { "" };
            client.send(request(&format!("{method} /x/second"), "alice", body, text)).await;
            assert_eq!(status(&client.head().await.unwrap()), 502, "{method}");
            let seen = upstream.seen();
            assert_eq!(seen.len(), 1, "on the first connection: {seen:?}");
            assert_eq!(seen.concat().matches("/x/second").count(), 1, "{method}");
            assert_eq!(gateway.settled_balance("alice").await, 95);
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_while_idle_is_not_used_again() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let served = count.clone();
        async move {
            wire.message().await;
            wire.send(OK).await;
            served.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    for calls in 1..=20 {
        let answer = gateway.post("alice", "/x/y").await;
        // The end of the connection races with the next call, which then may be lost, but is
        // not sent twice.
        assert!(matches!(answer.status().as_u16(), 200 | 502));
        assert!(served.load(Ordering::SeqCst) <= calls);
        if gateway.settled_balance("alice").await == 0 {
            break;
        }
    }
    assert!(served.load(Ordering::SeqCst) > 10);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn connecting_is_tried_again_at_the_next_address() {
    // `localhost` has two addresses where there is IPv6; only one of them answers.
    let upstream = RawUpstream::answering(OK).await;
    let text = config_text(upstream.address, &route(""));
    let text = text.replace("http://127.0.0.1:", "http://localhost:");
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    for _ in 0..4 {
        let request = gateway.client.request(Method::GET, gateway.url("/x/y"));
        assert_eq!(request.bearer_auth(token("alice")).send().await.unwrap().status(), 200);
    }
    let seen = upstream.seen().concat();
    assert_eq!(seen.matches("GET /x/y").count(), 4);
    let port = upstream.address.port();
    assert_eq!(seen.matches(&format!("\r\nHost: localhost:{port}\r\n")).count(), 4, "{seen}");
}

#[tokio::test]
async fn what_is_left_of_one_answer_is_not_taken_for_the_next() {
    // An upstream that sends more than it said must not answer the next caller with it.
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
                    HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let upstream = RawUpstream::answering(smuggled).await;
    let gateway = raw(&upstream, "").await;
    for _ in 0..5 {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        let (head, body) = client.message().await.unwrap();
        assert!(status(&head) == 502 || body == "ok", "{head}{body}");
    }
}
