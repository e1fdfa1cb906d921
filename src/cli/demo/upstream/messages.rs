//! Anthropic's messages.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::cli::demo::upstream::events;
use crate::cli::demo::upstream::reply::{Question, Reply, id, model, text, tokens};

/// `POST /v1/messages`
pub async fn answer(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !request["max_tokens"].is_u64() {
        let error =
            json!({ "type": "invalid_request_error", "message": "max_tokens: Field required" });
        let problem = axum::Json(json!({ "type": "error", "error": error }));
        return (StatusCode::BAD_REQUEST, problem).into_response();
    }
    let thinks = request["thinking"]["type"].as_str().is_some_and(|kind| kind != "disabled");
    let question = Question::of(&request, &request["messages"], &request["max_tokens"], thinks);
    let reply = question.reply();
    let input = input(&request, &question);
    let id = id("msg_", &request["messages"]);
    let message = |content: Vec<Value>, stop: Option<&str>, usage: &Value| {
        json!({
            "id": id, "type": "message", "role": "assistant", "model": model(&request),
            "content": content, "stop_reason": stop, "stop_sequence": null, "usage": usage,
        })
    };
    if request["stream"] == true {
        let begun = message(Vec::new(), None, &with_output(input, 1));
        return events::stream(stream(&begun, &reply));
    }
    let content = match &reply.call {
        Some(call) => with_input(tool_use(&call.name), &call.arguments),
        None => json!({ "type": "text", "text": reply.words.concat() }),
    };
    let usage = with_output(input, reply.output);
    axum::Json(message(vec![content], Some(stop(&reply)), &usage)).into_response()
}

/// The usage of the input. `input_tokens` does not include the tokens of the cache. Text with a
/// `cache_control` is written to the cache by the first question of a conversation, and read from
/// it by later questions.
fn input(request: &Value, question: &Question<'_>) -> Value {
    let messages = request["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let blocks = messages.iter().filter_map(|message| message["content"].as_array());
    let blocks = blocks.chain(request["system"].as_array()).flatten();
    let kept = |hour: bool| {
        let kept = blocks.clone().filter(|block| !block["cache_control"].is_null());
        let kept = kept.filter(|block| (block["cache_control"]["ttl"] == "1h") == hour);
        kept.map(|block| tokens(&text(block))).sum::<u64>()
    };
    let (five_minutes, hour) = (kept(false), kept(true));
    let all = question.input().saturating_add(tokens(&text(&request["system"])));
    let is_first = messages.len() < 2;
    let written = |tokens| if is_first { tokens } else { 0 };
    json!({
        "input_tokens": all - five_minutes - hour,
        "cache_creation_input_tokens": written(five_minutes + hour),
        "cache_read_input_tokens": if is_first { 0 } else { five_minutes + hour },
        "cache_creation": {
            "ephemeral_5m_input_tokens": written(five_minutes),
            "ephemeral_1h_input_tokens": written(hour),
        },
    })
}

fn with_output(mut usage: Value, output: u64) -> Value {
    usage["output_tokens"] = output.into();
    usage
}

fn tool_use(name: &str) -> Value {
    json!({ "type": "tool_use", "id": "toolu_1", "name": name, "input": {} })
}

fn with_input(mut tool_use: Value, arguments: &Value) -> Value {
    tool_use["input"] = arguments.clone();
    tool_use
}

fn stop(reply: &Reply) -> &'static str {
    match reply {
        Reply { call: Some(_), .. } => "tool_use",
        Reply { is_cut: true, .. } => "max_tokens",
        _ => "end_turn",
    }
}

/// The answer as a stream. The usage at its end has the tokens of the whole answer.
fn stream(begun: &Value, reply: &Reply) -> Vec<String> {
    let (block, deltas) = match &reply.call {
        Some(call) => {
            let arguments = call.arguments.to_string();
            let part = |part: &str| json!({ "type": "input_json_delta", "partial_json": part });
            (tool_use(&call.name), arguments.split_inclusive(' ').map(part).collect::<Vec<_>>())
        }
        None => {
            let word = |word: &String| json!({ "type": "text_delta", "text": word });
            (json!({ "type": "text", "text": "" }), reply.words.iter().map(word).collect())
        }
    };
    let mut events = vec![
        json!({ "type": "message_start", "message": begun }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "ping" }),
    ];
    events.extend(
        deltas
            .into_iter()
            .map(|delta| json!({ "type": "content_block_delta", "index": 0, "delta": delta })),
    );
    events.push(json!({ "type": "content_block_stop", "index": 0 }));
    events.push(json!({
        "type": "message_delta",
        "delta": { "stop_reason": stop(reply), "stop_sequence": null },
        "usage": { "output_tokens": reply.output },
    }));
    events.push(json!({ "type": "message_stop" }));
    events.iter().map(events::named).collect()
}
