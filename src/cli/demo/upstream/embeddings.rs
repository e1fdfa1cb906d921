//! OpenAI's embeddings.

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cli::demo::upstream::reply::{model, tokens};

/// `POST /v1/embeddings`
pub async fn answer(body: Bytes) -> axum::Json<Value> {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let one = std::slice::from_ref(&request["input"]);
    let inputs = request["input"].as_array().map_or(one, Vec::as_slice);
    let texts = inputs.iter().map(|input| input.as_str().unwrap_or_default());
    let input: u64 = texts.clone().map(tokens).sum();
    let as_text = request["encoding_format"] == "base64";
    let embedding = |(index, text): (usize, &str)| {
        let vector = vector(text);
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        let vector = if as_text { json!(STANDARD.encode(bytes)) } else { json!(vector) };
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    axum::Json(json!({
        "object": "list", "model": model(&request),
        "data": texts.enumerate().map(embedding).collect::<Vec<_>>(),
        "usage": { "prompt_tokens": input, "total_tokens": input },
    }))
}

/// Eight numbers from -1 to 1. The same text always has the same numbers.
fn vector(text: &str) -> Vec<f32> {
    let hash = Sha256::digest(text);
    hash.iter().take(8).map(|byte| (f32::from(*byte) - 128.0) / 128.0).collect()
}
