//! `POST /webhooks/stripe`: Stripe's events, authenticated by their signature alone.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::ledger::wall_ms;
use crate::problem::{Problem, texts};
use crate::stripe::{ReceiveError, Sales};

/// The largest event that is accepted. Stripe's events are far smaller.
pub(super) const MAX_EVENT_BYTES: usize = 512 * 1024;

/// Receives Stripe's events. They need a valid signature, and no credential. The answer is 200 once
/// the event is stored; after any other answer Stripe sends the event again.
#[utoipa::path(post, path = "/webhooks/stripe",
    params(("stripe-signature" = String, Header, description = "Stripe's signature of the body")),
    request_body(content = String, content_type = "application/json"),
    responses((status = 200), (status = 400), (status = 413), (status = 503)), security(()))]
pub(super) async fn stripe(
    State(sales): State<Arc<Sales>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<axum::Json<Value>, Problem> {
    let signature = headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    match sales.receive(body, signature, wall_ms() / 1000).await {
        Ok(receipt) => Ok(axum::Json(json!({ "received": true, "state": receipt.state }))),
        Err(ReceiveError::NotStored(_)) => Err(Problem::ledger_unavailable()),
        Err(error @ (ReceiveError::Unsigned(_) | ReceiveError::NotAnEvent(_))) => {
            Err(Problem::bad_request(texts::event_refused(&error)))
        }
    }
}
