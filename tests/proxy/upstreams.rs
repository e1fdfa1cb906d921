//! Connections to upstreams are used again only if nothing is left on them. Other tests are about
//! upstreams that send what they should not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::settlement::{raw, route};
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, config_text, config_with, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\n";

/// One call of alice, to its answer.
async fn call(gateway: &TestGateway, text: String) -> (String, String) {
    let mut client = Wire::connect(gateway.public()).await;
    client.send(text).await;
    client.message().await.unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_once_request_and_answer_have_ended() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for text in [
        post("/x/y", "alice", "{}"),
        request("GET /x/y", "alice", "", ""),
        post("/x/y", "alice", &"b".repeat(300_000)),
        request("HEAD /x/y", "alice", "", ""),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        let is_head = text.starts_with("HEAD");
        client.send(text).await;
        assert_eq!(status(&client.head().await.unwrap()), 200);
        if is_head {
            // The canned answer has a body that a HEAD has not: nothing may be read after it.
            break;
        }
        client.exactly(2).await.unwrap();
    }
    assert_eq!(upstream.seen().len(), 1, "each call after the first took the kept connection");
}

#[tokio::test]
async fn a_connection_is_not_used_again_where_something_is_left_on_it_or_its_upstream_closes() {
    for (answer, is_left) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", "closes"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.0 closes"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", "more came"),
        ("HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 2\r\n\r\nok", "no time"),
    ] {
        let upstream = RawUpstream::answering(answer).await;
        let gateway = raw(&upstream, "").await;
        for calls in 1..=3 {
            let (head, body) = call(&gateway, post("/x/y", "alice", "{}")).await;
            assert_eq!((status(&head), &*body), (200, "ok"), "{is_left}");
            assert_eq!(upstream.seen().len(), calls, "{is_left}");
        }
    }
}

/// An upstream that answers twice must not answer another caller, however soon that one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_unasked_on_an_idle_connection_is_no_answer_to_the_next_call() {
    let (sent, said) = tokio::sync::mpsc::channel::<()>(1);
    let upstream = RawUpstream::start(move |mut wire| {
        let sent = sent.clone();
        async move {
            while wire.message().await.is_some() {
                wire.send(OK).await;
                tokio::task::yield_now().await;
                let more = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
                if wire.try_send(more).await.is_err() || sent.send(()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    gateway.grant("alice", 2000).await;
    let mut said = said;
    let mut client = Wire::connect(gateway.public()).await;
    for call in 0..200 {
        client.send(post("/x/y", "alice", "{}")).await;
        let (head, body) = client.message().await.unwrap();
        assert_eq!((status(&head), &*body), (200, "ok"), "call {call}");
        said.recv().await.unwrap();
    }
}

/// The next call must not get into what is left of an upload.
#[tokio::test]
async fn a_connection_on_which_a_request_has_not_ended_is_not_used_again() {
    let upstream = RawUpstream::start(|mut wire| async move {
        while wire.head().await.is_some() {
            wire.send(OK).await;
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /x/y", "alice", "content-length: 99999\r\n", "part")).await;
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), &*body), (200, "ok"));
    assert_eq!(header(&head, "connection"), Some("close"), "the rest of the request may come");
    drop(client);
    assert_eq!(gateway.settled_balance("alice").await, 95);
    call(&gateway, request("GET /x/y", "alice", "", "")).await;
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[1].starts_with("GET /x/y "), "{seen:?}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_its_time_is_up() {
    let ended = Arc::new(Notify::new());
    let signal = ended.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let ended = signal.clone();
        async move {
            wire.message().await;
            wire.send(OK).await;
            wire.rest().await;
            ended.notify_one();
        }
    })
    .await;
    let text = config_text(upstream.address, &route(""));
    let text =
        text.replacen("[[upstreams]]\n", "[[upstreams]]\nkeepalive_timeout = \"200ms\"\n", 1);
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    call(&gateway, post("/x/y", "alice", "{}")).await;
    let closed = tokio::time::timeout(Duration::from_secs(5), ended.notified());
    closed.await.expect("nobody asks for it, and it is closed all the same");
}

/// An upstream that refuses an upload may say so and hang up before it has read it.
#[tokio::test]
async fn an_answer_is_heard_though_the_upstream_takes_no_more_of_the_request() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 413 Large\r\ncontent-length: 3\r\n\r\nno!").await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    for _ in 0..10 {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", "content-length: 4000000\r\n", "")).await;
        // The upstream's end of the connection is gone while this comes.
        let part = "x".repeat(100_000);
        for _ in 0..20 {
            if client.try_send(&part).await.is_err() {
                break;
            }
        }
        let (head, body) = client.message().await.expect("the upstream's words");
        assert_eq!((status(&head), &*body), (413, "no!"));
        drop(client);
        assert_eq!(gateway.settled_balance("alice").await, 100);
    }
}

