//! The layer around all of Farebox's own routes. It puts the request id on each response, and
//! writes problems in the client's language.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};

use crate::ledger::HoldId;
use crate::problem::{Language, Problem};

/// The id of the request, as in `x-request-id`. For calls on the public listener, the proxy makes
/// it before it calls the router. For the private listeners, `finish` makes it.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the problem into the response's extensions. `finish` writes the body, because it knows the
/// language.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer of every router.
pub(super) async fn finish(mut request: Request, next: Next) -> Response {
    let id = match request.extensions().get::<RequestId>() {
        Some(id) => id.clone(),
        None => {
            let id = RequestId(HoldId::for_call().as_str().into());
            request.extensions_mut().insert(id.clone());
            id
        }
    };
    let language = Language::of(request.headers());
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let rendered = problem.render(&id.0, language);
        *response.status_mut() = rendered.status;
        response.headers_mut().extend(rendered.headers);
        *response.body_mut() = Body::from(rendered.body);
    }
    // A response is meant for one caller, so no cache may pass it to another.
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    // A response may contain text that other people wrote, so a browser must not guess that it is
    // HTML.
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    // A request id is a UUID, so it is always a valid header.
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    response
}
