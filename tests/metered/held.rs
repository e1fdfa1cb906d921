//! The hold of each request: the table "Held" of the worked cases.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::shop::{self, CHAT, MESSAGES, body, body_of, held, model, post, routes, with};
use crate::support::ai::{Ai, Reply, Step, chat, chat_usage};
use crate::support::eventually;

/// An upstream that answers each request once it may.
async fn waiting() -> (Ai, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let waits = permits.clone();
    let ai = Ai::start(move |_| {
        let mut reply = Reply(vec![Step::Wait(waits.clone())]);
        reply.0.extend(Reply::json(&chat("ok", &chat_usage(10, 10))).0);
        reply
    })
    .await;
    (ai, permits)
}

/// Makes a call, and expects that so much is held while it runs.
async fn holds(tables: &str, path: &str, body: &str, expected: &str) {
    let (ai, permits) = waiting().await;
    let gateway = with(&ai, tables, 1000).await;
    let call = tokio::spawn(post(&gateway, path, body).send());
    let mut last = String::new();
    let is_held = eventually(async || {
        last = held(&gateway).await;
        last != "0" || call.is_finished()
    });
    assert!(is_held.await, "{body}");
    if call.is_finished() {
        panic!("{}", call.await.unwrap().unwrap().text().await.unwrap());
    }
    assert_eq!(last, expected, "{body}");
    permits.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    gateway.assert_reconciled().await;
}

fn tables() -> String {
    [routes(""), model("m", "hold_output_tokens = 2048")].concat()
}

#[tokio::test]
async fn a_request_holds_its_input_and_the_output_that_it_allows() {
    for (more, expected) in [
        (json!({ "max_tokens": 500 }), "0.55"),
        (json!({ "max_tokens": 500, "n": 3 }), "1.55"),
        (json!({ "max_tokens": 10, "max_completion_tokens": 3000 }), "3.05"),
        (json!({ "max_tokens": 100_000 }), "8.05"),
        (json!({}), "8.05"),
        (json!({ "stream": true }), "2.098"),
        (json!({ "stream": true, "max_tokens": 5000 }), "2.098"),
        (json!({ "stream": true, "max_tokens": 500 }), "0.55"),
    ] {
        holds(&tables(), CHAT, &body(&more), expected).await;
    }
}

#[tokio::test]
async fn cache_writes_and_images_are_held_for_where_the_request_can_cause_them() {
    let cached = |filler: usize| {
        let block = json!({
            "type": "text", "text": "x".repeat(filler), "cache_control": { "type": "ephemeral" },
        });
        json!({ "model": "m", "max_tokens": 500, "messages": [{ "role": "user", "content": [block] }] })
            .to_string()
    };
    let cached = cached(400 - cached(0).len());
    assert_eq!(cached.len(), 400);
    holds(&tables(), MESSAGES, &cached, "0.5625").await;

    let data = "A".repeat(300_000);
    let image = |filler: usize, data: &str| {
        let url = format!("data:image/png;base64,{data}");
        let content = json!([
            { "type": "image_url", "image_url": { "url": url } },
            { "type": "text", "text": "x".repeat(filler) },
        ]);
        json!({ "model": "m", "max_tokens": 500, "messages": [{ "role": "user", "content": content }] })
            .to_string()
    };
    let filler = 400 - image(0, "").len();
    holds(&tables(), CHAT, &image(filler, &data), "1.05").await;
    let text = body_of(300_400, &json!({ "max_tokens": 500 }));
    holds(&tables(), CHAT, &text, "38.05").await;
}

#[tokio::test]
async fn input_that_is_not_in_the_request_is_held_for_by_the_model_s_limit_or_refused() {
    let more = json!({ "previous_response_id": "resp_1", "max_output_tokens": 500 });
    holds(&tables(), "/v1/responses", &body(&more), "200.75").await;

    let (ai, _permits) = waiting().await;
    let unbounded = model("m", "").replace("max_input_tokens = 400000", "");
    let gateway = with(&ai, &[routes(""), unbounded].concat(), 1000).await;
    let answer = shop::ask(&gateway, "/v1/responses", &body(&more)).await;
    let problem = answer.problem(400, "BAD_REQUEST");
    assert!(problem["detail"].as_str().unwrap().contains("previous_response_id"), "{problem}");
    assert_eq!((held(&gateway).await.as_str(), ai.asked().len()), ("0", 0));
}

#[tokio::test]
async fn a_route_with_prices_of_its_own_holds_them_for_each_answer() {
    let route = "[[routes]]\npath = \"/v1/images/generations\"\nupstream = \"ai\"\n\
                 meter = \"openai\"\nprice = { request = 0.5, image = 4 }\n";
    let body = json!({ "prompt": "a cat", "n": 2 }).to_string();
    holds(route, "/v1/images/generations", &body, "8.5").await;
}

#[tokio::test]
async fn a_quote_above_the_client_s_limit_is_refused_and_nothing_is_held() {
    let (ai, permits) = waiting().await;
    permits.add_permits(9);
    let gateway = with(&ai, &tables(), 10).await;
    let body = body(&json!({ "max_tokens": 500 }));
    for (limit, code) in [("0.5", 402), ("0.549999", 402), ("0.55", 200), ("20", 200)] {
        let answer = post(&gateway, CHAT, &body).header("x-credits-max", limit);
        let answer = crate::support::http::Answer::of(answer).await;
        if code == 402 {
            let problem = answer.problem(402, "PRICE_OVER_LIMIT");
            assert_eq!(answer.header("x-should-retry"), "false");
            assert!(problem["detail"].as_str().unwrap().contains("0.55"), "{problem}");
            assert_eq!(held(&gateway).await, "0");
        } else {
            answer.expect(200);
        }
    }
    assert_eq!(ai.asked().len(), 2);
    // A stream's limit is on what it may cost at most, not on what is held at first.
    let stream = shop::body(&json!({ "stream": true, "max_tokens": 5000 }));
    let answer = post(&gateway, CHAT, &stream).header("x-credits-max", "3");
    crate::support::http::Answer::of(answer).await.problem(402, "PRICE_OVER_LIMIT");
    for wrong in ["much", "-1", ""] {
        let answer = post(&gateway, CHAT, &body).header("x-credits-max", wrong);
        crate::support::http::Answer::of(answer).await.problem(400, "BAD_REQUEST");
    }
    // Fixed prices keep to it, too.
    let fixed = gateway.client.post(gateway.url("/api/ai/generate")).body("{}");
    let fixed = fixed.bearer_auth(crate::support::token("alice")).header("x-credits-max", "4.9");
    crate::support::http::Answer::of(fixed).await.problem(402, "PRICE_OVER_LIMIT");
    assert_eq!(ai.asked().len(), 2);
    let _: Value = gateway.balance("alice").await;
}
