//! OpenAI's responses.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cli::demo::upstream::events;
use crate::cli::demo::upstream::reply::{CREATED, Question, Reply, id, model, tokens};

/// `POST /v1/responses`
pub async fn answer(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let thinks = request["reasoning"]["effort"].as_str().is_some_and(|effort| effort != "none");
    let limit = &request["max_output_tokens"];
    let question = Question::of(&request, &request["input"], limit, thinks);
    let reply = question.reply();
    let whole = response(&request, &question, &reply, &id("resp_", &request["input"]));
    if request["stream"] == true {
        return events::stream(stream(&whole, &reply));
    }
    axum::Json(whole).into_response()
}

fn response(request: &Value, question: &Question<'_>, reply: &Reply, id: &str) -> Value {
    let instructions = tokens(request["instructions"].as_str().unwrap_or_default());
    let input = question.input().saturating_add(instructions);
    let status = if reply.is_cut { "incomplete" } else { "completed" };
    let why = if reply.is_cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null };
    json!({
        "id": id, "object": "response", "created_at": CREATED, "model": model(request),
        "status": status, "error": null, "incomplete_details": why,
        "instructions": request["instructions"], "metadata": {}, "parallel_tool_calls": true,
        "temperature": null, "top_p": null, "tool_choice": "auto", "tools": [],
        "output": [item(reply, status)],
        "usage": {
            "input_tokens": input,
            "input_tokens_details": { "cached_tokens": question.earlier() },
            "output_tokens": reply.output,
            "output_tokens_details": { "reasoning_tokens": reply.reasoning },
            "total_tokens": input.saturating_add(reply.output),
        },
    })
}

/// The only item of the answer: a message, or a call of a tool.
fn item(reply: &Reply, status: &str) -> Value {
    match &reply.call {
        Some(call) => json!({
            "type": "function_call", "id": "fc_1", "call_id": "call_1", "status": status,
            "name": call.name, "arguments": call.arguments.to_string(),
        }),
        None => json!({
            "type": "message", "id": "msg_1", "role": "assistant", "status": status,
            "content": [part(&reply.words.concat())],
        }),
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn stream(whole: &Value, reply: &Reply) -> Vec<String> {
    let begun =
        with(whole.clone(), json!({ "status": "in_progress", "output": [], "usage": null }));
    let mut events = vec![
        json!({ "type": "response.created", "response": begun }),
        json!({ "type": "response.in_progress", "response": begun }),
    ];
    match &reply.call {
        Some(call) => {
            let arguments = call.arguments.to_string();
            let of_call =
                |event: Value| with(event, json!({ "item_id": "fc_1", "output_index": 0 }));
            let empty = with(whole["output"][0].clone(), json!({ "arguments": "" }));
            events.push(json!({
                "type": "response.output_item.added", "output_index": 0,
                "item": with(empty, json!({ "status": "in_progress" })),
            }));
            events.extend(arguments.split_inclusive(' ').map(|delta| {
                of_call(json!({ "type": "response.function_call_arguments.delta", "delta": delta }))
            }));
            events.push(of_call(json!({
                "type": "response.function_call_arguments.done", "name": call.name,
                "arguments": arguments,
            })));
        }
        None => {
            let of_text = |event: Value| {
                with(event, json!({ "item_id": "msg_1", "output_index": 0, "content_index": 0 }))
            };
            let empty = with(whole["output"][0].clone(), json!({ "content": [] }));
            events.push(json!({
                "type": "response.output_item.added", "output_index": 0,
                "item": with(empty, json!({ "status": "in_progress" })),
            }));
            events
                .push(of_text(json!({ "type": "response.content_part.added", "part": part("") })));
            events.extend(reply.words.iter().map(|word| {
                of_text(
                    json!({ "type": "response.output_text.delta", "delta": word, "logprobs": [] }),
                )
            }));
            let text = reply.words.concat();
            events.push(of_text(
                json!({ "type": "response.output_text.done", "text": text, "logprobs": [] }),
            ));
            events.push(of_text(
                json!({ "type": "response.content_part.done", "part": part(&text) }),
            ));
        }
    }
    let item = &whole["output"][0];
    events.push(json!({ "type": "response.output_item.done", "output_index": 0, "item": item }));
    let last = if reply.is_cut { "response.incomplete" } else { "response.completed" };
    events.push(json!({ "type": last, "response": whole }));
    let numbered = events.into_iter().enumerate();
    numbered
        .map(|(at, event)| events::named(&with(event, json!({ "sequence_number": at }))))
        .collect()
}

/// The object with these members added or replaced.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}
