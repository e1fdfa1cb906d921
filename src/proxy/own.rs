//! Farebox's own routes: the axum router, called in process.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::BodyExt as _;
use pingora_error::{ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tower::ServiceExt as _;

use super::call::Call;
use super::cors::Cors;
use super::reply;
use super::target::Target;
use crate::api::{ClientAddress, RequestId};
use crate::problem::Problem;

/// The largest body that is read for an own route. Stripe's events are the largest of them.
const MAX_BODY_BYTES: usize = 512 * 1024;

/// Headers of one connection; Pingora frames the answer itself.
const HOP_BY_HOP: [HeaderName; 2] = [header::CONNECTION, header::TRANSFER_ENCODING];

/// Answers a call of an own route, whose body must come within `time`; its status.
pub(super) async fn answer(
    session: &mut Session,
    call: &Call,
    router: &Router,
    cors: &Cors,
    target: &Target,
    time: Duration,
) -> Result<u16> {
    let body = match tokio::time::timeout(time, read_body(session)).await {
        Ok(Ok(body)) => body.ok_or_else(|| Problem::body_too_large(MAX_BODY_BYTES)),
        // Who has gone hears nothing of it.
        Ok(Err(_)) => Err(Problem::unreadable_request()),
        Err(_) => Err(Problem::request_timeout()),
    };
    let body = match body {
        Ok(body) => body,
        Err(problem) => {
            session.set_keepalive(None);
            reply::problem(session, call, cors, &problem).await?;
            return Ok(problem.status.as_u16());
        }
    };
    let request = request(session, call, target, body)?;
    let is_head = session.req_header().method == http::Method::HEAD;
    // The router's error type has no values: it always answers.
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, mut body) = response.into_parts();
    let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 4))?;
    for (name, value) in &parts.headers {
        if !HOP_BY_HOP.contains(name) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    match body.size_hint().exact() {
        Some(length) if !is_head => {
            head.insert_header(header::CONTENT_LENGTH, length)?;
        }
        Some(_) => {}
        None if session.is_http2() => {}
        None => head.insert_header(header::TRANSFER_ENCODING, "chunked")?,
    }
    reply::frame_for_client(session, &mut head);
    reply::mark(&mut head, call, cors)?;
    let empty = is_head || body.is_end_stream();
    session.write_response_header(Box::new(head), empty).await?;
    if !empty {
        stream(session, &mut body).await?;
    }
    Ok(parts.status.as_u16())
}

/// The whole body, or `None` where it is too large.
async fn read_body(session: &mut Session) -> Result<Option<Bytes>> {
    if session.req_header().headers.contains_key(header::EXPECT) {
        session.write_continue_response().await?;
    }
    let mut body = Vec::new();
    while let Some(chunk) = session.read_request_body().await? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.into()))
}

fn request(session: &Session, call: &Call, target: &Target, body: Bytes) -> Result<Request<Body>> {
    let head = session.req_header();
    let uri: Uri = [target.path.as_str(), &target.query]
        .concat()
        .try_into()
        .or_err(ErrorType::InvalidHTTPHeader, "a canonical path is a valid URI")?;
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = head.headers.clone();
    // HTTP/2 has it in the target (RFC 9113, 8.3.1).
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    request.extensions_mut().insert(RequestId(Arc::from(call.id.as_str())));
    request.extensions_mut().insert(ClientAddress(call.client));
    Ok(request)
}

/// Sends a body as it comes, until it ends or the client has gone.
async fn stream(session: &mut Session, body: &mut Body) -> Result<()> {
    loop {
        tokio::select! {
            frame = body.frame() => {
                let data = match frame {
                    Some(frame) => frame.or_err(ErrorType::InternalError, "own route")?.into_data(),
                    None => return session.write_response_body(None, true).await,
                };
                // Trailers and empty frames carry nothing that is sent.
                if let Some(data) = data.ok().filter(|data| !data.is_empty()) {
                    let end = body.is_end_stream();
                    session.write_response_body(Some(data), end).await?;
                    if end {
                        return Ok(());
                    }
                }
            }
            gone = session.read_body_or_idle(true) => {
                // Closing a tab is how a stream of events ends, and no error.
                if gone.is_err() {
                    session.set_keepalive(None);
                    return Ok(());
                }
            }
        }
    }
}
