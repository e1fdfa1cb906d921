//! An upstream with OpenAI's API and Anthropic's, in JSON and as server-sent events. It has no
//! model: it repeats the question, which shows that the call arrived. The same request always gets
//! the same answer and the same usage.

mod chat;
mod embeddings;
mod events;
mod images;
mod messages;
mod reply;
mod responses;

use axum::Router;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::demo::upstream::reply::{CREATED, MODEL};

/// Serves until the task is dropped.
pub async fn serve(socket: TcpListener) {
    let api = Router::new()
        .route("/v1/chat/completions", post(chat::answer))
        .route("/v1/responses", post(responses::answer))
        .route("/v1/embeddings", post(embeddings::answer))
        .route("/v1/images/generations", post(images::answer))
        .route("/v1/messages", post(messages::answer))
        .route("/v1/models", get(models));
    // The routes are also served below `/metered`. There the demo prices them by usage, and
    // elsewhere by call.
    let router = Router::new().nest("/metered", api.clone()).merge(api).fallback(generate);
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(%error, "the demo upstream failed");
    }
}

async fn models() -> axum::Json<Value> {
    let model =
        json!({ "id": MODEL, "object": "model", "created": CREATED, "owned_by": "farebox" });
    axum::Json(json!({ "object": "list", "data": [model] }))
}

async fn generate() -> axum::Json<Value> {
    axum::Json(json!({ "result": "what you asked for, from the demo upstream" }))
}
