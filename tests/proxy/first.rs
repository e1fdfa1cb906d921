//! The main job, end to end.

use crate::support::{TestGateway, Upstream};

#[tokio::test]
async fn a_call_is_identified_priced_held_forwarded_and_settled() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 12).await;

    let answer = gateway.post("alice", "/api/ai/generate").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-credits-cost"], "5");
    assert_eq!(answer.headers()["x-credits-remaining"], "7");
    let request_id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();

    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("x-request-id"), Some(&*request_id));
    assert_eq!(seen[0].header("x-farebox-account"), Some("alice"));
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(gateway.settled_balance("alice").await, 7);

    assert_eq!(gateway.post("alice", "/api/ai/generate").await.status(), 200);
    let refused = gateway.post("alice", "/api/ai/generate").await;
    assert_eq!(refused.status(), 402);
    assert_eq!(upstream.seen().len(), 2, "a 402 reaches no upstream");
    gateway.assert_reconciled().await;
    gateway.stop().await;
}
