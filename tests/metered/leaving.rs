//! Clients that leave.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use crate::shop::{CHAT, MESSAGES, balance, body, model, routes, shop, with};
use crate::support::ai::{
    Ai, Reply, Step, chat, chat_chunk, chat_events, chat_usage, message_delta_text, message_events,
    message_start,
};
use crate::support::eventually;
use crate::support::wire::{Wire, post};

/// A raw client that has sent its request.
async fn client(gateway: &crate::support::TestGateway, path: &str, body: &str) -> Wire {
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post(path, "alice", body)).await;
    client
}

fn stream() -> String {
    body(&json!({ "stream": true, "max_tokens": 500 }))
}

fn whole() -> String {
    body(&json!({ "max_tokens": 500 }))
}

#[tokio::test]
async fn an_answer_that_does_not_stream_is_read_to_its_end_and_charged_by_its_usage() {
    let answer = chat("ok", &chat_usage(200, 100));
    for (option, left) in [
        ("", "99.85"),
        ("on_client_abort = \"drain\"", "99.85"),
        ("on_client_abort = \"release\"", "100"),
    ] {
        for begun in [false, true] {
            let permits = Arc::new(Semaphore::new(0));
            let text = answer.to_string();
            let (first, last) = text.split_at(if begun { 20 } else { 0 });
            let mut reply = Reply(Vec::new());
            if begun {
                reply = Reply::chunked("application/json").then(Step::Chunk(first.into()));
                reply = reply.then(Step::Wait(permits.clone())).then(Step::Chunk(last.into()));
                reply = reply.then(Step::End);
            } else {
                reply.0.push(Step::Wait(permits.clone()));
                reply.0.extend(Reply::json(&answer).0);
            }
            let ai = Ai::answering(reply).await;
            let gateway = shop(&ai, option, 100).await;
            let client = client(&gateway, CHAT, &whole()).await;
            assert!(eventually(async || ai.asked().len() == 1).await);
            drop(client);
            if option.contains("release") {
                assert_eq!(balance(&gateway).await, left, "{option}");
            } else {
                // The gateway notices that the client has left, and goes on.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                assert_eq!(crate::shop::held(&gateway).await, "0.55", "{option}");
            }
            permits.add_permits(1);
            assert_eq!(balance(&gateway).await, left, "{option} begun: {begun}");
            gateway.assert_reconciled().await;
        }
    }
}

#[tokio::test]
async fn an_error_that_comes_after_the_client_has_left_is_free() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply(vec![Step::Wait(permits.clone())]);
    reply.0.extend(Reply::whole(500, "", "oh").0);
    let ai = Ai::answering(reply).await;
    let gateway = shop(&ai, "", 100).await;
    let client = client(&gateway, CHAT, &whole()).await;
    assert!(eventually(async || ai.asked().len() == 1).await);
    drop(client);
    permits.add_permits(1);
    assert_eq!(balance(&gateway).await, "100");
}

#[tokio::test]
async fn a_stream_costs_its_input_and_what_was_delivered() {
    let half = "y".repeat(120);
    let anthropic_input = json!({ "input_tokens": 1000, "output_tokens": 1 });
    let openai = vec![chat_chunk(&half), chat_chunk(&half)];
    let anthropic =
        vec![message_start(&anthropic_input), message_delta_text(&half), message_delta_text(&half)];
    let known = vec![
        chat_chunk(&half),
        // vLLM counts as it goes.
        chat_chunk(&half).replace(
            "\"model\":\"m\"",
            "\"model\":\"m\",\"usage\":{\"prompt_tokens\":300,\"completion_tokens\":60,\"total_tokens\":360}",
        ),
    ];
    for (path, events, option, left) in [
        (CHAT, &openai, "", "99.83"),
        (CHAT, &openai, "on_missing_usage = \"hold\"", "99.83"),
        (CHAT, &openai, "on_client_abort = \"release\"", "100"),
        (MESSAGES, &anthropic, "", "99.63"),
        (CHAT, &known, "", "99.865"),
    ] {
        let ai = Ai::answering(Reply::begin_events(events).then(Step::Hang)).await;
        let gateway = shop(&ai, option, 100).await;
        let mut client = client(&gateway, path, &stream()).await;
        for _ in 0..2 {
            client.up_to(&half).await.unwrap();
        }
        drop(client);
        assert_eq!(balance(&gateway).await, left, "{path} {option} {events:?}");
        gateway.assert_reconciled().await;
    }
}

