//! Bodies that are read before their call is forwarded share a bounded memory.

use super::settlement::route;
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, config_with, eventually};

const KIB: usize = 1024;

/// An account has a quarter of the smallest memory that can be configured: four bodies of 64 KiB.
const SHARE: usize = 4;

#[tokio::test]
async fn a_body_beyond_the_memory_is_a_503_that_costs_nothing_and_reaches_no_upstream() {
    let upstream = RawUpstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let text = config_with(upstream.address, "body_memory = \"1 MiB\"", "", &route(""));
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    gateway.grant("bob", 100).await;
    let length = format!("content-length: {}\r\n", 64 * KIB);
    let part = "x".repeat(64 * KIB - 1);
    let mut waiting = Vec::new();
    for _ in 0..SHARE {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", &length, &part)).await;
        waiting.push(client);
    }
    let held = async || gateway.balance("alice").await["held"] == 5 * SHARE;
    assert!(eventually(held).await);
    // Once one more body finds no room, everything that was sent before has been read.
    let refused = eventually(async || {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", &length, &part)).await;
        let answer = tokio::time::timeout(std::time::Duration::from_millis(500), client.head());
        let Ok(Some(head)) = answer.await else { return false };
        assert_eq!(status(&head), 503, "{head}");
        assert_eq!(header(&head, "retry-after"), Some("1"));
        assert_eq!(header(&head, "connection"), Some("close"));
        assert!(client.rest().await.contains("\"OVERLOADED\""));
        true
    });
    assert!(refused.await);
    assert_eq!(upstream.seen(), [""; 0]);

    // Other clients have a share of their own, and a body that arrives at once needs none.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "bob", &"b".repeat(64 * KIB))).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", "small")).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);

    // The bodies that were read are forwarded whole, and their memory is free again.
    for mut client in waiting {
        client.send("y").await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
    }
    for _ in 0..3 {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("POST /x/y", "alice", &length, &part)).await;
        client.send("y").await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
    }
    gateway.settled_balance("alice").await;
    let whole = upstream.seen().concat().matches(&format!("{part}y")).count();
    assert_eq!(whole, SHARE + 3);
    gateway.assert_reconciled().await;
}