#[tokio::test]
async fn a_client_may_send_the_rest_of_its_request_after_an_early_answer_for_a_while() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 403 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    let length = 3_000_000;
    client.send(request("POST /x/y", "alice", &format!("content-length: {length}\r\n"), "")).await;
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), &*body), (403, "no"));
    assert_eq!(header(&head, "connection"), Some("close"));
    client.send("x".repeat(length)).await;
    assert_eq!(client.rest().await, "", "it was read to its end, then closed");
    // A client that goes on and on is cut off.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("POST /x/y", "alice", "transfer-encoding: chunked\r\n", "")).await;
    client.message().await.unwrap();
    let started = Instant::now();
    while client.try_send("1\r\nx\r\n").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(started.elapsed() < Duration::from_secs(15), "it goes on and on");
    }
    assert!(started.elapsed() > Duration::from_secs(3), "{:?}", started.elapsed());
}

/// An upstream must not take a part of a body for all of it.
#[tokio::test]
async fn a_broken_upload_is_cut_without_its_end_and_what_was_sent_arrives() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    for (framing, part) in [
        ("transfer-encoding: chunked\r\n", "4\r\npart\r\n"),
        ("transfer-encoding: chunked\r\n", "4\r\npart\r\nnonsense\r\n"),
        ("content-length: 100000\r\n", "part"),
    ] {
        let before = upstream.seen().len();
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", framing, part)).await;
        client.finish().await;
        client.rest().await;
        let arrived =
            async || upstream.seen().get(before).is_some_and(|seen| seen.contains("part"));
        assert!(eventually(arrived).await, "{part:?}");
        gateway.settled_balance("alice").await;
        assert!(!upstream.seen()[before].ends_with("0\r\n\r\n"), "{:?}", upstream.seen());
    }
}

#[tokio::test]
async fn an_answer_without_an_end_of_its_own_comes_in_chunks() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    for _ in 0..2 {
        client.send(request("GET /x/y", "alice", "", "")).await;
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        assert_eq!(header(&head, "connection"), Some("keep-alive"));
        let body = client.up_to("\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(body, "D\r\nuntil the end\r\n0\r\n\r\n");
    }
}

const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// An upstream may switch only to a protocol that the client asked for, and that the request upstream asked for too.
#[tokio::test]
async fn a_101_counts_only_where_it_was_asked_for_and_panics_nowhere() {
    let websocket =
        "[[routes]]\npath = \"/ws\"\nupstream = \"ai\"\ncredits = 5\nwebsocket = true\n";
    let old = SWITCHING.replacen("HTTP/1.1", "HTTP/1.0", 1);
    let twice = [SWITCHING, SWITCHING].concat();
    let after_interim = format!("HTTP/1.1 100 Continue\r\n\r\n{SWITCHING}");
    for (path, more, answer, code) in [
        ("/x/y", "", SWITCHING.to_owned(), 502),
        ("/x/y", "upgrade: websocket\r\n", SWITCHING.to_owned(), 502),
        ("/x/y", "connection: upgrade\r\nupgrade: h2c\r\n", SWITCHING.to_owned(), 502),
        ("/ws", "", twice.clone(), 502),
        ("/ws", UPGRADE, old, 502),
        ("/x/y", "", after_interim, 502),
        // A second one is the first bytes of the tunnel.
        ("/ws", UPGRADE, twice, 101),
    ] {
        let sent = answer.clone();
        let upstream = RawUpstream::start(move |mut wire| {
            let answer = sent.clone();
            async move {
                wire.message().await;
                let _ = wire.try_send(answer).await;
                let _ = wire.try_send("more of it").await;
                wire.rest().await;
            }
        })
        .await;
        let text = config_text(upstream.address, &format!("{websocket}{}", route("")));
        let gateway = TestGateway::start(&text).await;
        gateway.grant("alice", 100).await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("GET {path}"), "alice", more, "")).await;
        let mut head = client.head().await.unwrap();
        if answer.starts_with("HTTP/1.1 100") {
            head = client.head().await.unwrap();
        }
        assert_eq!(status(&head), code, "{path} {more:?} {answer:?}");
        if code == 101 {
            assert_eq!(client.head().await.unwrap(), SWITCHING);
            assert_eq!(client.exactly(10).await.unwrap(), b"more of it");
        }
        drop(client);
        let balance = if code == 101 { 95 } else { 100 };
        assert_eq!(gateway.settled_balance("alice").await, balance, "{path} {more:?}");
        // A panic would have been counted as a call that was cut off.
        let label = if path == "/ws" { "/ws" } else { "/x/{*rest}" };
        let requests = &gateway.gateway.metrics().requests;
        let counted = requests.with_label_values(&[label, &code.to_string()]).get();
        assert_eq!(counted, 1, "{path} {more:?} {answer:?}");
    }
}

