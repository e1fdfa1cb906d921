//! The hold of a stream grows before it is used up, and the stream ends once the account can pay no more.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::refusals::freeze;
use crate::shop::{CHAT, MESSAGES, balance, body, held, model, post, routes, with};
use crate::support::ai::{
    Ai, DONE, Reply, Step, chat_chunk, chat_usage, chat_usage_chunk, message_delta_text,
    message_start,
};
use crate::support::{TestGateway, eventually};

/// A model whose streams hold 100 tokens of output at first.
fn tables(route: &str) -> String {
    [routes(route), model("m", "hold_output_tokens = 100")].concat()
}

fn stream(more: &Value) -> String {
    let mut members = json!({ "stream": true });
    for (name, value) in more.as_object().unwrap() {
        members[name] = value.clone();
    }
    body(&members)
}

/// Reads an answer to its end, or until it breaks off.
async fn read(mut answer: reqwest::Response) -> String {
    let mut read = String::new();
    while let Ok(Some(part)) = answer.chunk().await {
        read.push_str(&String::from_utf8_lossy(&part));
    }
    read
}

/// The bytes of `Q` in a text: those of the model.
fn delivered(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'Q').count()
}

/// An endless stream of 40 bytes of text an event.
fn endless(path: &str) -> Reply {
    let text = "Q".repeat(40);
    let mut reply = Reply::chunked("text/event-stream");
    let event = if path == CHAT { chat_chunk(&text) } else { message_delta_text(&text) };
    if path == MESSAGES {
        let usage = json!({ "input_tokens": 200, "output_tokens": 1 });
        reply.0.push(Step::Chunk(message_start(&usage).into_bytes()));
    }
    reply.0.extend((0..5000).map(|_| Step::Chunk(event.clone().into_bytes())));
    reply.then(Step::Hang)
}

#[tokio::test]
async fn an_endless_stream_ends_with_an_error_event_when_nothing_is_left() {
    for (path, end) in [(CHAT, "\n\n"), (MESSAGES, "\n\n")] {
        let gateway = with(&Ai::answering(endless(path)).await, &tables(""), 1).await;
        let answer = post(&gateway, path, &stream(&json!({}))).send().await.unwrap();
        assert_eq!(answer.headers()["x-credits-held"], "0.15");
        let text = answer.text().await.expect("the answer ends, and is not broken off");
        let events: Vec<&str> = text.strip_suffix(end).unwrap().split("\n\n").collect();
        let error = events.last().unwrap();
        let data = error.rsplit_once("data: ").unwrap().1;
        let data: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("{error}"));
        assert!(data["error"]["message"].as_str().unwrap().contains("no more credits"), "{data}");
        if path == MESSAGES {
            assert!(error.starts_with("event: error\n"), "{error}");
            assert_eq!(
                (&data["type"], &data["error"]["type"]),
                (&"error".into(), &"billing_error".into())
            );
        }
        // 0.05 of input, and 1 900 bytes of text at half a token each.
        assert_eq!(delivered(&text), 1880, "all that could be paid for, and no more");
        assert_eq!(balance(&gateway).await, "0.01");
        gateway.assert_reconciled().await;
    }
}

#[tokio::test]
async fn the_hold_grows_up_to_what_the_request_allows_and_no_further() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply::chunked("text/event-stream");
    for _ in 0..40 {
        reply.0.push(Step::Chunk(chat_chunk(&"Q".repeat(40)).into_bytes()));
        reply.0.push(Step::Wait(permits.clone()));
    }
    let usage = chat_usage_chunk(&chat_usage(200, 300));
    reply.0.extend([Step::Chunk(usage.into_bytes()), Step::Chunk(DONE.into()), Step::End]);
    let gateway = with(&Ai::answering(reply).await, &tables(""), 100).await;
    let asked = stream(&json!({ "max_tokens": 350 }));
    let mut answer = post(&gateway, CHAT, &asked).send().await.unwrap();
    let (mut read, mut seen) = (String::new(), Vec::new());
    for n in 1..=40 {
        while delivered(&read) < n * 40 {
            read.push_str(&String::from_utf8_lossy(&answer.chunk().await.unwrap().unwrap()));
        }
        // The ledger is asked beside the stream.
        let tokens = n as f64 * 20.0;
        let covers = async || {
            let held: f64 = held(&gateway).await.parse().unwrap();
            held >= (0.05 + (tokens + 50.0).min(350.0) / 1000.0) - 1e-9
        };
        assert!(eventually(covers).await, "{n}: {}", held(&gateway).await);
        seen.push(held(&gateway).await);
        permits.add_permits(1);
    }
    seen.dedup();
    assert_eq!(seen, ["0.15", "0.25", "0.35", "0.4"]);
    while answer.chunk().await.unwrap().is_some() {}
    assert_eq!(balance(&gateway).await, "99.65");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_part_that_is_larger_than_the_hold_waits_until_it_is_paid_for() {
    let text = "Q".repeat(8000);
    let mut reply = Reply::begin_events(&[chat_chunk(&text)]);
    let usage = chat_usage_chunk(&chat_usage(200, 2000));
    reply.0.extend([Step::Chunk(usage.into_bytes()), Step::Chunk(DONE.into()), Step::End]);
    for (credits, whole) in [(100, true), (1, false)] {
        let gateway = with(&Ai::answering(reply.clone()).await, &tables(""), credits).await;
        let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
        let text = read(answer).await;
        assert_eq!(delivered(&text), if whole { 8000 } else { 0 });
        assert_eq!(text.ends_with(DONE), whole, "{text}");
        let left = if whole { "97.95" } else { "0.95" };
        assert_eq!(balance(&gateway).await, left);
    }
}

