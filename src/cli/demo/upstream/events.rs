//! Answers as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use http::header;
use serde_json::Value;

/// The pause before an event, which makes the streaming visible.
const PAUSE: Duration = Duration::from_millis(60);

/// The longest time that the pauses of one answer take together.
const ALL_PAUSES: Duration = Duration::from_secs(3);

/// An event without a name, like the events of OpenAI's chat.
pub fn unnamed(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// An event whose name is its `type`.
pub fn named(data: &Value) -> String {
    let name = data["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}

/// The events one after the other, with a pause before each.
pub fn stream(events: Vec<String>) -> Response {
    let count = u32::try_from(events.len()).unwrap_or(u32::MAX).max(1);
    let pause = PAUSE.min(ALL_PAUSES / count);
    let events = futures_util::stream::iter(events).then(move |event| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Infallible>(event)
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}
