//! An upstream with OpenAI's chat API, in JSON and as server-sent events. There is no model behind
//! it: it repeats the question, which shows that the call arrived.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt as _;
use http::header;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::ledger::wall_ms;

/// The pause between two words of a streamed answer, which makes the streaming visible.
const WORD_PAUSE: Duration = Duration::from_millis(60);

const MODEL: &str = "farebox-demo";

/// Serves until the task is dropped.
pub async fn serve(socket: TcpListener) {
    let router = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .fallback(generate);
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(%error, "the demo upstream failed");
    }
}

async fn models() -> axum::Json<Value> {
    axum::Json(json!({ "object": "list", "data": [model()] }))
}

fn model() -> Value {
    json!({ "id": MODEL, "object": "model", "created": 0, "owned_by": "farebox" })
}

async fn generate() -> axum::Json<Value> {
    axum::Json(json!({ "result": "what you asked for, from the demo upstream" }))
}

async fn chat(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let asked = request["messages"]
        .as_array()
        .and_then(|messages| messages.last())
        .and_then(|message| message["content"].as_str())
        .unwrap_or("nothing");
    let reply = format!("You said: {asked}");
    let id = format!("chatcmpl-{}", uuid::Uuid::now_v7().simple());
    let words = |text: &str| text.split_whitespace().count();
    let usage = json!({
        "prompt_tokens": words(asked),
        "completion_tokens": words(&reply),
        "total_tokens": words(asked) + words(&reply),
    });
    if request["stream"] == true {
        let with_usage = request["stream_options"]["include_usage"] == true;
        return stream(&id, &reply, with_usage.then_some(usage));
    }
    let choice = json!({
        "index": 0,
        "message": { "role": "assistant", "content": reply },
        "finish_reason": "stop",
    });
    let answer = json!({
        "id": id, "object": "chat.completion", "created": wall_ms() / 1000, "model": MODEL,
        "choices": [choice], "usage": usage,
    });
    axum::Json(answer).into_response()
}

fn stream(id: &str, reply: &str, usage: Option<Value>) -> Response {
    let chunk = |choices: Value| {
        json!({
            "id": id, "object": "chat.completion.chunk", "created": wall_ms() / 1000,
            "model": MODEL, "choices": choices,
        })
    };
    let delta = |delta: Value, finish: Option<&str>| {
        chunk(json!([{ "index": 0, "delta": delta, "finish_reason": finish }]))
    };
    let mut chunks = vec![delta(json!({ "role": "assistant", "content": "" }), None)];
    chunks.extend(reply.split_inclusive(' ').map(|word| delta(json!({ "content": word }), None)));
    chunks.push(delta(json!({}), Some("stop")));
    if let Some(usage) = usage {
        let mut last = chunk(json!([]));
        last["usage"] = usage;
        chunks.push(last);
    }
    let mut events: Vec<String> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    events.push("data: [DONE]\n\n".to_owned());
    let events = futures_util::stream::iter(events).then(async |event| {
        tokio::time::sleep(WORD_PAUSE).await;
        Ok::<_, Infallible>(event)
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}
