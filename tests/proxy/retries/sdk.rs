//! The retries of the official SDKs, which say which attempt they are and have no key.

use std::time::Duration;

use super::bodies::{KIB, chunked};
use super::{Counting, PATH, assert_replays, gateway};
use crate::support::http::Answer;
use crate::support::wire::{Wire, post};
use crate::support::{TestGateway, eventually, token};

/// A call of alice's SDK, after `before` attempts.
fn attempt(gateway: &TestGateway, before: u32, body: &'static str) -> reqwest::RequestBuilder {
    let request = gateway.client.post(gateway.url(PATH)).bearer_auth(token("alice"));
    request.header("x-stainless-retry-count", before).body(body)
}

/// Begins the first attempt of a call, waits until the upstream has it, and leaves.
async fn leave(gateway: &TestGateway, counting: &Counting, body: &str) {
    let calls = counting.calls();
    let mut client = Wire::connect(gateway.public()).await;
    let request = post(PATH, "alice", body);
    client.send(request.replace("host:", "x-stainless-retry-count: 0\r\nhost:")).await;
    assert!(eventually(async || counting.calls() > calls).await);
    drop(client);
    // The gateway notices that the client has left, and goes on.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn the_retry_of_a_call_that_was_left_gets_its_answer_once() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    leave(&gateway, &counting, "{}").await;
    let impatient = attempt(&gateway, 1, "{}").timeout(Duration::from_millis(200)).send().await;
    assert!(impatient.unwrap_err().is_timeout(), "it waits for the first call");
    let retry = tokio::spawn(Answer::of(attempt(&gateway, 2, "{}")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    counting.answer_one();
    let retry = retry.await.unwrap();
    assert_eq!((retry.status.as_u16(), retry.header("idempotent-replayed")), (200, "true"));
    assert_eq!(retry.header("x-call"), "1");
    assert_eq!((counting.calls(), gateway.settled_balance("alice").await), (1, 95));
    counting.answer_one();
    let next = Answer::of(attempt(&gateway, 1, "{}")).await;
    assert_eq!(next.header("x-call"), "2", "an answer serves one retry");
    assert_eq!(gateway.settled_balance("alice").await, 90);
    gateway.assert_reconciled().await;
}

/// An image in a request makes it larger than the bodies that are read before every hold.
#[tokio::test]
async fn a_retry_is_recognised_whatever_its_length_and_framing() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    let mut credits = 100;
    for (length, is_chunked) in
        [(64 * KIB + 1, false), (5000 * KIB, false), (0, true), (100, true), (300 * KIB, true)]
    {
        let body = "z".repeat(length);
        let retry = |body: &str| {
            let sent = if is_chunked { chunked(body.as_bytes()) } else { body.to_owned().into() };
            let request = gateway.client.post(gateway.url(PATH)).bearer_auth(token("alice"));
            Answer::of(request.header("x-stainless-retry-count", 1).body(sent))
        };
        leave(&gateway, &counting, &body).await;
        let first = counting.calls();
        counting.answer_one();
        credits -= 5;
        assert_eq!(gateway.settled_balance("alice").await, credits);
        let found = retry(&body).await;
        assert_eq!(found.header("idempotent-replayed"), "true", "{length}: {}", found.text);
        assert_eq!(found.header("x-call"), first.to_string());
        assert!(found.text.ends_with(&format!(" {length} bytes")), "{}", found.text);
        assert_eq!(counting.calls(), first);
        // A retry of a call that never came is forwarded whole.
        counting.answer_one();
        credits -= 5;
        let other = retry(&[&body, "!"].concat()).await;
        assert_eq!(other.header("x-call"), (first + 1).to_string());
        assert!(other.text.ends_with(&format!(" {} bytes", length + 1)), "{}", other.text);
        assert_eq!(gateway.settled_balance("alice").await, credits);
    }
    gateway.assert_reconciled().await;
}

/// A body that is too large to be read first is forwarded all the same, from its first byte.
#[tokio::test]
async fn a_retry_that_is_too_large_to_be_found_is_a_whole_call() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let body = "z".repeat(16 * 1024 * KIB + 1);
    for (calls, sent) in [(1, body.clone().into()), (2, chunked(body.as_bytes()))] {
        let request = gateway.client.post(gateway.url(PATH)).bearer_auth(token("alice"));
        let answer = Answer::of(request.header("x-stainless-retry-count", 1).body(sent)).await;
        assert_eq!(answer.header("x-call"), calls.to_string());
        assert!(answer.text.ends_with(&format!(" {} bytes", body.len())), "{}", answer.text);
    }
    assert_eq!(gateway.settled_balance("alice").await, 90);
}

