//! `POST /credits/check` of a metered call.

use serde_json::json;

use crate::shop::{CHAT, body, body_of, post, shop};
use crate::support::ai::{Ai, Reply};
use crate::support::http::Answer;

async fn check(gateway: &crate::support::TestGateway, body: &str) -> Answer {
    let asked = format!("{{\"endpoint\":\"{CHAT}\",\"body\":{body}}}");
    Answer::of(post(gateway, "/credits/check", &asked)).await
}

#[tokio::test]
async fn a_call_is_quoted_by_its_body_and_nothing_is_taken() {
    let ai = Ai::answering(Reply::json(&json!({}))).await;
    let gateway = shop(&ai, "max_body = \"1 MiB\"", 100).await;
    for (asked, cost) in [
        (body(&json!({ "max_tokens": 500 })), 0.55),
        (body(&json!({ "stream": true })), 2.098),
        // Half a token rounds up.
        (body_of(401, &json!({ "max_tokens": 500 })), 0.55025),
        (body_of(1_000_000, &json!({ "max_tokens": 500 })), 200.75),
    ] {
        let answer = check(&gateway, &asked).await;
        if cost > 100.0 {
            let problem = answer.problem(402, "INSUFFICIENT_CREDITS");
            assert_eq!(problem["required"].as_f64(), Some(cost));
            continue;
        }
        let quote = answer.expect(200);
        assert_eq!((&quote["allowed"], quote["cost"].as_f64()), (&true.into(), Some(cost)));
        assert_eq!(quote["available"], 100);
    }
    check(&gateway, "{\"model\":\"x\"}").await.problem(404, "MODEL_NOT_PRICED");
    check(&gateway, "[1]").await.problem(400, "BAD_REQUEST");
    check(&gateway, &body_of((1 << 20) + 1, &json!({}))).await.problem(413, "BODY_TOO_LARGE");
    let without =
        Answer::of(post(&gateway, "/credits/check", &format!("{{\"endpoint\":\"{CHAT}\"}}")));
    let problem = without.await.problem(400, "BAD_REQUEST");
    assert!(problem["detail"].as_str().unwrap().contains("`body`"), "{problem}");
    let huge = format!("{{\"endpoint\":\"{CHAT}\",\"body\":\"{}\"}}", "x".repeat(2 << 20));
    Answer::of(post(&gateway, "/credits/check", &huge)).await.problem(413, "BODY_TOO_LARGE");
    assert_eq!(
        (gateway.balance("alice").await["balance"].clone(), ai.asked().len()),
        (100.into(), 0)
    );
}

#[tokio::test]
async fn an_endpoint_is_refused_for_what_such_a_call_would_be_refused_for() {
    let ai = Ai::answering(Reply::json(&json!({}))).await;
    let gateway = shop(&ai, "", 100).await;
    let asked = body(&json!({ "max_tokens": 500 }));
    let answer = async |query: &str| {
        let asked = format!("{{\"endpoint\":\"{CHAT}{query}\",\"body\":{asked}}}");
        Answer::of(post(&gateway, "/credits/check", &asked)).await
    };
    for query in ["?model=dear", "?a=1&%6dodel=dear", "?model[]=dear", "?a;MODEL=dear"] {
        answer(query).await.problem(400, "BAD_REQUEST");
    }
    for query in ["", "?", "?api-version=2026-01-01", "?models=1"] {
        assert_eq!(answer(query).await.expect(200)["cost"], 0.55, "{query}");
    }
}
