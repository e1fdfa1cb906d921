//! Streams: metered as they pass, with what is held in their head and what they cost at their end.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::shop::{CHAT, MESSAGES, ask, balance, body, post, shop};
use crate::support::ai::{
    Ai, DONE, Reply, Step, chat_chunk, chat_events, chat_usage, message_events, message_stop,
};
use crate::support::http::Answer;

fn stream(more: &Value) -> String {
    let mut members = json!({ "stream": true, "max_tokens": 500 });
    for (name, value) in more.as_object().unwrap() {
        members[name] = value.clone();
    }
    body(&members)
}

#[tokio::test]
async fn a_stream_says_what_is_held_and_is_charged_by_its_usage() {
    let ai =
        Ai::answering(Reply::events(&chat_events(&["one", "two"], &chat_usage(200, 100)))).await;
    let gateway = shop(&ai, "", 100).await;
    let asked = stream(&json!({ "stream_options": { "include_usage": true } }));
    let answer = ask(&gateway, CHAT, &asked).await;
    answer.expect(200);
    assert_eq!(answer.header("x-credits-held"), "0.55");
    assert_eq!(answer.header("x-credits-cost"), "");
    assert_eq!(answer.header("x-credits-remaining"), "");
    assert_eq!(answer.text, chat_events(&["one", "two"], &chat_usage(200, 100)).concat());
    assert_eq!(ai.asked()[0].body, asked);
    assert_eq!(balance(&gateway).await, "99.85");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn usage_is_asked_for_where_the_client_did_not_and_then_not_shown_to_it() {
    let events = chat_events(&["one", "two"], &chat_usage(200, 100));
    let ai = Ai::answering(Reply::events(&events)).await;
    let gateway = shop(&ai, "", 100).await;
    let answer = ask(&gateway, CHAT, &stream(&json!({}))).await;
    let shown = [chat_chunk("one"), chat_chunk("two"), DONE.to_owned()].concat();
    assert_eq!(answer.text, shown);
    let asked = ai.asked()[0].json();
    assert_eq!(asked["stream_options"], json!({ "include_usage": true }));
    assert_eq!(
        asked["messages"],
        serde_json::from_str::<Value>(&stream(&json!({}))).unwrap()["messages"]
    );
    assert_eq!(balance(&gateway).await, "99.85");
}

#[tokio::test]
async fn the_report_stands_right_before_the_last_event_where_it_is_asked_for() {
    let usage = json!({ "input_tokens": 200, "output_tokens": 1 });
    let anthropic = message_events(&["one", "two"], &usage, 100);
    let openai = chat_events(&["one", "two"], &chat_usage(200, 100));
    for (path, events, last) in
        [(CHAT, openai, DONE.to_owned()), (MESSAGES, anthropic, message_stop())]
    {
        for asks in [Some("true"), Some("false"), None] {
            let gateway = shop(&Ai::answering(Reply::events(&events)).await, "", 100).await;
            let mut request = post(&gateway, path, &stream(&json!({})));
            if let Some(asks) = asks {
                request = request.header("x-credits-report", asks);
            }
            let answer = Answer::of(request).await;
            let before =
                answer.text.strip_suffix(&last).unwrap_or_else(|| panic!("{}", answer.text));
            let report = before.rsplit_once(": farebox ").map(|(_, report)| report);
            if asks == Some("true") {
                let report = report.unwrap().strip_suffix("\n\n").unwrap();
                let report: Value = serde_json::from_str(report).unwrap();
                let usage = json!({ "input": 200, "output": 100 });
                let expected = json!({ "cost": 0.15, "remaining": 99.85, "usage": usage });
                assert_eq!(report, expected);
            } else {
                assert_eq!(report, None, "{}", answer.text);
            }
            assert_eq!(balance(&gateway).await, "99.85", "{path} {asks:?}");
            gateway.assert_reconciled().await;
        }
    }
}

#[tokio::test]
async fn an_event_reaches_the_client_when_the_upstream_sent_it() {
    for path in [CHAT, MESSAGES] {
        let permits = Arc::new(Semaphore::new(0));
        let mut reply = Reply::chunked("text/event-stream");
        for n in 0..20 {
            let event = if path == CHAT {
                chat_chunk(&format!("part {n:02}"))
            } else {
                crate::support::ai::message_delta_text(&format!("part {n:02}"))
            };
            reply.0.extend([Step::Chunk(event.into_bytes()), Step::Wait(permits.clone())]);
        }
        let reply = reply.then(Step::End);
        let gateway = shop(&Ai::answering(reply).await, "", 100).await;
        let request = post(&gateway, path, &stream(&json!({}))).header("x-credits-report", "true");
        let mut answer = request.send().await.unwrap();
        let mut read = String::new();
        for n in 0..20 {
            while !read.contains(&format!("part {n:02}")) {
                let chunk = answer.chunk().await.unwrap().expect("more");
                read.push_str(&String::from_utf8_lossy(&chunk));
            }
            // The next one is sent only now.
            permits.add_permits(1);
        }
        assert!(answer.chunk().await.unwrap().is_none());
        balance(&gateway).await;
    }
}

#[tokio::test]
async fn a_stream_without_usage_is_charged_by_what_was_delivered() {
    let text = "y".repeat(120);
    for (option, left) in [("", "99.83"), ("on_missing_usage = \"release\"", "100")] {
        let events = chat_events(&[&text, &text], &Value::Null);
        let gateway = shop(&Ai::answering(Reply::events(&events)).await, option, 100).await;
        let answer = ask(&gateway, CHAT, &stream(&json!({}))).await;
        assert_eq!(answer.text, events.concat());
        assert_eq!(balance(&gateway).await, left, "{option}");
    }
}

/// However the bytes come, the same is charged and shown.
#[tokio::test]
async fn a_stream_that_is_cut_at_every_byte_costs_the_same() {
    let whole = chat_events(&["one", "two"], &chat_usage(200, 100)).concat();
    let mut reply = Reply::chunked("text/event-stream");
    reply.0.extend(whole.bytes().map(|byte| Step::Chunk(vec![byte])));
    let gateway = shop(&Ai::answering(reply.then(Step::End)).await, "", 100).await;
    let answer = ask(&gateway, CHAT, &stream(&json!({}))).await;
    assert_eq!(answer.text, [chat_chunk("one"), chat_chunk("two"), DONE.to_owned()].concat());
    assert_eq!(balance(&gateway).await, "99.85");
}
