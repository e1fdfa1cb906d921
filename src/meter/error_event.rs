//! The error event that ends a stream, in the shape that the provider's SDK recognises as an error.

use bytes::Bytes;

use crate::problem::Code;
use crate::usage::MeterKind;

/// A server-sent event that says that the stream ends here, and why. The event begins with an empty
/// line, so that it may follow any line.
pub fn error_event(kind: &MeterKind, code: Code, message: &str) -> Bytes {
    // Every string and every code can be written as JSON, and no JSON string contains a line break.
    let message = serde_json::to_string(message).unwrap_or_default();
    let event = match kind {
        MeterKind::Anthropic => format!(
            "\n\nevent: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{}\",\"message\":{message}}}}}\n\n",
            code.anthropic_type()
        ),
        MeterKind::OpenAi | MeterKind::Pointers(_) => format!(
            "\n\ndata: {{\"error\":{{\"message\":{message},\"type\":\"{}\",\"param\":null,\"code\":{}}}}}\n\n",
            code.openai_type(),
            serde_json::to_string(&code).unwrap_or_default()
        ),
    };
    event.into()
}
