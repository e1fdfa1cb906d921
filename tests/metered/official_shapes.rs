//! Answers as the providers' documents show them, whole and streamed, with their price computed by hand.

use serde_json::{Value, json};

use crate::shop::{CHAT, MESSAGES, ask, balance, body, shop};
use crate::support::ai::{Ai, DONE, Reply, chat_chunk, event, message_stop, named_event};

/// Asks for an answer, and expects the balance of 100 to be `left` afterwards; the answer's text.
async fn costs(path: &str, is_stream: bool, reply: Reply, left: &str) -> String {
    let gateway = shop(&Ai::answering(reply).await, "", 100).await;
    let asked = body(&json!({ "stream": is_stream, "max_tokens": 5000 }));
    let answer = ask(&gateway, path, &asked).await;
    answer.expect(200);
    assert_eq!(balance(&gateway).await, left, "{path}: {}", answer.text);
    gateway.assert_reconciled().await;
    answer.text
}

/// OpenAI's responses: 1 000 of input, of these 400 cached; 300 of output, of these 200 reasoning. That is
/// 0.15 + 0.01 + 0.3.
fn response(usage: bool) -> Value {
    let usage = usage.then(|| {
        json!({
            "input_tokens": 1000, "input_tokens_details": { "cached_tokens": 400 },
            "output_tokens": 300, "output_tokens_details": { "reasoning_tokens": 200 },
            "total_tokens": 1300,
        })
    });
    let content = json!([{ "type": "output_text", "text": "Hi!", "annotations": [] }]);
    json!({
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "error": null,
        "model": "m", "output": [{
            "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
            "content": content,
        }],
        "service_tier": "default", "usage": usage,
    })
}

#[tokio::test]
async fn openai_s_responses() {
    let path = "/v1/responses";
    costs(path, false, Reply::json(&response(true)), "99.54").await;
    let data = |name: &str, data: Value| {
        let mut data = data;
        data["type"] = name.into();
        named_event(name, &data)
    };
    for last in ["response.completed", "response.incomplete", "response.failed"] {
        let events = [
            data("response.created", json!({ "response": response(false) })),
            data("response.output_text.delta", json!({ "item_id": "msg_1", "delta": "Hi!" })),
            data(last, json!({ "response": response(true) })),
        ];
        let text = costs(path, true, Reply::events(&events), "99.54").await;
        assert_eq!(text, events.concat());
    }
}

#[tokio::test]
async fn openai_s_embeddings() {
    let answer = json!({
        "object": "list", "data": [{ "object": "embedding", "index": 0, "embedding": [0.1, -2e-3] }],
        "model": "m", "usage": { "prompt_tokens": 800, "total_tokens": 800 },
    });
    costs("/v1/embeddings", false, Reply::json(&answer), "99.8").await;
}

/// Azure sends an early chunk without choices, which is not the chunk with the usage.
#[tokio::test]
async fn azure_s_early_chunk_without_choices_is_shown() {
    let early = event(&json!({
        "id": "", "object": "", "created": 0, "model": "", "choices": [],
        "prompt_filter_results": [{ "prompt_index": 0, "content_filter_results": {} }],
    }));
    let usage = crate::support::ai::chat_usage_chunk(&crate::support::ai::chat_usage(200, 100));
    let events = [early.clone(), chat_chunk("Hi!"), usage, DONE.to_owned()];
    let text = costs(CHAT, true, Reply::events(&events), "99.85").await;
    assert_eq!(text, [early, chat_chunk("Hi!"), DONE.to_owned()].concat());
}

/// Each count of Anthropic's deltas replaces the earlier one: 600 of input, 400 cached, 100 written to the cache, and
/// 300 of output. That is 0.15 + 0.01 + 0.03125 + 0.3.
#[tokio::test]
async fn anthropic_s_cumulative_counts() {
    let input = json!({
        "input_tokens": 600, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 100,
        "output_tokens": 2, "service_tier": "standard",
    });
    let delta = |usage: Value| {
        let stop = json!({ "stop_reason": "end_turn", "stop_sequence": null });
        named_event(
            "message_delta",
            &json!({ "type": "message_delta", "delta": stop, "usage": usage }),
        )
    };
    let events = [
        crate::support::ai::message_start(&input),
        named_event("ping", &json!({ "type": "ping" })),
        crate::support::ai::message_delta_text("Hello"),
        named_event(
            "a_new_event",
            &json!({ "type": "a_new_event", "usage": { "output_tokens": 9 } }),
        ),
        delta(json!({ "output_tokens": 15 })),
        delta(json!({ "input_tokens": null, "output_tokens": 300 })),
        message_stop(),
    ];
    let text = costs(MESSAGES, true, Reply::events(&events), "99.50875").await;
    assert_eq!(text, events.concat());
}

/// Comments, CRLF and fields that no SDK knows change nothing.
#[tokio::test]
async fn a_stream_with_comments_and_crlf() {
    let usage = crate::support::ai::chat_usage_chunk(&crate::support::ai::chat_usage(200, 100));
    let events = [chat_chunk("Hi!"), usage, DONE.to_owned()];
    let odd = format!(": ping\r\n\r\nretry: 10\r\n{}", events.concat().replace('\n', "\r\n"));
    let text = costs(CHAT, true, Reply::events(&[odd]), "99.85").await;
    assert!(text.starts_with(": ping\r\n\r\nretry: 10\r\ndata: "), "{text}");
    assert!(!text.contains("prompt_tokens") && text.ends_with("data: [DONE]\r\n\r\n"), "{text}");
}
