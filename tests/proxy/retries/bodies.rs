//! Bodies of every size and framing under a key.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::{Counting, PATH, assert_replays, gateway, keyed};
use crate::support::http::Answer;
use crate::support::wire::{Wire, request, status};
use crate::support::{eventually, token};

pub const KIB: usize = 1024;

/// The body in pieces, so that its length is not declared.
pub fn chunked(body: &[u8]) -> reqwest::Body {
    let pieces: Vec<_> = body.chunks(100 * KIB).map(Bytes::copy_from_slice).collect();
    let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(piece)));
    reqwest::Body::wrap(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn a_body_of_any_size_and_framing_is_recognised() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    gateway.grant("alice", 1000).await;
    for (index, length) in [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 3000 * KIB, 20 * 1024 * KIB]
        .into_iter()
        .enumerate()
    {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let key = format!("key-{index}");
        let declared = || Answer::of(keyed(&gateway, &key, body.clone()));
        let streamed = || Answer::of(keyed(&gateway, &key, chunked(&body)));
        let first = if index % 2 == 0 { declared().await } else { streamed().await };
        assert_eq!(first.status, 200, "{length} {}", first.text);
        assert!(first.text.ends_with(&format!(" {length} bytes")), "{}", first.text);
        assert_replays(&first, &declared().await);
        assert_replays(&first, &streamed().await);
        let mut other = body.clone();
        match other.last_mut() {
            Some(last) => *last ^= 1,
            None => other.push(0),
        }
        let conflict = Answer::of(keyed(&gateway, &key, other.clone())).await;
        conflict.problem(422, "IDEMPOTENCY_CONFLICT");
        let conflict = Answer::of(keyed(&gateway, &key, chunked(&other))).await;
        conflict.problem(422, "IDEMPOTENCY_CONFLICT");
        assert_eq!(counting.calls(), index + 1);
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_form_with_a_file_is_recognised_by_its_boundary_too() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let form = |boundary: &str| {
        let file = "z".repeat(200 * KIB);
        let body = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n\
             {file}\r\n--{boundary}--\r\n"
        );
        let kind = format!("multipart/form-data; boundary={boundary}");
        Answer::of(keyed(&gateway, "once", body).header("content-type", kind))
    };
    let first = form("abc").await;
    assert_eq!(first.status, 200);
    assert_replays(&first, &form("abc").await);
    form("xyz").await.problem(422, "IDEMPOTENCY_CONFLICT");
}

/// A large upload is forwarded while it arrives, and only then hashed to its end.
#[tokio::test]
async fn an_upload_that_is_still_arriving_keeps_others_out_and_is_recognised_afterwards() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let key = "idempotency-key: once\r\n";
    let head =
        |framing: &str| request(&format!("POST {PATH}"), "alice", &[key, framing].concat(), "");
    let mut upload = Wire::connect(gateway.public()).await;
    upload.send(head("transfer-encoding: chunked\r\n")).await;
    upload.send("5\r\nhello\r\n").await;
    assert!(eventually(async || !counting.upstream.seen().is_empty()).await, "it is not held back");
    assert_eq!(gateway.balance("alice").await["held"], 5);
    for body in ["hello there", "other"] {
        let early = Answer::of(keyed(&gateway, "once", body)).await;
        early.problem(409, "IDEMPOTENCY_IN_PROGRESS");
    }
    let mut second = Wire::connect(gateway.public()).await;
    second.send(head("content-length: 200000\r\n")).await;
    assert_eq!(status(&second.head().await.unwrap()), 409, "before its body is here");
    upload.send("6\r\n there\r\n0\r\n\r\n").await;
    let (_, words) = upload.message().await.unwrap();
    let retry = Answer::of(keyed(&gateway, "once", "hello there")).await;
    assert_eq!((retry.header("idempotent-replayed"), &*retry.text), ("true", &*words));
    let other = Answer::of(keyed(&gateway, "once", "other")).await;
    other.problem(422, "IDEMPOTENCY_CONFLICT");
    assert_eq!(counting.calls(), 1);
}

/// A client that waits for a 100 sends its body only then.
#[tokio::test]
async fn a_retry_that_expects_a_100_gets_it_and_then_the_answer() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let body = "q".repeat(100 * KIB);
    let first = Answer::of(keyed(&gateway, "once", body.clone())).await;
    assert_eq!(first.status, 200);
    let more = format!(
        "idempotency-key: once\r\nexpect: 100-continue\r\ncontent-length: {}\r\n",
        body.len()
    );
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request(&format!("POST {PATH}"), "alice", &more, "")).await;
    assert_eq!(status(&client.head().await.unwrap()), 100);
    client.send(&body).await;
    let (head, words) = client.message().await.unwrap();
    assert_eq!((status(&head), words), (200, first.text));
    assert!(head.to_ascii_lowercase().contains("idempotent-replayed: true"), "{head}");
    assert_eq!(counting.calls(), 1);
}

#[tokio::test]
async fn a_body_that_stops_arriving_leaves_no_claim() {
    let counting = Counting::quick().await;
    let text = crate::support::config_with(
        counting.upstream.address,
        "body_timeout = \"300ms\"",
        "",
        super::ROUTE,
    );
    let gateway = crate::support::TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    for length in [100, 200_000] {
        let more = format!("idempotency-key: once\r\ncontent-length: {length}\r\n");
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("POST {PATH}"), "alice", &more, "begun")).await;
        let head = tokio::time::timeout(Duration::from_secs(10), client.head()).await.unwrap();
        assert_eq!(status(&head.unwrap()), 408);
        assert_eq!(gateway.settled_balance("alice").await, 100);
    }
    let whole = gateway.client.post(gateway.url(PATH)).bearer_auth(token("alice"));
    let whole = Answer::of(whole.header("idempotency-key", "once").body("whole")).await;
    assert_eq!(whole.status, 200, "{}", whole.text);
}
