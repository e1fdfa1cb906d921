//! Calls with a key whose client leaves.

use std::time::Duration;

use http::Method;

use super::{Counting, PATH, ROUTE, ask, gateway};
use crate::support::h2::{HOST, TLS, http2, read, write_certificate};
use crate::support::wire::{RawUpstream, Wire, post};
use crate::support::{TestGateway, config_text, config_with, eventually, token};

fn request(key: &str, body: &str) -> String {
    post(PATH, "alice", body).replace("host:", &format!("idempotency-key: {key}\r\nhost:"))
}

/// Waits until nothing of alice's is held.
async fn settled(gateway: &TestGateway) -> i64 {
    gateway.settled_balance("alice").await
}

#[tokio::test]
async fn a_call_that_was_left_is_read_to_its_end_and_kept_for_the_retry() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("once", "{}")).await;
    assert!(eventually(async || counting.calls() == 1).await);
    drop(client);
    // The gateway notices that the client has left, and goes on.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(gateway.balance("alice").await["held"], 5);
    ask(&gateway, "once", "{}").await.problem(409, "IDEMPOTENCY_IN_PROGRESS");
    counting.answer_one();
    assert_eq!(settled(&gateway).await, 95);
    let retry = ask(&gateway, "once", "{}").await;
    assert_eq!((retry.status.as_u16(), retry.header("idempotent-replayed")), (200, "true"));
    assert_eq!(retry.text, "the secret words of call 1 for 2 bytes");
    assert_eq!(retry.header("x-credits-cost"), "5");
    assert_eq!((counting.calls(), settled(&gateway).await), (1, 95));
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_stream_that_was_left_in_its_middle_is_replayed_whole() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let _ = wire.try_send("6\r\n, then\r\n0\r\n\r\n").await;
    })
    .await;
    let gateway = TestGateway::start(&config_text(upstream.address, ROUTE)).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("once", "{}")).await;
    client.up_to("first").await.unwrap();
    drop(client);
    assert_eq!(settled(&gateway).await, 95);
    let retry = ask(&gateway, "once", "{}").await;
    assert_eq!((retry.header("idempotent-replayed"), &*retry.text), ("true", "first, then"));
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_call_that_was_left_and_then_failed_costs_nothing_and_runs_again() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("once", "{}")).await;
    assert!(eventually(async || counting.calls() == 1).await);
    drop(client);
    counting.statuses.lock().unwrap().push_back(503);
    counting.answer_one();
    assert_eq!(settled(&gateway).await, 100);
    counting.answer_one();
    let retry = ask(&gateway, "once", "{}").await;
    assert_eq!((retry.status.as_u16(), retry.header("x-call")), (200, "2"));
    assert_eq!(settled(&gateway).await, 95);
}

#[tokio::test]
async fn where_leaving_is_free_the_retry_runs() {
    let counting = Counting::slow().await;
    let route = ROUTE.replace("credits = 5", "credits = 5\non_client_abort = \"release\"");
    let gateway = TestGateway::start(&config_text(counting.upstream.address, &route)).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("once", "{}")).await;
    assert!(eventually(async || counting.calls() == 1).await);
    drop(client);
    assert_eq!(settled(&gateway).await, 100);
    counting.permits.add_permits(2);
    assert_eq!(ask(&gateway, "once", "{}").await.header("x-call"), "2");
    assert_eq!(settled(&gateway).await, 95);
}

#[tokio::test]
async fn an_answer_too_large_to_keep_is_not_read_for_a_client_that_left() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        if wire.try_send(head).await.is_err() {
            return;
        }
        // The answer never ends.
        while wire.try_send(format!("400\r\n{}\r\n", "y".repeat(1024))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let more = [ROUTE, "[idempotency]\nmax_answer = \"64 KiB\""].concat();
    let gateway = TestGateway::start(&config_text(upstream.address, &more)).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("once", "{}")).await;
    client.up_to("yyyy").await.unwrap();
    drop(client);
    assert_eq!(settled(&gateway).await, 95, "left late, it is charged");
    ask(&gateway, "once", "{}").await.problem(409, "IDEMPOTENCY_NOT_KEPT");
}

#[tokio::test]
async fn a_client_that_resets_its_stream_of_http_2_has_left() {
    let counting = Counting::slow().await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path());
    let text = config_with(counting.upstream.address, TLS, "", ROUTE);
    let gateway = TestGateway::start_in(folder, &text).await;
    gateway.grant("alice", 100).await;
    let mut client = http2(gateway.public(), &certificate).await;
    let mut begin = |name: &str, value: &str| {
        let request = http::Request::post(format!("https://{HOST}{PATH}"))
            .header("authorization", format!("Bearer {}", token("alice")))
            .header(name, value);
        let (answer, mut sent) = client.send_request(request.body(()).unwrap(), false).unwrap();
        sent.send_data(bytes::Bytes::from_static(b"{}"), true).unwrap();
        (answer, sent)
    };
    for (calls, name, first, retry) in
        [(1, "idempotency-key", "once", "once"), (2, "x-stainless-retry-count", "0", "1")]
    {
        let (answer, mut sent) = begin(name, first);
        assert!(eventually(async || counting.calls() == calls).await);
        sent.send_reset(h2::Reason::CANCEL);
        drop(answer);
        // The gateway notices that the client has left, and goes on.
        tokio::time::sleep(Duration::from_millis(100)).await;
        counting.answer_one();
        let charged = eventually(async || {
            let account = gateway.admin(Method::GET, "/admin/accounts/alice", None).await;
            account["held"] == 0 && account["balance"] == 100 - 5 * calls
        });
        assert!(charged.await, "{name}");
        let (answer, _sent) = begin(name, retry);
        let (head, mut body) = answer.await.unwrap().into_parts();
        assert_eq!(
            (head.status.as_u16(), &head.headers["idempotent-replayed"]),
            (200, &http::HeaderValue::from_static("true"))
        );
        let text = String::from_utf8(read(&mut body).await.unwrap()).unwrap();
        assert_eq!(text, format!("the secret words of call {calls} for 2 bytes"));
        assert_eq!(counting.calls(), calls);
    }
}

/// A client that does not read makes its upstream give up. The client pays for the part that came. A retry is told
/// that the answer was not kept, because a part of an answer must not pass for a whole one.
#[tokio::test]
async fn an_answer_that_broke_off_behind_a_stalled_client_is_not_replayed_as_a_whole_one() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        let part = format!("10000\r\n{}\r\n", "y".repeat(1 << 16));
        let send = async {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut sent = wire.try_send(head).await;
            while sent.is_ok() {
                sent = wire.try_send(&part).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(2500), send).await;
    })
    .await;
    let more = [ROUTE, "[idempotency]\nmax_answer = \"64 MiB\""].concat();
    let gateway = TestGateway::start(&config_text(upstream.address, &more)).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("once", "{}")).await;
    client.head().await.unwrap();
    // Nothing is read until the upstream has given up.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let read = client.rest().await;
    assert!(!read.ends_with("0\r\n\r\n"), "{} bytes", read.len());
    assert_eq!(settled(&gateway).await, 95);
    ask(&gateway, "once", "{}").await.problem(409, "IDEMPOTENCY_NOT_KEPT");
    assert_eq!((upstream.seen().len(), settled(&gateway).await), (1, 95));
}