#[tokio::test]
async fn a_stream_that_declares_its_length_is_paid_for_like_any_other() {
    let events = [chat_chunk(&"Q".repeat(8000)), DONE.to_owned()];
    let head = "content-type: text/event-stream\r\n";
    for (credits, whole) in [(100, true), (1, false)] {
        let mut seen = Vec::new();
        for reply in [Reply::events(&events), Reply::whole(200, head, events.concat())] {
            let gateway = with(&Ai::answering(reply).await, &tables(""), credits).await;
            let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
            assert_eq!(answer.headers().get("content-length"), None);
            let text = read(answer).await;
            seen.push((delivered(&text), text.ends_with(DONE), balance(&gateway).await));
        }
        assert_eq!(seen[0], seen[1], "with {credits} credits");
        assert_eq!((seen[1].0, seen[1].1), if whole { (8000, true) } else { (0, false) });
    }
}

/// A model that thinks shows no text for long. Some servers tell the tokens of that as they go.
#[tokio::test]
async fn hidden_tokens_that_a_stream_tells_as_it_goes_grow_its_hold_and_end_it() {
    let thinks = |tokens: u64| {
        let mut usage = chat_usage(200, tokens);
        usage["completion_tokens_details"]["reasoning_tokens"] = tokens.into();
        chat_chunk("").replace("\"model\":\"m\"", &format!("\"model\":\"m\",\"usage\":{usage}"))
    };
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply::begin_events(&[thinks(80)]).then(Step::Wait(permits.clone()));
    reply.0.extend((5..500).map(|n| Step::Chunk(thinks(n * 20).into_bytes())));
    let gateway = with(&Ai::answering(reply.then(Step::Hang)).await, &tables(""), 1).await;
    let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
    assert_eq!(answer.headers()["x-credits-held"], "0.15");
    assert!(eventually(async || held(&gateway).await == "0.25").await, "{}", held(&gateway).await);
    permits.add_permits(1);
    let text = read(answer).await;
    assert!(text.contains("no more credits"), "{text}");
    // 0.05 of input and 950 tokens are all that could be paid for; the next event told 960.
    assert_eq!(balance(&gateway).await, "-0.01");
    gateway.assert_reconciled().await;
    // Tokens that are reported only at the end are charged all the same.
    let events = [chat_chunk(""), chat_usage_chunk(&chat_usage(200, 2000)), DONE.to_owned()];
    let gateway = with(&Ai::answering(Reply::events(&events)).await, &tables(""), 1).await;
    let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
    assert!(read(answer).await.ends_with(DONE));
    assert_eq!(balance(&gateway).await, "-1.05");
}

