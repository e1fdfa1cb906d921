//! Answers that Farebox gives itself.

use bytes::Bytes;
use http::{Version, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::call::Call;
use super::cors::Cors;
use super::headers::X_REQUEST_ID;
use crate::problem::Problem;

/// Sends a problem.
pub(super) async fn problem(
    session: &mut Session,
    call: &Call,
    cors: &Cors,
    problem: &Problem,
) -> Result<()> {
    let rendered = problem.render(call.id.as_str(), call.language);
    let mut head = ResponseHeader::build(rendered.status, Some(rendered.headers.len() + 4))?;
    for (name, value) in rendered.headers {
        head.insert_header(name, value)?;
    }
    head.insert_header(header::CONTENT_LENGTH, rendered.body.len())?;
    let is_head = session.req_header().method == http::Method::HEAD;
    let body = if is_head { Bytes::new() } else { Bytes::from(rendered.body) };
    send(session, call, cors, head, body).await
}

/// Sends a head, marked as ours, and a whole body.
pub(super) async fn send(
    session: &mut Session,
    call: &Call,
    cors: &Cors,
    mut head: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    mark(&mut head, call, cors)?;
    let empty = body.is_empty();
    session.write_response_header(Box::new(head), empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Takes the chunks from an answer to an HTTP/1.0 client, which does not know them: its body ends
/// with the connection (RFC 9112, 6.1 and 6.3).
pub(super) fn frame_for_client(session: &mut Session, head: &mut ResponseHeader) {
    if session.req_header().version == Version::HTTP_10
        && head.remove_header(&header::TRANSFER_ENCODING).is_some()
    {
        session.set_keepalive(None);
    }
}

/// The request id and CORS headers that every answer of ours carries.
pub(super) fn mark(head: &mut ResponseHeader, call: &Call, cors: &Cors) -> Result<()> {
    head.insert_header(X_REQUEST_ID, call.id.as_str())?;
    // A preflight's answer has said it already.
    if !head.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        cors.mark(head, call.origin.as_ref())?;
    }
    Ok(())
}
