//! Answers that Farebox makes itself.

use http::{Version, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::call::About;
use super::client::Client;
use super::cors::Cors;
use super::headers::X_REQUEST_ID;
use crate::problem::{Problem, Shape};

/// Answers with a problem, in the shape that the client's SDK can read.
pub(super) fn problem(
    client: &mut Client,
    about: &About,
    shape: Shape,
    cors: &Cors,
    problem: &Problem,
) -> Result<()> {
    let has_body = !client.asks_for_head();
    write(client, about, shape, cors, problem, has_body)
}

/// Answers with a problem to a client whose request head could not be read.
pub(super) fn unread(
    client: &mut Client,
    about: &About,
    cors: &Cors,
    problem: &Problem,
) -> Result<()> {
    write(client, about, Shape::default(), cors, problem, true)
}

fn write(
    client: &mut Client,
    about: &About,
    shape: Shape,
    cors: &Cors,
    problem: &Problem,
    has_body: bool,
) -> Result<()> {
    let rendered = problem.render_as(shape, about.id.as_str(), about.language);
    let mut head = ResponseHeader::build(rendered.status, Some(rendered.headers.len() + 4))?;
    for (name, value) in rendered.headers {
        head.insert_header(name, value)?;
    }
    head.insert_header(header::CONTENT_LENGTH, rendered.body.len())?;
    let body = if has_body { &*rendered.body } else { "" };
    send(client, about, cors, head, body.as_bytes())
}

/// Sends a whole answer: its head, with the headers of [`mark`], and its body.
pub(super) fn send(
    client: &mut Client,
    about: &About,
    cors: &Cors,
    mut head: ResponseHeader,
    body: &[u8],
) -> Result<()> {
    mark(&mut head, about, cors)?;
    client.write_head(head, body.is_empty())?;
    if !body.is_empty() {
        client.write_body(body, true)?;
    }
    Ok(())
}

/// Removes the chunked coding from an answer to an HTTP/1.0 client, which does not know it. The end
/// of the connection then ends the body (RFC 9112, 6.1 and 6.3).
pub(super) fn frame_for_client(client: &mut Client, head: &mut ResponseHeader) {
    if client.head().version == Version::HTTP_10
        && head.remove_header(&header::TRANSFER_ENCODING).is_some()
    {
        client.close_afterwards();
    }
}

/// Adds the headers that every answer of Farebox's has: the request id, and CORS headers.
pub(super) fn mark(head: &mut ResponseHeader, about: &About, cors: &Cors) -> Result<()> {
    head.insert_header(X_REQUEST_ID, about.id.as_str())?;
    // The answer to a preflight has its CORS headers already.
    if !head.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        cors.mark(head, about.origin.as_ref())?;
    }
    Ok(())
}