/// However many streams run on one balance, they never take it below zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_run_side_by_side_never_outrun_their_balance() {
    let gateway = with(&Ai::answering(endless(CHAT)).await, &tables(""), 2).await;
    let calls = (0..20).map(|_| async {
        let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
        (answer.status().as_u16(), read(answer).await)
    });
    let answers = futures_util::future::join_all(calls).await;
    let passed = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!((1..=13).contains(&passed), "{passed}");
    let left: f64 = balance(&gateway).await.parse().unwrap();
    assert!((0.0..0.4).contains(&left), "{left}");
    let paid: usize = answers.iter().map(|(_, text)| delivered(text) / 2).sum();
    let paid = passed as f64 * 0.05 + paid as f64 / 1000.0;
    assert!((2.0 - left - paid).abs() < 1e-6, "{left} are left, {paid} were delivered");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_stream_of_an_account_that_is_frozen_meanwhile_says_so() {
    let permits = Arc::new(Semaphore::new(0));
    let text = chat_chunk(&"Q".repeat(40));
    let mut reply =
        Reply::begin_events(std::slice::from_ref(&text)).then(Step::Wait(permits.clone()));
    reply.0.extend((0..50).map(|_| Step::Chunk(text.clone().into_bytes())));
    let gateway = with(&Ai::answering(reply.then(Step::Hang)).await, &tables(""), 100).await;
    let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
    freeze(&gateway).await;
    permits.add_permits(1);
    let text = read(answer).await;
    let error = text.trim_end().rsplit("data: ").next().unwrap();
    let error: Value = serde_json::from_str(error).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(error["error"]["code"], "ACCOUNT_FROZEN", "{error}");
    assert_eq!(delivered(&text), 200, "all that was held for");
    gateway.assert_reconciled().await;
}

/// The model may write 8 000 tokens, and these clients name no limit. Each needs only the credits that a stream holds
/// at first, and not the most that it could use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_can_pay_for_an_answer_is_not_refused_for_the_longest_one() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply::begin_events(&[chat_chunk("Q")]).then(Step::Wait(permits.clone()));
    let usage = chat_usage_chunk(&chat_usage(200, 10));
    reply.0.extend([Step::Chunk(usage.into_bytes()), Step::Chunk(DONE.into()), Step::End]);
    let gateway = with(&Ai::answering(reply).await, &tables(""), 3).await;
    let mut calls = Vec::new();
    for n in 0..20 {
        let answer = post(&gateway, CHAT, &stream(&json!({}))).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{n}");
        calls.push(answer);
    }
    assert_eq!(held(&gateway).await, "3");
    permits.add_permits(20);
    for answer in calls {
        assert!(read(answer).await.ends_with(DONE));
    }
    // 20 × (200 × 250/T + 10 × 1000/T)
    assert_eq!(balance(&gateway).await, "1.8");
    // A call that does not stream and names no limit is shortened if the route says so.
    let whole = Reply::json(&crate::support::ai::chat("ok", &chat_usage(200, 10)));
    let gateway = with(&Ai::answering(whole).await, &tables("on_short = \"shorten\""), 1).await;
    crate::shop::ask(&gateway, CHAT, &body(&json!({}))).await.expect(200);
    assert_eq!(balance(&gateway).await, "0.94");
}

#[tokio::test]
async fn a_call_is_shortened_to_what_the_account_can_pay_where_the_route_says_so() {
    let answer = crate::support::ai::chat("ok", &chat_usage(200, 100));
    for (more, option, expected) in [
        (json!({ "max_tokens": 5000 }), "on_short = \"shorten\"", Some(950)),
        (json!({}), "on_short = \"shorten\"", Some(950)),
        (json!({ "max_tokens": 5000 }), "on_short = \"refuse\"", None),
        (json!({ "max_tokens": 300 }), "on_short = \"shorten\"", Some(300)),
        (json!({ "max_tokens": 5000, "n": 3 }), "on_short = \"shorten\"", Some(316)),
    ] {
        let ai = Ai::answering(Reply::json(&answer)).await;
        let gateway = with(&ai, &tables(option), 1).await;
        let answered = crate::shop::ask(&gateway, CHAT, &body(&more)).await;
        match expected {
            None => {
                let problem = answered.problem(402, "INSUFFICIENT_CREDITS");
                assert_eq!(
                    (&problem["required"], &problem["available"]),
                    (&5.05.into(), &1.into())
                );
            }
            Some(limit) => {
                answered.expect(200);
                let asked = ai.asked()[0].json();
                let sent = asked["max_tokens"].as_u64().or(asked["max_completion_tokens"].as_u64());
                assert_eq!(sent, Some(limit), "{asked}");
                assert_eq!(balance(&gateway).await, "0.85", "{more}");
            }
        }
    }
    let ai = Ai::answering(Reply::json(&answer)).await;
    let gateway: TestGateway = with(&ai, &tables("on_short = \"shorten\""), 0).await;
    crate::shop::ask(&gateway, CHAT, &body(&json!({}))).await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(ai.asked().len(), 0);
}
