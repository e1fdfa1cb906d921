//! WebSocket connections: on the routes that say so, and nowhere else.

use std::time::Duration;

use super::settlement::route;
use crate::support::wire::{RawUpstream, Wire, header, request, status};
use crate::support::{TestGateway, config_text, config_with};

const UPGRADE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// 7 credits a connection.
const WS: &str = "[[routes]]\npath = \"/ws\"\nmethods = [\"GET\"]\nupstream = \"ai\"\n\
                  credits = 7\nwebsocket = true\n";

/// Accepts upgrades and echoes what comes then; answers everything else with 200.
async fn echo() -> RawUpstream {
    RawUpstream::start(|mut wire| async move {
        while let Some((head, _)) = wire.message().await {
            if header(&head, "upgrade") != Some("websocket") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await;
                continue;
            }
            wire.send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                 upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzhZRbK+xOo=\r\n\r\n",
            )
            .await;
            while let Some(frame) = wire.exactly(4).await {
                if wire.try_send(frame).await.is_err() {
                    return;
                }
            }
            return;
        }
    })
    .await
}

async fn gateway(upstream: &RawUpstream) -> TestGateway {
    let more = format!("{WS}{}", route(""));
    let gateway = TestGateway::start(&config_text(upstream.address, &more)).await;
    gateway.grant("alice", 100).await;
    gateway
}

#[tokio::test]
async fn a_websocket_passes_both_ways_and_is_priced_once() {
    let upstream = echo().await;
    let gateway = gateway(&upstream).await;
    for closes_first in ["client", "upstream"] {
        let before = gateway.settled_balance("alice").await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("GET /ws", "alice", UPGRADE, "")).await;
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), 101);
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "x-credits-cost"), Some("7"));
        for frame in ["one!", "two!", "GET ", "\0\0\0\0"] {
            client.send(frame).await;
            assert_eq!(client.exactly(4).await.unwrap(), frame.as_bytes());
        }
        assert_eq!(gateway.settled_balance("alice").await, before - 7, "while it is open");
        if closes_first == "client" {
            drop(client);
        } else {
            client.finish().await;
            client.rest().await;
        }
        assert_eq!(gateway.settled_balance("alice").await, before - 7);
    }
    let seen = upstream.seen().concat();
    assert_eq!(header(&seen, "x-farebox-account"), Some("alice"));
    assert_eq!(header(&seen, "authorization"), None);
}

