//! Farebox's own routes: the axum router, called in process.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use pingora_error::{ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::call::Call;
use super::cors::Cors;
use super::own_body::{Feeder, own_body};
use super::reply;
use super::target::Target;
use crate::api::{ClientAddress, RequestId};
use crate::problem::Problem;

/// The largest body that is read for an own route. Stripe's events are the largest of them.
const MAX_BODY_BYTES: usize = 512 * 1024;

/// Headers of one connection; Pingora frames the answer itself.
const HOP_BY_HOP: [HeaderName; 2] = [header::CONNECTION, header::TRANSFER_ENCODING];

/// Answers a call of an own route; its status. A body that the route asks for must come within
/// `time`.
pub(super) async fn answer(
    session: &mut Session,
    call: &Call,
    router: &Router,
    cors: &Cors,
    target: &Target,
    time: Duration,
) -> Result<u16> {
    let (feeder, body) = own_body();
    let request = request(session, call, target, Body::new(body))?;
    let is_head = session.req_header().method == http::Method::HEAD;
    let response = match ask(session, router, request, feeder, time).await {
        Ok(response) => response,
        Err(problem) => {
            session.set_keepalive(None);
            reply::problem(session, call, cors, &problem).await?;
            return Ok(problem.status.as_u16());
        }
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

/// Has `router` answer, and reads the request's body as far as its handler asks for it.
async fn ask(
    session: &mut Session,
    router: &Router,
    request: Request<Body>,
    mut feeder: Feeder,
    time: Duration,
) -> Result<Response<Body>, Problem> {
    let waits = session.req_header().headers.contains_key(header::EXPECT);
    let mut deadline = None;
    let mut length = 0;
    let mut answering = pin!(router.clone().oneshot(request));
    loop {
        tokio::select! {
            biased;
            // The router's error type has no values: it always answers.
            answer = &mut answering => {
                // A client that was not told to send its body may never do so; any other body is
                // read to its end, so that the client is not cut off before it has read the answer.
                session.set_close_on_response_before_downstream_finish(waits && deadline.is_none());
                return match answer {
                    Ok(answer) => Ok(answer),
                    Err(never) => match never {},
                };
            }
            () = feeder.wanted() => {}
        }
        let is_first = deadline.is_none();
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + time);
        let reading = async {
            if is_first && waits {
                // Pingora would take the 100 for the end, and close.
                session.set_close_on_response_before_downstream_finish(false);
                session.write_continue_response().await?;
            }
            session.read_request_body().await
        };
        let chunk = match tokio::time::timeout_at(deadline, reading).await {
            Ok(Ok(chunk)) => chunk,
            // A client that has gone hears nothing of it.
            Ok(Err(_)) => return Err(Problem::unreadable_request()),
            Err(_) => return Err(Problem::request_timeout()),
        };
        length += chunk.as_ref().map_or(0, Bytes::len);
        if length > MAX_BODY_BYTES {
            return Err(Problem::body_too_large(MAX_BODY_BYTES));
        }
        feeder.give(chunk);
    }
}

fn request(session: &Session, call: &Call, target: &Target, body: Body) -> Result<Request<Body>> {
    let head = session.req_header();
    let uri: Uri = [target.path.as_str(), &target.query]
        .concat()
        .try_into()
        .or_err(ErrorType::InvalidHTTPHeader, "a canonical path is a valid URI")?;
    let mut request = Request::new(body);
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
