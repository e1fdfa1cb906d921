//! Answers that end their connection: they reach their client whole, whatever it goes on sending.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::settlement::{raw, route};
use crate::support::wire::{LIMIT, RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, config_with, eventually};

/// The size of an answer, in bytes: more than a client's window, so that a part is still on its way when
/// the gateway is done.
const LARGE: usize = 2 << 20;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers a request under `/x/large` with [`LARGE`] bytes, and one under `/x/early` before its
/// body has come.
async fn upstream() -> RawUpstream {
    RawUpstream::start(|mut wire| async move {
        while let Some(head) = wire.head().await {
            if head.contains("/x/large") {
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
                if wire.try_send(vec![b'x'; LARGE]).await.is_err() {
                    return;
                }
            } else if head.contains("/x/early") {
                wire.send(
                    "HTTP/1.1 413 Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nno!",
                )
                .await;
                return;
            } else {
                wire.send(OK).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_ends_its_connection_arrives_whole_behind_whatever_came_after_its_request() {
    let upstream = upstream().await;
    let gateway = raw(&upstream, "").await;
    gateway.grant("alice", 1000).await;
    let get = |path: &str, more: &str| request(&format!("GET {path}"), "alice", more, "");
    let old = |path: &str| get(path, "").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let upload = "content-length: 10000000\r\n";
    let cases = [
        (get("/x/large", "connection: close\r\n"), 200, LARGE),
        (old("/x/large"), 200, LARGE),
        (get("/x/small", "connection: close\r\n"), 200, 2),
        (old("/x/small"), 200, 2),
        ("this is no HTTP\r\n\r\n".to_owned(), 400, 0),
        (get("/x//y", ""), 400, 0),
        (get("/x/y", "content-length: 1\r\ncontent-length: 1\r\n"), 400, 0),
        (request("POST /x/early", "alice", upload, ""), 413, 3),
    ];
    for (text, code, length) in cases {
        let mut client = TcpStream::connect(gateway.public()).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        let (mut from, mut to) = client.split();
        // The client goes on sending while the answer comes. The gateway need not read these bytes.
        let sending = async {
            for _ in 0..40 {
                if to.write_all(&[b'z'; 4096]).await.is_err() {
                    break;
                }
            }
        };
        let mut answer = Vec::new();
        let (_, read) =
            tokio::join!(sending, tokio::time::timeout(LIMIT, from.read_to_end(&mut answer)));
        match read {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("{text}: {error}"),
            Err(_) => panic!("{text}: it does not end; {}", String::from_utf8_lossy(&answer)),
        }
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&answer[..end]);
        assert_eq!(status(&head), code, "{text}");
        let said = header(&head, "content-length").map_or(length, |said| said.parse().unwrap());
        assert_eq!(answer.len() - end, said, "{text}");
        assert!(said >= length, "{text}");
    }
}

/// An upstream has answered early and takes no more. A client that has not sent all of its request
/// then waits for the end of the connection, not for a deadline.
#[tokio::test]
async fn an_early_answer_that_ends_its_connection_ends_it_at_once() {
    for (version, closes) in [("1.1", "connection: close\r\n"), ("1.0", "")] {
        let answer = format!("HTTP/{version} 413 Large\r\n{closes}content-length: 3\r\n\r\nno!");
        let upstream = RawUpstream::start(move |mut wire| {
            let answer = answer.clone();
            async move {
                wire.up_to("part").await;
                wire.send(answer).await;
                // The upstream stays connected, and reads nothing.
                wire.rest().await;
            }
        })
        .await;
        let gateway = raw(&upstream, "").await;
        for framing in ["content-length: 10000000\r\n", "transfer-encoding: chunked\r\n"] {
            let mut client = Wire::connect(gateway.public()).await;
            let part = if framing.starts_with('t') { "4\r\npart\r\n" } else { "part" };
            client.send(request("POST /x/y", "alice", framing, part)).await;
            let (head, body) = client.message().await.unwrap();
            assert_eq!((status(&head), &*body), (413, "no!"));
            assert_eq!(header(&head, "connection"), Some("close"));
            let end = tokio::time::timeout(Duration::from_secs(3), client.rest()).await;
            assert_eq!(end.expect("it waits for the rest of the request"), "");
        }
    }
}

/// A client that neither closes its end nor sends anything holds nothing for long.
#[tokio::test]
async fn a_client_that_stays_after_its_last_answer_is_let_go_and_makes_room_before() {
    let upstream = RawUpstream::answering(OK).await;
    let text = config_with(upstream.address, "max_connections = 1", "", &route(""));
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let mut stays = Wire::connect(gateway.public()).await;
    stays.send(request("GET /x/y", "alice", "connection: close\r\n", "")).await;
    assert_eq!(status(&stays.message().await.unwrap().0), 200);
    assert_eq!(stays.rest().await, "");
    let mut next = Wire::connect(gateway.public()).await;
    next.send(request("GET /x/y", "alice", "connection: close\r\n", "")).await;
    let answered = tokio::time::timeout(Duration::from_secs(3), next.message()).await;
    assert_eq!(status(&answered.expect("it waits for the other one").unwrap().0), 200);
    assert_eq!(next.rest().await, "");
    let open = || gateway.gateway.metrics().connections.get();
    assert!(eventually(async || open() == 0).await, "it is held for ever");
}

#[tokio::test]
async fn a_client_that_stays_after_its_last_answer_delays_no_stop() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let mut stays = Wire::connect(gateway.public()).await;
    let last = post("/x/y", "alice", "{}").replacen("\r\n", "\r\nconnection: close\r\n", 1);
    stays.send(last).await;
    assert_eq!(status(&stays.message().await.unwrap().0), 200);
    assert_eq!(stays.rest().await, "");
    let stopped = tokio::time::timeout(Duration::from_secs(2), gateway.stop()).await;
    stopped.expect("it waits for the client");
}
