//! OpenAI's images.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cli::demo::upstream::events;
use crate::cli::demo::upstream::reply::{CREATED, model, tokens};

/// A PNG of one pixel.
const IMAGE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// The number of tokens that an image counts as.
const IMAGE_TOKENS: u64 = 272;

/// `POST /v1/images/generations`. As at OpenAI, only models whose names begin with `gpt-image`
/// report their usage.
pub async fn answer(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let prompt = tokens(request["prompt"].as_str().unwrap_or_default());
    let images = request["n"].as_u64().unwrap_or(1);
    let output = images.saturating_mul(IMAGE_TOKENS);
    let usage = json!({
        "input_tokens": prompt,
        "input_tokens_details": { "text_tokens": prompt, "image_tokens": 0 },
        "output_tokens": output,
        "total_tokens": prompt.saturating_add(output),
    });
    if request["stream"] == true {
        let event = |event: Value| events::named(&event);
        return events::stream(vec![
            event(json!({
                "type": "image_generation.partial_image", "b64_json": IMAGE,
                "partial_image_index": 0, "created_at": CREATED,
            })),
            event(json!({
                "type": "image_generation.completed", "b64_json": IMAGE, "created_at": CREATED,
                "usage": usage,
            })),
        ]);
    }
    let data: Vec<Value> = (0..images).map(|_| json!({ "b64_json": IMAGE })).collect();
    let mut answer = json!({ "created": CREATED, "data": data });
    if model(&request).starts_with("gpt-image") {
        answer["usage"] = usage;
    }
    axum::Json(answer).into_response()
}
