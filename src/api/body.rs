//! Reads JSON bodies. The content type is not checked, because `curl -d` sends that of a form.

use std::error::Error as _;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, texts};

/// The largest JSON body of a request to an own route, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// The largest body of an import, in bytes.
const MAX_IMPORT_BYTES: usize = 64 * 1024 * 1024;

/// A JSON body. An empty body is read as `{}`.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read(request, MAX_BODY_BYTES).await.map(Self)
    }
}

/// A JSON body with many records, such as that of an import.
pub(super) struct LargeJson<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for LargeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        read(request, MAX_IMPORT_BYTES).await.map(Self)
    }
}

/// Reads a JSON body of at most `limit` bytes.
///
/// # Errors
/// 413 for a longer body, 400 for a body that is not the expected JSON.
pub(super) async fn read<T: DeserializeOwned>(
    request: Request,
    limit: usize,
) -> Result<T, Problem> {
    let body = to_bytes(request.into_body(), limit).await.map_err(|error| {
        match error.source().is_some_and(|cause| cause.is::<LengthLimitError>()) {
            true => Problem::body_too_large(limit),
            false => Problem::unreadable_request(),
        }
    })?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    // serde would also accept a list in place of an object, and take its elements for the fields.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_request(texts::BODY_IS_A_LIST));
    }
    serde_json::from_slice(&body).map_err(|error| Problem::bad_request(texts::bad_body(&error)))
}