#[tokio::test]
async fn each_attempt_is_counted_by_how_it_ended() {
    let upstream = RawUpstream::start(|mut wire| async move {
        while let Some((head, _)) = wire.message().await {
            let answer = match head.split(' ').nth(1).unwrap_or_default() {
                "/x/ok" => OK,
                "/x/moved" => "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
                "/x/4xx" => "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
                "/x/5xx" => "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                "/x/breaks" => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome",
                "/x/nonsense" => "nonsense\r\n\r\n",
                "/x/silent" => {
                    wire.rest().await;
                    return;
                }
                _ => return,
            };
            wire.send(answer).await;
            if answer.ends_with("some") {
                return;
            }
        }
    })
    .await;
    let gateway = raw(&upstream, "read_timeout = \"300ms\"").await;
    let counted = |outcome: &str| {
        let metrics = gateway.gateway.metrics();
        metrics.upstream_requests.with_label_values(&["ai", outcome]).get()
    };
    for (path, outcome) in [
        ("ok", "ok"),
        ("moved", "ok"),
        ("4xx", "status_4xx"),
        ("5xx", "status_5xx"),
        ("breaks", "closed"),
        ("hangs-up", "closed"),
        ("nonsense", "closed"),
        ("silent", "timeout"),
    ] {
        let before = counted(outcome);
        let mut client = Wire::connect(gateway.public()).await;
        let close = "connection: close\r\n";
        client.send(request(&format!("GET /x/{path}"), "alice", close, "")).await;
        client.rest().await;
        gateway.settled_balance("alice").await;
        assert_eq!(counted(outcome), before + 1, "{path}");
    }
    let all = ["ok", "connect", "timeout", "closed", "status_4xx", "status_5xx"];
    assert_eq!(all.map(counted).iter().sum::<u64>(), 8, "each is counted once");

    // A client that leaves is no outcome of the upstream's.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/silent", "alice", "", "")).await;
    assert!(eventually(async || upstream.seen().concat().matches("/x/silent").count() == 2).await);
    drop(client);
    gateway.settled_balance("alice").await;
    assert_eq!(all.map(counted).iter().sum::<u64>(), 8);

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let gateway = TestGateway::start(&config_with(address, "", "", &route(""))).await;
    gateway.grant("alice", 100).await;
    assert_eq!(gateway.post("alice", "/x/y").await.status(), 502);
    let metrics = gateway.gateway.metrics();
    assert_eq!(metrics.upstream_requests.with_label_values(&["ai", "connect"]).get(), 1);
}

#[tokio::test]
async fn connect_is_405_and_only_a_head_that_breaks_the_rules_is_400() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for (text, code) in [
        (request("CONNECT shop:443", "alice", "", ""), 405),
        ("GET /x/y HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /x/y HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), 400),
        ("GET /x/y HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n".to_owned(), 400),
        ("GET /x/y HTTP/9.9\r\nhost: a\r\n\r\n".to_owned(), 400),
        ("\0\0\0\0\r\n\r\n".to_owned(), 400),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(&text).await;
        let answer = client.rest().await;
        assert_eq!(status(&answer), code, "{text:?}");
        assert!(answer.contains("\"code\":\"BAD_REQUEST\""), "{answer}");
        assert!(header(&answer, "x-request-id").is_some(), "{answer}");
    }
    // A head that never ends is not one that breaks the rules: nobody waits for an answer.
    let mut client = Wire::connect(gateway.public()).await;
    client.send("GET /x/y HTTP/1.1\r\nhost: a\r\n").await;
    client.finish().await;
    assert_eq!(client.rest().await, "");
    assert_eq!(upstream.seen(), [""; 0]);
}
