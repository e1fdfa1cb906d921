//! Refusals of metered calls, in their order; and their shape.

use std::sync::Arc;
use std::time::Duration;

use farebox::ledger::{Dispute, Facts, Money, OnDispute, Progress, Sale, Stage, TakeFacts};
use serde_json::{Value, json};

use crate::shop::{CHAT, MESSAGES, ask, balance, body, model, post, post_by, routes, shop};
use crate::support::ai::{Ai, Reply, chat, chat_usage};
use crate::support::config_with;
use crate::support::http::Answer;
use crate::support::wire::{Wire, header, request, status};
use crate::support::{TestGateway, token};

async fn answering() -> Ai {
    Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await
}

/// The head of a raw request, with these lines.
fn head(account: &str, more: &str) -> String {
    request(&format!("POST {CHAT}"), account, more, "")
}

#[tokio::test]
async fn an_account_without_credits_is_told_so_before_anything_of_its_body_is_looked_at() {
    let ai = answering().await;
    let gateway = shop(&ai, "max_body = \"2 KiB\"", 100).await;
    for wrong in ["no JSON", "{\"model\":\"unknown\"}", "{}", &body(&json!({}))] {
        let answer = Answer::of(post_by(&gateway, "poor", CHAT, wrong)).await;
        let problem = answer.problem(402, "INSUFFICIENT_CREDITS");
        assert_eq!(answer.header("x-should-retry"), "false");
        assert_eq!(problem["available"], 0, "{problem}");
    }
    // The refusal comes at once, though the body is far too long and never comes.
    for more in [
        "content-length: 999999999\r\n",
        "content-length: 400\r\n",
        "content-length: 400\r\nexpect: 100-continue\r\n",
        "content-length: 400\r\ncontent-encoding: gzip\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(head("poor", more)).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.head()).await;
        assert_eq!(status(&answer.expect(more).unwrap()), 402, "{more}");
    }
    assert_eq!(ai.asked().len(), 0);
}

/// Has a dispute freeze alice's account, as Stripe's events would.
pub async fn freeze(gateway: &TestGateway) {
    let euros = || Money { amount: 100, currency: "eur".into() };
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    let sale = Sale {
        session: "cs_1".into(),
        account: "alice".parse().unwrap(),
        pack: "pack".into(),
        credits: "5".parse().unwrap(),
        price: euros(),
        imported: false,
    };
    let dispute = Dispute { money: euros(), stage: Stage::Standing, returned: None, thawed: false };
    let paid = Facts {
        sale: Some(sale),
        progress: Progress::Paid,
        paid: Some(euros()),
        names: names(&["cs_1", "pi_1"]),
        ..Facts::default()
    };
    let disputed = Facts {
        disputes: [("dp_1".into(), dispute)].into(),
        names: names(&["pi_1", "dp_1"]),
        ..Facts::default()
    };
    for facts in [paid, disputed] {
        let taking = TakeFacts {
            event: None,
            facts,
            on_dispute: OnDispute::Freeze,
            because: "a test".into(),
        };
        gateway.gateway.ledger().take_facts(taking).await.unwrap();
    }
}

#[tokio::test]
async fn a_frozen_account_is_told_so_whatever_it_asks_for() {
    let ai = answering().await;
    let gateway = shop(&ai, "", 100).await;
    freeze(&gateway).await;
    for asked in ["no JSON", "{\"model\":\"unknown\"}", &body(&json!({}))] {
        ask(&gateway, CHAT, asked).await.problem(403, "ACCOUNT_FROZEN");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_by_its_declared_length_before_any_100() {
    let ai = answering().await;
    let gateway = shop(&ai, "max_body = \"2 KiB\"", 100).await;
    for more in ["content-length: 2049\r\nexpect: 100-continue\r\n", "content-length: 2049\r\n"] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(head("alice", more)).await;
        let answer = client.message().await.unwrap();
        assert_eq!(status(&answer.0), 413, "{more}");
        assert!(answer.1.contains("\"BODY_TOO_LARGE\""), "{}", answer.1);
    }
    // A body without a declared length is refused once it is too long.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(head("alice", "transfer-encoding: chunked\r\n")).await;
    client.send(format!("{:x}\r\n{}\r\n", 2049, "x".repeat(2049))).await;
    assert_eq!(status(&client.head().await.unwrap()), 413);
    assert_eq!(ai.asked().len(), 0);
    let largest = crate::shop::body_of(2048, &json!({}));
    ask(&gateway, CHAT, &largest).await.expect(200);
    assert_eq!(ai.asked()[0].body, largest);
}

#[tokio::test]
async fn farebox_answers_expect_after_every_refusal_that_needs_only_the_head() {
    let ai = answering().await;
    let gateway = shop(&ai, "", 100).await;
    let body = body(&json!({ "max_tokens": 5 }));
    let more = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len());
    let mut client = Wire::connect(gateway.public()).await;
    client.send(head("alice", &more)).await;
    assert_eq!(status(&client.head().await.unwrap()), 100);
    assert_eq!(gateway.balance("alice").await["held"], 0, "the quote needs the body");
    client.send(&body).await;
    let answer = client.message().await.unwrap();
    assert_eq!(status(&answer.0), 200, "{}", answer.1);
    assert_eq!(ai.asked()[0].header("expect"), None);
    for wrong in ["content-encoding: gzip\r\n", "content-type: a/b\r\ncontent-type: c/d\r\n"] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(head("alice", &format!("{more}{wrong}"))).await;
        assert_eq!(status(&client.head().await.unwrap()), 400, "{wrong}");
    }
    let mut client = Wire::connect(gateway.public()).await;
    let line = format!("POST {CHAT}?a=b&%4dodel=other");
    client.send(request(&line, "alice", &more, "")).await;
    assert_eq!(status(&client.head().await.unwrap()), 400);
    // HTTP/1.0 knows no 100.
    let mut client = Wire::connect(gateway.public()).await;
    let whole = head("alice", &more).replacen("HTTP/1.1", "HTTP/1.0", 1) + &body;
    client.send(whole).await;
    assert_eq!(status(&client.head().await.unwrap()), 200);
}

