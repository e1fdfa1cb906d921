//! OpenAI's chat completions.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cli::demo::upstream::events;
use crate::cli::demo::upstream::reply::{CREATED, Question, Reply, id, model};

/// `POST /v1/chat/completions`
pub async fn answer(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let limit = request.get("max_completion_tokens").unwrap_or(&request["max_tokens"]);
    let thinks = request["reasoning_effort"].as_str().is_some_and(|effort| effort != "none");
    let question = Question::of(&request, &request["messages"], limit, thinks);
    let reply = question.reply();
    let choices = request["n"].as_u64().unwrap_or(1);
    let usage = usage(&question, &reply, choices);
    let id = id("chatcmpl-", &request["messages"]);
    let envelope = |object: &str, choices: Vec<Value>| {
        json!({
            "id": id, "object": object, "created": CREATED, "model": model(&request),
            "choices": choices,
        })
    };
    if request["stream"] == true {
        let chunk = |choices| envelope("chat.completion.chunk", choices);
        let with_usage = request["stream_options"]["include_usage"] == true;
        return stream(chunk, &reply, choices, with_usage.then_some(usage));
    }
    let choice = |index| {
        let calls = reply.call.as_ref().map(|call| {
            let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
            json!([{ "id": "call_1", "type": "function", "function": function }])
        });
        let message = match calls {
            Some(calls) => json!({ "role": "assistant", "content": null, "tool_calls": calls }),
            None => json!({ "role": "assistant", "content": reply.words.concat() }),
        };
        json!({ "index": index, "message": message, "finish_reason": finish(&reply) })
    };
    let mut answer = envelope("chat.completion", (0..choices).map(choice).collect());
    answer["usage"] = usage;
    axum::Json(answer).into_response()
}

/// The usage. `prompt_tokens` includes the cached tokens, and `completion_tokens` the reasoning.
fn usage(question: &Question<'_>, reply: &Reply, choices: u64) -> Value {
    let (input, output) = (question.input(), choices.saturating_mul(reply.output));
    let reasoning = choices.saturating_mul(reply.reasoning);
    json!({
        "prompt_tokens": input,
        "prompt_tokens_details": { "cached_tokens": question.earlier() },
        "completion_tokens": output,
        "completion_tokens_details": { "reasoning_tokens": reasoning },
        "total_tokens": input.saturating_add(output),
    })
}

fn finish(reply: &Reply) -> &'static str {
    match reply {
        Reply { call: Some(_), .. } => "tool_calls",
        Reply { is_cut: true, .. } => "length",
        _ => "stop",
    }
}

/// The answer as a stream. With `usage`, every chunk has the member `usage`, which is null except
/// in an additional chunk at the end.
fn stream(
    chunk: impl Fn(Vec<Value>) -> Value,
    reply: &Reply,
    choices: u64,
    usage: Option<Value>,
) -> Response {
    let mut chunks = Vec::new();
    let mut add = |delta: &Value, finish: Option<&str>| {
        for index in 0..choices {
            let choice = json!({ "index": index, "delta": delta, "finish_reason": finish });
            let mut chunk = chunk(vec![choice]);
            if usage.is_some() {
                chunk["usage"] = Value::Null;
            }
            chunks.push(events::unnamed(&chunk));
        }
    };
    add(&json!({ "role": "assistant", "content": "" }), None);
    if let Some(call) = &reply.call {
        let arguments = call.arguments.to_string();
        let function = json!({ "name": call.name, "arguments": "" });
        let first = json!({ "index": 0, "id": "call_1", "type": "function", "function": function });
        add(&json!({ "tool_calls": [first] }), None);
        for part in arguments.split_inclusive(' ') {
            let next = json!({ "index": 0, "function": { "arguments": part } });
            add(&json!({ "tool_calls": [next] }), None);
        }
    }
    for word in &reply.words {
        add(&json!({ "content": word }), None);
    }
    add(&json!({}), Some(finish(reply)));
    if let Some(usage) = usage {
        let mut last = chunk(Vec::new());
        last["usage"] = usage;
        chunks.push(events::unnamed(&last));
    }
    chunks.push("data: [DONE]\n\n".to_owned());
    events::stream(chunks)
}
