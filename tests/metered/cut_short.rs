//! Upstreams that break off.

use serde_json::{Value, json};

use crate::shop::{CHAT, MESSAGES, balance, body, post, shop};
use crate::support::ai::{Ai, Reply, Step, chat_events, chat_usage, message_events};

/// Reads what comes of an answer, until it ends or breaks off.
async fn read(mut answer: reqwest::Response) -> String {
    let mut read = String::new();
    while let Ok(Some(part)) = answer.chunk().await {
        read.push_str(&String::from_utf8_lossy(&part));
    }
    read
}

#[tokio::test]
async fn a_stream_that_the_upstream_breaks_off_is_free_until_its_final_usage_was_seen() {
    let usage = json!({ "input_tokens": 200, "output_tokens": 1 });
    let openai = chat_events(&["one", "two", "three"], &chat_usage(200, 100));
    let anthropic = message_events(&["one", "two", "three"], &usage, 100);
    let asked = body(&json!({ "stream": true, "max_tokens": 500 }));
    for (path, events) in [(CHAT, openai), (MESSAGES, anthropic)] {
        // The event before the last one has the usage.
        let known = events.len() - 1;
        for sent in 0..=events.len() {
            let reply = Reply::begin_events(&events[..sent]).then(Step::Break);
            let gateway = shop(&Ai::answering(reply).await, "", 100).await;
            let answer = post(&gateway, path, &asked).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            read(answer).await;
            let left = if sent >= known { "99.85" } else { "100" };
            assert_eq!(balance(&gateway).await, left, "{path}: {sent} of {}", events.len());
        }
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_cut_and_free() {
    let events = chat_events(&["one", "two"], &Value::Null);
    let reply = Reply::begin_events(&events[..2]).then(Step::Hang);
    let gateway = shop(&Ai::answering(reply).await, "read_timeout = \"200ms\"", 100).await;
    let asked = body(&json!({ "stream": true, "max_tokens": 500 }));
    let answer = post(&gateway, CHAT, &asked).send().await.unwrap();
    assert!(read(answer).await.contains("two"));
    assert_eq!(balance(&gateway).await, "100");
}