#[tokio::test]
async fn a_body_that_stops_is_a_408_and_nothing_was_held() {
    let ai = answering().await;
    let tables = [routes(""), model("m", "")].concat();
    let text = config_with(ai.address, "body_timeout = \"300ms\"", "", &tables);
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    for more in ["content-length: 400\r\n", "transfer-encoding: chunked\r\n"] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(head("alice", more)).await;
        let answer = client.head().await.unwrap();
        assert_eq!(status(&answer), 408, "{more}");
        assert_eq!(header(&answer, "connection"), Some("close"));
    }
    assert_eq!((ai.asked().len(), balance(&gateway).await.as_str()), (0, "100"));
}

#[tokio::test]
async fn bodies_beyond_the_memory_are_a_503_and_cost_nothing() {
    let ai = answering().await;
    let tables = [routes(""), model("m", "")].concat();
    let text = config_with(ai.address, "body_memory = \"1 MiB\"", "", &tables);
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    let body = crate::shop::body_of(300_000, &json!({ "max_tokens": 5 }));
    client.send(head("alice", &format!("content-length: {}\r\n", body.len()))).await;
    let _ = client.try_send(&body).await;
    let answer = client.head().await.unwrap();
    assert_eq!(status(&answer), 503, "{answer}");
    assert_eq!(header(&answer, "retry-after"), Some("1"));
    assert_eq!((ai.asked().len(), balance(&gateway).await.as_str()), (0, "100"));
}

/// A large body is forwarded whole and in order, however slowly its upstream takes it.
#[tokio::test]
async fn a_large_body_arrives_whole() {
    let ai = answering().await;
    let gateway = shop(&ai, "", 1000).await;
    for bytes in [65_535, 65_536, 65_537, 3_000_000] {
        let asked = crate::shop::body_of(bytes, &json!({ "max_tokens": 5 }));
        ask(&gateway, CHAT, &asked).await.expect(200);
        assert!(ai.asked().pop().unwrap().body == asked, "{bytes}");
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn every_refusal_of_an_anthropic_route_has_anthropic_s_shape() {
    let ai = answering().await;
    let gateway = shop(&ai, "", 1).await;
    let anonymous = gateway.client.post(gateway.url(MESSAGES)).body("{}");
    let limited = post(&gateway, MESSAGES, &body(&json!({ "max_tokens": 500 })));
    let unknown = post(&gateway, MESSAGES, "{\"model\":\"x\"}");
    let poor = post_by(&gateway, "poor", MESSAGES, "{}");
    for (asked, code, name, kind) in [
        (anonymous, 401, "UNAUTHENTICATED", "authentication_error"),
        (poor, 402, "INSUFFICIENT_CREDITS", "billing_error"),
        (post(&gateway, MESSAGES, "no"), 400, "BAD_REQUEST", "invalid_request_error"),
        (unknown, 404, "MODEL_NOT_PRICED", "not_found_error"),
        (limited.header("x-credits-max", "0"), 402, "PRICE_OVER_LIMIT", "billing_error"),
        (post(&gateway, MESSAGES, &body(&json!({}))), 402, "INSUFFICIENT_CREDITS", "billing_error"),
    ] {
        let answer = Answer::of(asked).await;
        let problem = answer.expect(code);
        assert_eq!(problem["type"], "error", "{problem}");
        let error = json!({ "type": kind, "message": problem["detail"] });
        assert_eq!(problem["error"], error, "{problem}");
        let slug = name.to_lowercase().replace('_', "-");
        assert_eq!(problem["problem_type"], format!("https://farebox.dev/problems/{slug}"));
        assert_eq!((&problem["code"], &problem["status"]), (&name.into(), &code.into()));
        assert_eq!(problem["request_id"], answer.header("x-request-id"));
        let retry = if code == 402 { "false" } else { "" };
        assert_eq!(answer.header("x-should-retry"), retry, "{problem}");
    }
    // The neighbours keep their own shape.
    let other = gateway.client.post(gateway.url(CHAT)).body("{}").send().await.unwrap();
    let other: Value = other.json().await.unwrap();
    assert_eq!(other["error"]["code"], "UNAUTHENTICATED");
    assert_eq!(ai.asked().len(), 0);
    let _ = token("alice");
}

#[tokio::test]
async fn members_that_a_route_denies_are_refused() {
    let ai = answering().await;
    let gateway = shop(&ai, "deny = [\"store\"]", 100).await;
    let denied = body(&json!({ "store": true }));
    let problem = ask(&gateway, CHAT, &denied).await.problem(400, "BAD_REQUEST");
    assert!(problem["detail"].as_str().unwrap().contains("store"), "{problem}");
    ask(&gateway, CHAT, &body(&json!({}))).await.expect(200);
}