#[tokio::test]
async fn a_websocket_that_a_stop_cuts_stays_paid_for() {
    let upstream = echo().await;
    let text = config_with(upstream.address, "shutdown_timeout = \"200ms\"", "", WS);
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /ws", "alice", UPGRADE, "")).await;
    assert_eq!(status(&client.head().await.unwrap()), 101);
    client.send("ping").await;
    assert_eq!(client.exactly(4).await.unwrap(), b"ping");
    let folder = gateway.stop().await;
    assert_eq!(client.rest().await, "");
    let gateway = TestGateway::start_in(folder, &text).await;
    assert_eq!(gateway.settled_balance("alice").await, 93);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_websocket_may_be_silent_for_longer_than_a_body() {
    let upstream = echo().await;
    let text = config_with(upstream.address, "body_timeout = \"200ms\"", "", WS);
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    for framing in ["", "transfer-encoding: chunked\r\n"] {
        let mut client = Wire::connect(gateway.public()).await;
        let more = format!("{UPGRADE}{framing}");
        client.send(request("GET /ws", "alice", &more, "")).await;
        assert_eq!(status(&client.head().await.unwrap()), 101);
        tokio::time::sleep(Duration::from_millis(600)).await;
        client.send("ping").await;
        assert_eq!(client.exactly(4).await.unwrap(), b"ping");
    }
}

#[tokio::test]
async fn an_upgrade_on_another_route_is_refused_and_free() {
    let upstream = echo().await;
    let gateway = gateway(&upstream).await;
    for upgrade in ["websocket", "WebSocket"] {
        let mut client = Wire::connect(gateway.public()).await;
        let lines = UPGRADE.replace("websocket\r\nsec", &format!("{upgrade}\r\nsec"));
        client.send(request("GET /x/y", "alice", &lines, "")).await;
        assert_eq!(status(&client.head().await.unwrap()), 400);
    }
    assert_eq!(upstream.seen(), [""; 0]);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

/// The connection does as the answer says of it: it goes on to the next request, or it ends.
#[tokio::test]
async fn behind_an_upgrade_that_is_refused_the_next_request_is_a_request() {
    let upstream = echo().await;
    let gateway = gateway(&upstream).await;
    gateway.grant("alice", 1000).await;
    let next = request("GET /x/next", "alice", "", "");
    let mut answered = 0;
    for (line, account, code) in [
        ("GET /x/y", "alice", 400),
        ("POST /x/y", "alice", 400),
        ("GET /ws", "poor", 402),
        ("GET /nothing", "alice", 404),
        ("GET /credits/balance", "alice", 200),
        ("POST /credits/check", "alice", 400),
    ] {
        for (framing, body) in [
            ("", ""),
            ("content-length: 4\r\n", "body"),
            ("transfer-encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n"),
        ] {
            for pipelined in [false, true] {
                let what = format!("{line} {framing} {pipelined}");
                let mut client = Wire::connect(gateway.public()).await;
                let more = format!("{UPGRADE}{framing}");
                let first = request(line, account, &more, body);
                client.send(if pipelined { format!("{first}{next}") } else { first }).await;
                let (head, _) = client.message().await.unwrap();
                assert_eq!(status(&head), code, "{what}: {head}");
                if header(&head, "connection") == Some("close") {
                    assert_eq!(client.rest().await, "", "{what}");
                    continue;
                }
                if !pipelined {
                    client.send(&next).await;
                }
                let (head, body) = client.message().await.expect(&what);
                assert_eq!((status(&head), &*body), (200, "plain"), "{what}");
                answered += 1;
            }
        }
    }
    assert_eq!(answered, 36, "there is no reason to end any of these connections");
    let seen = upstream.seen().concat();
    assert_eq!(seen.matches("GET /x/next ").count(), answered);
}

#[tokio::test]
async fn no_other_protocol_is_switched_to_anywhere() {
    let upstream = echo().await;
    let gateway = gateway(&upstream).await;
    for path in ["/ws", "/x/y"] {
        for upgrade in ["h2c", "websocket, h2c", "h2c, websocket", "tls/1.0", "anything"] {
            let mut client = Wire::connect(gateway.public()).await;
            let lines = format!("connection: upgrade\r\nupgrade: {upgrade}\r\n");
            client.send(request(&format!("GET {path}"), "alice", &lines, "")).await;
            let (head, body) = client.message().await.unwrap();
            assert_eq!((status(&head), &*body), (200, "plain"), "{path} {upgrade}");
        }
    }
    assert!(!upstream.seen().concat().to_ascii_lowercase().contains("upgrade"));
}

/// A server ignores an `upgrade` without the connection option of that name (RFC 9110, 7.8).
#[tokio::test]
async fn an_upgrade_that_the_connection_header_does_not_name_is_an_ordinary_request() {
    let upstream = echo().await;
    let gateway = gateway(&upstream).await;
    let mut balance = 100;
    for (path, price) in [("/ws", 7), ("/x/y", 5)] {
        for connection in ["", "connection: keep-alive\r\n", "connection: x-upgrade, upgraded\r\n"]
        {
            let mut client = Wire::connect(gateway.public()).await;
            let lines = UPGRADE.replace("connection: Upgrade\r\n", connection);
            // A server that ignores it goes on to the next request after its answer.
            for _ in 0..2 {
                client.send(request(&format!("GET {path}"), "alice", &lines, "")).await;
                let (head, body) = client.message().await.unwrap();
                assert_eq!((status(&head), &*body), (200, "plain"), "{path} {connection:?}");
                balance -= price;
                assert_eq!(gateway.settled_balance("alice").await, balance);
            }
        }
    }
    assert!(!upstream.seen().concat().to_ascii_lowercase().contains("\r\nupgrade:"));
    // The option may stand among others, in any case and on any line.
    for connection in
        ["connection: keep-alive, UPGRADE\r\n", "connection: te\r\nconnection: upgrade\r\n"]
    {
        let mut client = Wire::connect(gateway.public()).await;
        let lines = UPGRADE.replace("connection: Upgrade\r\n", connection);
        client.send(request("GET /ws", "alice", &lines, "")).await;
        assert_eq!(status(&client.head().await.unwrap()), 101, "{connection:?}");
    }
}

#[tokio::test]
async fn a_plain_get_works_on_a_websocket_route() {
    let upstream = echo().await;
    let gateway = gateway(&upstream).await;
    let mut client = Wire::connect(gateway.public()).await;
    for balance in [93, 86] {
        client.send(request("GET /ws", "alice", "", "")).await;
        assert_eq!(client.message().await.unwrap().1, "plain");
        assert_eq!(gateway.settled_balance("alice").await, balance);
    }
}

#[tokio::test]
async fn an_upstream_that_refuses_the_upgrade_is_heard_and_free() {
    let refusal = "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno";
    let upstream = RawUpstream::answering(refusal).await;
    let gateway = gateway(&upstream).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /ws", "alice", UPGRADE, "")).await;
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), &*body), (403, "no"));
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn an_upstream_that_switches_unasked_is_a_502_and_free() {
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\n\r\nanything";
    let upstream = RawUpstream::answering(unasked).await;
    let gateway = gateway(&upstream).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", "", "")).await;
    assert_eq!(status(&client.head().await.unwrap()), 502);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}
