//! The answers of this Stripe, and the forms of its errors.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

/// An answer that is not sent yet.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
    /// Whether the same idempotency key got this answer before.
    pub replayed: bool,
}

impl Reply {
    pub fn ok(body: Value) -> Self {
        Self { status: 200, body, replayed: false }
    }

    pub fn error(status: u16, error: Value) -> Self {
        Self { status, body: json!({ "error": error }), replayed: false }
    }

    /// The error for a request that Stripe cannot interpret.
    pub fn invalid(message: &str, parameter: &str) -> Self {
        let kind = "invalid_request_error";
        let error = json!({ "message": message, "param": parameter, "type": kind });
        Self::error(400, error)
    }

    /// Like [`Self::invalid`], with one of Stripe's error codes.
    pub fn invalid_as(code: &str, message: &str, parameter: &str) -> Self {
        let mut reply = Self::invalid(message, parameter);
        reply.body["error"]["code"] = code.into();
        let page = code.replace('_', "-");
        reply.body["error"]["doc_url"] =
            format!("https://stripe.com/docs/error-codes/{page}").into();
        reply
    }

    /// The error for an object that does not exist. The status is 404 if the path names it, else
    /// 400.
    pub fn missing(status: u16, what: &str, id: &str, parameter: &str) -> Self {
        let message = format!("No such {what}: '{id}'");
        let mut reply = Self::invalid_as("resource_missing", &message, parameter);
        reply.status = status;
        reply
    }

    /// The error that a test asked for.
    pub fn failure(status: u16) -> Self {
        let (kind, message) = match status {
            402 => {
                let error = json!({
                    "code": "card_declined",
                    "decline_code": "generic_decline",
                    "message": "Your card was declined.",
                    "type": "card_error",
                });
                return Self::error(402, error);
            }
            401 => ("invalid_request_error", "Invalid API Key provided: sk_test_********9999"),
            403 => ("invalid_request_error", "The provided key does not have the permissions"),
            409 => ("idempotency_error", "There is currently another in-progress request"),
            429 => ("invalid_request_error", "Request rate limit exceeded."),
            400..=499 => ("invalid_request_error", "This request cannot be served."),
            _ => ("api_error", "An error occurred while processing your request."),
        };
        let mut reply = Self::error(status, json!({ "message": message, "type": kind }));
        if status == 429 {
            reply.body["error"]["code"] = "rate_limit".into();
        }
        reply
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let request = format!("req_{}", &uuid::Uuid::new_v4().simple().to_string()[..14]);
        let mut response = Response::builder()
            .status(StatusCode::from_u16(self.status).unwrap())
            .header("content-type", "application/json")
            .header("request-id", request);
        if self.replayed {
            response = response.header("idempotent-replayed", "true");
        }
        let text = serde_json::to_string_pretty(&self.body).unwrap();
        response.body(Body::from(text)).unwrap()
    }
}
