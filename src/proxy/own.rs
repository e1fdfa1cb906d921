//! Farebox's own routes. They are an axum router, which is called in process.

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
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::body::expects_continue;
use super::body_memory::BodyMemory;
use super::call::About;
use super::client::Client;
use super::cors::Cors;
use super::own_body::{Feeder, own_body};
use super::reply;
use super::target::Target;
use crate::api::{ClientAddress, RequestId};
use crate::problem::{Problem, Shape};

/// The largest body that an own route accepts, in bytes. Stripe's events are the largest bodies.
const MAX_BODY_BYTES: usize = 512 * 1024;

/// Headers of the router's answer that are dropped: Pingora sets the framing.
const HOP_BY_HOP: [HeaderName; 2] = [header::CONNECTION, header::TRANSFER_ENCODING];

/// The limits on the body of a call to an own route.
pub(super) struct Wait<'a> {
    /// The longest time until the whole body has arrived, from the moment at which the route asks
    /// for it.
    pub time: Duration,
    /// Turns true when the gateway stops, which ends the wait.
    pub stop: watch::Receiver<bool>,
    /// The largest body, in bytes, if it is larger than [`MAX_BODY_BYTES`]: a request to `/check`
    /// contains the body of a metered call.
    pub longest: usize,
    /// The memory for the part of a body above [`MAX_BODY_BYTES`].
    pub memory: &'a Arc<BodyMemory>,
}

/// Answers a call to an own route and returns its status. A body that the route asks for must
/// arrive within `wait`.
pub(super) async fn answer(
    client: &mut Client,
    about: &About,
    router: &Router,
    cors: &Cors,
    target: &Target,
    wait: Wait<'_>,
) -> Result<u16> {
    let (feeder, body) = own_body();
    let request = request(client, about, target, Body::new(body))?;
    let is_head = client.head().method == http::Method::HEAD;
    let response = match ask(client, router, request, feeder, wait).await {
        Ok(response) => response,
        Err(problem) => {
            client.close_afterwards();
            reply::problem(client, about, Shape::default(), cors, &problem)?;
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
        None if client.is_http2() => {}
        None => head.insert_header(header::TRANSFER_ENCODING, "chunked")?,
    }
    reply::frame_for_client(client, &mut head);
    reply::mark(&mut head, about, cors)?;
    let empty = is_head || body.is_end_stream();
    client.write_head(head, empty)?;
    if !empty {
        stream(client, &mut body).await?;
    }
    Ok(parts.status.as_u16())
}

/// Calls `router`, and reads as much of the request's body as its handler asks for.
async fn ask(
    client: &mut Client,
    router: &Router,
    request: Request<Body>,
    mut feeder: Feeder,
    mut wait: Wait<'_>,
) -> Result<Response<Body>, Problem> {
    let waits = expects_continue(client.head());
    let mut deadline = None;
    let (mut length, mut reserved) = (0_usize, None);
    let mut answering = pin!(router.clone().oneshot(request));
    loop {
        tokio::select! {
            biased;
            // The router always answers: its error type has no values.
            answer = &mut answering => {
                // A client that waits for a 100 and was not sent one may never send its body, so
                // its connection is closed. Any other body is read to its end, so that the client
                // sees the answer.
                client.close_before_request_ends(waits && deadline.is_none());
                return match answer {
                    Ok(answer) => Ok(answer),
                    Err(never) => match never {},
                };
            }
            () = feeder.wanted() => {}
        }
        let is_first = deadline.is_none();
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + wait.time);
        let reading = async {
            if is_first && waits {
                client.write_continue()?;
            }
            client.read_body().await
        };
        let chunk = tokio::select! {
            biased;
            chunk = tokio::time::timeout_at(deadline, reading) => chunk,
            _ = wait.stop.wait_for(|stop| *stop) => return Err(Problem::stopping()),
        };
        let chunk = match chunk {
            Ok(Ok(chunk)) => chunk,
            // If the client has left, nobody sees this answer.
            Ok(Err(_)) => return Err(Problem::unreadable_request()),
            Err(_) => return Err(Problem::request_timeout()),
        };
        length += chunk.as_ref().map_or(0, Bytes::len);
        let most = MAX_BODY_BYTES.max(wait.longest);
        if length > most {
            return Err(Problem::body_too_large(most));
        }
        let part = chunk.as_ref().map_or(0, Bytes::len);
        if length > MAX_BODY_BYTES {
            let reserved = reserved.get_or_insert_with(|| wait.memory.begin(None));
            if !reserved.grow(part) {
                return Err(Problem::overloaded());
            }
        }
        feeder.give(chunk);
    }
}

fn request(client: &Client, about: &About, target: &Target, body: Body) -> Result<Request<Body>> {
    let head = client.head();
    let uri: Uri = [target.path.as_str(), &target.query]
        .concat()
        .try_into()
        .or_err(ErrorType::InvalidHTTPHeader, "a canonical path is a valid URI")?;
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = head.headers.clone();
    // An HTTP/2 request has its host in the target (RFC 9113, 8.3.1).
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    request.extensions_mut().insert(RequestId(Arc::from(about.id.as_str())));
    request.extensions_mut().insert(ClientAddress(about.client.as_ref().map(|client| client.ip)));
    Ok(request)
}

/// Sends the answer's body part by part, until the body ends or the client has left.
async fn stream(client: &mut Client, body: &mut Body) -> Result<()> {
    loop {
        if client.is_blocked() {
            client.flush().await?;
        }
        tokio::select! {
            biased;
            frame = body.frame() => {
                let data = match frame {
                    Some(frame) => frame.or_err(ErrorType::InternalError, "own route")?.into_data(),
                    None => return client.write_body(&[], true),
                };
                // Trailers and empty frames are skipped, because they have no bytes to send.
                if let Some(data) = data.ok().filter(|data| !data.is_empty()) {
                    let end = body.is_end_stream();
                    client.write_body(&data, end)?;
                    if end {
                        return Ok(());
                    }
                }
            }
            // A stream of events usually ends when its tab is closed, so this is not an error.
            _ = client.left() => {
                client.close_afterwards();
                return Ok(());
            }
        }
    }
}