#[tokio::test]
async fn a_stream_that_is_left_before_its_first_byte_costs_its_input() {
    let ai = Ai::answering(Reply(vec![Step::Hang])).await;
    let gateway = shop(&ai, "", 100).await;
    let client = client(&gateway, CHAT, &stream()).await;
    assert!(eventually(async || ai.asked().len() == 1).await);
    drop(client);
    assert_eq!(balance(&gateway).await, "99.95");
}

#[tokio::test]
async fn a_stream_with_hidden_output_or_of_a_route_that_drains_is_read_to_its_end() {
    let drains = "on_client_abort = \"drain\"";
    for (route, of_model) in [(drains, ""), ("", "hidden_output = true")] {
        for sent in [0, 1] {
            let permits = Arc::new(Semaphore::new(0));
            let events = chat_events(&["one", "two"], &chat_usage(200, 400));
            let mut reply = Reply::begin_events(&events[..sent]);
            reply.0.push(Step::Wait(permits.clone()));
            reply.0.extend(events[sent..].iter().map(|e| Step::Chunk(e.clone().into_bytes())));
            let ai = Ai::answering(reply.then(Step::End)).await;
            let tables = [routes(route), model("m", of_model)].concat();
            let gateway = with(&ai, &tables, 100).await;
            let mut client = client(&gateway, CHAT, &stream()).await;
            client.head().await.unwrap();
            if sent > 0 {
                client.up_to("one").await.unwrap();
            }
            drop(client);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            assert_eq!(crate::shop::held(&gateway).await, "0.55", "{route} {of_model}");
            permits.add_permits(1);
            assert_eq!(balance(&gateway).await, "99.55", "{route} {of_model} {sent}");
        }
    }
}

/// A client that leaves later never pays less, and never more than the whole: 0.11.
#[tokio::test]
async fn a_stream_that_its_client_cuts_costs_at_each_event_what_was_delivered() {
    let usage = json!({ "input_tokens": 200, "output_tokens": 1 });
    let texts = ["a".repeat(40), "b".repeat(40), "c".repeat(40)];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let asked = body(&json!({
        "stream": true, "max_tokens": 500, "stream_options": { "include_usage": true },
    }));
    // 200 × 250/T of input, and 40 bytes are 20 × 1000/T. The last event but one has the usage.
    let openai = ["99.93", "99.91", "99.89", "99.89", "99.89"];
    // The first event tells a token of output; then come the start of a block, and a ping.
    let anthropic =
        ["99.949", "99.949", "99.949", "99.93", "99.91", "99.89", "99.89", "99.89", "99.89"];
    for (path, asked, events, left) in [
        (CHAT, asked, chat_events(&texts, &chat_usage(200, 60)), &openai[..]),
        (MESSAGES, stream(), message_events(&texts, &usage, 60), &anthropic[..]),
    ] {
        assert_eq!(events.len(), left.len());
        for (sent, left) in (1..).zip(left) {
            let ai = Ai::answering(Reply::begin_events(&events[..sent]).then(Step::Hang)).await;
            let gateway = shop(&ai, "", 100).await;
            let mut client = client(&gateway, path, &asked).await;
            client.up_to(events[sent - 1].trim_end()).await.unwrap();
            drop(client);
            assert_eq!(balance(&gateway).await, *left, "{path}: {sent} events");
        }
    }
}
