//! The error event that ends a stream, in the shape that the provider's SDK raises.

use bytes::Bytes;

use crate::usage::MeterKind;

/// A server-sent event that says that the stream ends here, because the account has too few credits.
pub fn error_event(_kind: &MeterKind, _message: &str) -> Bytes {
    todo!()
}