#[tokio::test]
async fn equal_calls_in_parallel_are_calls_of_their_own() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    let calls = [(); 2].map(|()| tokio::spawn(Answer::of(attempt(&gateway, 0, "{}"))));
    assert!(eventually(async || counting.calls() == 2).await);
    // A retry of a call that a server in front of the gateway answered with an error is linked to
    // none of the two calls.
    let third = tokio::spawn(Answer::of(attempt(&gateway, 1, "{}")));
    assert!(eventually(async || counting.calls() == 3).await);
    counting.permits.add_permits(3);
    let mut seen = Vec::new();
    for call in calls.into_iter().chain([third]) {
        let answer = call.await.unwrap();
        assert!(!answer.headers.contains_key("idempotent-replayed"));
        seen.push(answer.header("x-call").to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "3"]);
    assert_eq!(gateway.settled_balance("alice").await, 85);
}

#[tokio::test]
async fn each_of_two_equal_calls_that_were_left_has_one_retry() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    leave(&gateway, &counting, "{}").await;
    leave(&gateway, &counting, "{}").await;
    counting.permits.add_permits(2);
    assert_eq!(gateway.settled_balance("alice").await, 90);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let retry = Answer::of(attempt(&gateway, 1, "{}")).await;
        assert_eq!(retry.header("idempotent-replayed"), "true", "{}", retry.text);
        seen.push(retry.header("x-call").to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["1", "2"]);
    assert_eq!((counting.calls(), gateway.settled_balance("alice").await), (2, 90));
}

#[tokio::test]
async fn a_retry_of_another_request_or_sender_is_a_call_of_its_own() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    gateway.grant("bob", 100).await;
    leave(&gateway, &counting, "{}").await;
    counting.permits.add_permits(10);
    assert_eq!(gateway.settled_balance("alice").await, 95);
    assert_eq!(Answer::of(attempt(&gateway, 1, "[]")).await.header("x-call"), "2");
    let bob = gateway.client.post(gateway.url(PATH)).bearer_auth(token("bob"));
    let bob = bob.header("x-stainless-retry-count", 1).body("{}");
    assert_eq!(Answer::of(bob).await.header("x-call"), "3");
    // The first attempt of another call is no retry.
    assert_eq!(Answer::of(attempt(&gateway, 0, "{}")).await.header("x-call"), "4");
    assert_eq!(Answer::of(attempt(&gateway, 1, "{}")).await.header("x-call"), "1");
}

#[tokio::test]
async fn a_call_that_failed_after_it_was_left_runs_again() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    leave(&gateway, &counting, "{}").await;
    let retry = tokio::spawn(Answer::of(attempt(&gateway, 1, "{}")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    counting.statuses.lock().unwrap().push_back(500);
    counting.permits.add_permits(2);
    let retry = retry.await.unwrap();
    assert_eq!((retry.status.as_u16(), retry.header("x-call")), (200, "2"));
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn where_it_is_turned_off_a_retry_is_a_call_of_its_own() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "[idempotency]\nsdk_retries = false").await;
    leave(&gateway, &counting, "{}").await;
    assert_eq!(gateway.settled_balance("alice").await, 95, "charged when it was left");
    counting.permits.add_permits(2);
    assert_eq!(Answer::of(attempt(&gateway, 1, "{}")).await.header("x-call"), "2");
    assert_eq!(gateway.settled_balance("alice").await, 90);
}

#[tokio::test]
async fn a_key_goes_before_the_count_of_attempts() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let send = |before| Answer::of(attempt(&gateway, before, "{}").header("idempotency-key", "k"));
    let first = send(0).await;
    for before in [0, 1, 1] {
        assert_replays(&first, &send(before).await);
    }
    assert_eq!(counting.calls(), 1);
}
