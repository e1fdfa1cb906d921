//! The error event that ends a stream, in the shape that the provider's SDK raises.

use bytes::Bytes;

use crate::usage::MeterKind;

/// A server-sent event that ends a stream because the account has too few credits. The event begins
/// with an empty line, so that it may follow any line.
pub fn error_event(kind: &MeterKind, message: &str) -> Bytes {
    // Every string has a form in JSON, and that form has no line break.
    let message = serde_json::to_string(message).unwrap_or_default();
    let event = match kind {
        MeterKind::Anthropic => format!(
            "\n\nevent: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"billing_error\",\"message\":{message}}}}}\n\n"
        ),
        MeterKind::OpenAi | MeterKind::Pointers(_) => format!(
            "\n\ndata: {{\"error\":{{\"message\":{message},\"type\":\"insufficient_quota\",\"param\":null,\
             \"code\":\"INSUFFICIENT_CREDITS\"}}}}\n\n"
        ),
    };
    event.into()
}
