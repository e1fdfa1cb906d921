//! Members by which a request gets more than its `model` from an upstream that is a gateway itself (LiteLLM,
//! OpenRouter), or from a tool of the provider's.

use serde_json::{Value, json};

use crate::shop::{CHAT, ask, balance, body, held, model, post, routes, shop, with};
use crate::support::ai::{Ai, Reply, chat, chat_usage, event};

const RESPONSES: &str = "/v1/responses";

#[tokio::test]
async fn a_request_that_names_other_models_is_refused() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let gateway = shop(&ai, "", 100).await;
    let others = json!(["dear", { "model": "dear" }]);
    for (name, value) in [
        ("models", others.clone()),
        ("fallbacks", others.clone()),
        ("context_window_fallbacks", json!([{ "m": ["dear"] }])),
        ("content_policy_fallbacks", others.clone()),
        ("model_list", others.clone()),
        ("models", json!("dear")),
        ("Models", others.clone()),
        ("mod_els", others.clone()),
        // Clients of OpenAI's SDK mean its members to stand in the request itself. LiteLLM puts them there.
        ("extra_body", json!({ "model": "dear" })),
        ("extraBody", json!({ "model": "dear" })),
        ("user_config", json!({ "model_list": others })),
    ] {
        let answer = ask(&gateway, CHAT, &body(&json!({ name: value }))).await;
        let problem = answer.problem(400, "BAD_REQUEST");
        let folded = |text: &str| text.replace('_', "").to_ascii_lowercase();
        let detail = problem["detail"].as_str().unwrap();
        assert!(folded(detail).contains(&folded(name)), "{name}: {problem}");
    }
    assert_eq!(ai.asked().len(), 0);
    for (name, value) in
        [("models", Value::Null), ("fallbacks", json!([])), ("extra_body", json!({}))]
    {
        ask(&gateway, CHAT, &body(&json!({ name: value }))).await.expect(200);
    }
    assert_eq!(ai.asked().len(), 3);
}

#[tokio::test]
async fn a_plugin_brings_input_that_is_not_in_the_request() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let gateway = shop(&ai, "", 100).await;
    let asked = body(&json!({ "max_tokens": 500, "plugins": [{ "id": "web" }] }));
    // 400 000 tokens of input, so the tier.
    let problem = ask(&gateway, CHAT, &asked).await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(problem["required"], 200.75);
    let unbounded = model("m", "").replace("max_input_tokens = 400000", "");
    let gateway = with(&ai, &[routes(""), unbounded].concat(), 100).await;
    ask(&gateway, CHAT, &asked).await.problem(400, "BAD_REQUEST");
    assert_eq!(ai.asked().len(), 0);
}

/// An answer of OpenAI's responses that has drawn two images with a tool.
fn drawn() -> Value {
    let image = |id: &str| json!({ "id": id, "type": "image_generation_call", "status": "completed", "result": "AAAA" });
    let text = json!({ "type": "output_text", "text": "ok" });
    json!({
        "id": "resp_1", "object": "response", "status": "completed",
        "output": [image("ig_1"), { "type": "message", "content": [text] }, image("ig_2")],
        "usage": { "input_tokens": 200, "output_tokens": 100, "total_tokens": 300 },
    })
}

#[tokio::test]
async fn images_that_a_tool_of_the_providers_makes_are_counted() {
    let whole = Reply::json(&drawn());
    let partial = json!({ "type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA" });
    let done = json!({
        "type": "response.output_item.done",
        "item": { "id": "ig_1", "type": "image_generation_call", "result": "AAAA" },
    });
    let end = json!({ "type": "response.completed", "response": drawn() });
    let streamed = Reply::events(&[event(&partial), event(&done), event(&end)]);
    for (reply, stream) in [(whole, false), (streamed, true)] {
        let ai = Ai::answering(reply).await;
        let gateway = with(&ai, &[routes(""), model("m", "image = 4")].concat(), 1000).await;
        let asked = json!({
            "model": "m", "input": "draw", "stream": stream, "max_output_tokens": 500,
            "tools": [{ "type": "image_generation" }],
        });
        ask(&gateway, RESPONSES, &asked.to_string()).await.expect(200);
        // 200 × 250/T + 100 × 1000/T, and two images.
        assert_eq!(balance(&gateway).await, "991.85", "{stream}");
    }
}

/// No text tells how many tokens of sound or of images were delivered, so the hold cannot grow with them.
#[tokio::test]
async fn a_stream_of_sound_or_images_holds_all_that_it_may_use_at_once() {
    for (path, more) in [
        (
            CHAT,
            json!({ "modalities": ["text", "audio"], "audio": { "voice": "alloy" }, "messages": [] }),
        ),
        ("/v1/embeddings", json!({ "prompt": "draw", "size": "1024x1024", "partial_images": 2 })),
        (RESPONSES, json!({ "input": "draw", "tools": [{ "type": "image_generation" }] })),
    ] {
        let ai = Ai::answering(Reply::begin_events(&[]).then(crate::support::ai::Step::Hang)).await;
        let gateway = shop(&ai, "", 1000).await;
        let mut asked = json!({ "model": "m", "stream": true });
        for (name, value) in more.as_object().unwrap() {
            asked[name] = value.clone();
        }
        let answer = post(&gateway, path, &asked.to_string()).send().await.unwrap();
        let held: f64 = held(&gateway).await.parse().unwrap();
        assert!(held >= 8.0, "{path}: {held} are held for 8 000 tokens");
        assert!(answer.headers().contains_key("x-credits-held"));
    }
}
