//! The client's side of a call, over HTTP/1 or HTTP/2.
//!
//! A write never waits here. Over HTTP/1 the bytes go into the buffer of the connection's [`Link`],
//! over HTTP/2 into [`AnswerBody`]. So that these buffers stay small, a caller that writes a body
//! asks [`Client::is_blocked`] before each part.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, Version};
use pingora_core::protocols::http::ReusableHttpStream;
use pingora_core::protocols::http::v1::server::HttpSession as Http1Session;
use pingora_core::protocols::http::v2::server::HttpSession as Http2Session;
use pingora_core::protocols::{Digest, Stream};
use pingora_error::{BError, Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::answer_body::AnswerBody;
use super::client_address::ClientAddress;
use super::halves::{Incoming, Outgoing};
use super::link::Link;

/// The longest time that a client may take none of the bytes that are written to it.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest time for reading the rest of a refused request's body. A client that is cut off
/// while it still sends may never see the answer.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The client of one call. Farebox reads the request from the client, and writes the answer to it.
pub(super) enum Client {
    /// One request of an HTTP/1 connection.
    Http1(Http1),
    /// One stream of an HTTP/2 connection.
    Http2(Http2),
}

/// One request of an HTTP/1 connection.
pub(super) struct Http1 {
    pub session: Http1Session,
    pub link: Arc<Link>,
}

/// One stream of an HTTP/2 connection.
pub(super) struct Http2 {
    session: Http2Session,
    /// `None` until the answer's head was sent.
    body: Option<AnswerBody>,
}

/// The next thing to do on a connection after an answer.
#[expect(clippy::large_enum_variant, reason = "the usual variant is the large one")]
pub(super) enum Next {
    /// The next request can be read at once.
    Now(Client),
    /// The next request can be read once this future returns its client. The connection ends if it
    /// returns `None`.
    Later(Pin<Box<dyn Future<Output = Option<Client>> + Send>>),
    /// The connection ends.
    Never,
}

/// Finishes a future that writes to a [`Link`] and therefore never waits.
pub(super) fn at_once<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Error::e_explain(ErrorType::InternalError, "a write had to wait"),
    }
}

impl Http1 {
    /// A session for the first request of a connection.
    pub fn new(stream: Stream, link: Arc<Link>) -> Self {
        let mut session = Http1Session::new(stream);
        // The connection has deadlines of its own (`watch.rs`), so the session's are turned off.
        session.set_server_keepalive(Some(0));
        session.set_read_timeout(None);
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        // Without this, Pingora would take a pipelined request for a client that has left.
        session.set_pipelining_enabled(true);
        Self { session, link }
    }
}

impl Http1 {
    /// A session for the next request of a connection.
    fn after(reused: ReusableHttpStream, link: Arc<Link>) -> Client {
        let (stream, prefix) = reused.into_parts();
        let mut next = Self::new(stream, link);
        if let Some(prefix) = prefix {
            next.session.set_pipelined_prefix(prefix);
        }
        Client::Http1(next)
    }
}

impl Client {
    /// A request that arrived on an HTTP/2 stream.
    pub fn http2(mut session: Http2Session) -> Self {
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        Self::Http2(Http2 { session, body: None })
    }

    /// Reads the next request's head. Returns false if the connection ended before a head arrived.
    ///
    /// # Errors
    /// The head cannot be read.
    pub async fn read_head(&mut self) -> Result<bool> {
        match self {
            Self::Http1(http1) => Ok(http1.session.read_request().await?.is_some()),
            Self::Http2(_) => Ok(true),
        }
    }

    /// Tells how the connection's next request can be read. The rest of this request's body is read
    /// before that.
    pub fn next_request(self, link: &Arc<Link>) -> Next {
        let Self::Http1(mut http1) = self else { return Next::Never };
        // After an answer that is not complete, the connection cannot be used again.
        if at_once(http1.session.finish_body()).is_err() {
            return Next::Never;
        }
        let is_over = http1.session.is_body_done();
        let keeps = http1.session.will_keepalive();
        let reused = http1.session.reuse();
        if is_over && keeps {
            return match at_once(reused) {
                Ok(Some(stream)) => Next::Now(Http1::after(stream, link.clone())),
                _ => Next::Never,
            };
        }
        // This future reads the rest of the request's body, or shuts the connection down.
        let link = link.clone();
        Next::Later(Box::pin(async move { Some(Http1::after(reused.await.ok()??, link)) }))
    }

    /// Begins a call, whose head has just been read.
    pub fn begin_call(&mut self) {
        if let Self::Http1(Http1 { session, link }) = self {
            link.begin_call();
            // HTTP/1.0 has no interim answers (RFC 9110, 15.2).
            session.set_ignore_info_resp(session.req_header().version == Version::HTTP_10);
        }
    }

    /// The request's head, or what is left of it after [`take_head`](Self::take_head).
    pub fn head(&self) -> &RequestHeader {
        match self {
            Self::Http1(http1) => http1.session.req_header(),
            Self::Http2(http2) => http2.session.req_header(),
        }
    }

    /// The request's head, for changes.
    pub fn head_mut(&mut self) -> &mut RequestHeader {
        match self {
            Self::Http1(http1) => http1.session.req_header_mut(),
            Self::Http2(http2) => http2.session.req_header_mut(),
        }
    }

    /// Takes the request's head out of the session. The session keeps the parts that it still
    /// needs: the method, the version, and whether the request asks for an upgrade. It has already
    /// noted whether the request asks to close the connection.
    pub fn take_head(&mut self) -> Result<RequestHeader> {
        // The session reads the body's framing from the head. This call makes it do so before the
        // head is taken out.
        let _ = self.is_body_done();
        let head = self.head_mut();
        let mut stub = RequestHeader::build_no_case(head.method.clone(), b"/", Some(0))?;
        stub.set_version(head.version);
        if let Some(value) = head.headers.get(UPGRADE) {
            stub.insert_header(UPGRADE, value.clone())?;
        }
        Ok(std::mem::replace(head, stub))
    }

    /// The bytes of the head as they were sent. `None` for HTTP/2.
    pub fn raw_head(&self) -> Option<Bytes> {
        match self {
            Self::Http1(http1) => Some(http1.session.get_headers_raw_bytes()),
            Self::Http2(_) => None,
        }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Http1(http1) => Some(http1.session.digest()),
            Self::Http2(http2) => http2.session.digest(),
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.digest().is_some_and(|digest| digest.ssl_digest.is_some())
    }

    /// The client's IP address.
    pub fn address(&self) -> Option<ClientAddress> {
        match self {
            Self::Http1(http1) => http1.link.client_address().cloned(),
            Self::Http2(http2) => {
                ClientAddress::of(http2.session.digest()?.socket_digest.as_ref()?)
            }
        }
    }

    /// Whether the client has closed its side of the connection.
    ///
    /// The result can be false although the client has left. The system sees the close only after
    /// the bytes that were sent before it, and those may fill the socket's buffer while a large
    /// body or a pipelined request is not read.
    pub fn has_left(&self) -> bool {
        /// Linux's `TCP_ESTABLISHED`: neither side has closed its direction.
        const ESTABLISHED: u8 = 1;
        let socket = self.digest().and_then(|digest| digest.socket_digest.as_ref());
        let info = socket.and_then(|socket| socket.tcp_info());
        info.is_some_and(|info| info.tcpi_state != ESTABLISHED)
    }

    /// Whether the request asks for another protocol, such as WebSocket.
    pub fn asks_for_upgrade(&self) -> bool {
        matches!(self, Self::Http1(http1) if http1.session.is_upgrade_req())
    }

    /// Whether the request has no body, or all of it was read.
    pub fn is_body_done(&mut self) -> bool {
        match self {
            Self::Http1(http1) => http1.session.is_body_done(),
            Self::Http2(http2) => http2.session.is_body_done(),
        }
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&mut self) -> bool {
        match self {
            Self::Http1(http1) => http1.session.is_body_empty(),
            Self::Http2(http2) => http2.session.is_body_empty(),
        }
    }

    /// Closes an HTTP/1 connection once this request is answered. Does nothing on HTTP/2.
    pub fn close_afterwards(&mut self) {
        if let Self::Http1(http1) = self {
            http1.session.set_server_keepalive(None);
        }
    }

    /// Breaks off an answer whose body is not complete. If only the end of the connection marks the
    /// end of the body, as for an HTTP/1.0 client, the connection is reset. After an orderly close
    /// the client would take the part for the whole body.
    pub fn break_off(&self) {
        let Self::Http1(Http1 { session, link }) = self else { return };
        let ends_with_connection = session.response_written().is_some_and(|head| {
            !head.status.is_informational()
                && !head.headers.contains_key(CONTENT_LENGTH)
                && !head.headers.contains_key(TRANSFER_ENCODING)
        });
        if ends_with_connection {
            link.will_reset();
        }
    }

    /// Sets what happens if an answer is complete before its request is. With `close`, which is the
    /// default, the connection is closed. Otherwise the rest of the request is read.
    pub fn close_before_request_ends(&mut self, close: bool) {
        if let Self::Http1(http1) = self {
            http1.session.set_close_on_response_before_downstream_finish(close);
        }
    }

    /// The next part of the request's body; `None` once it has ended.
    ///
    /// # Errors
    /// The client has left, or its body does not have the framing that its head announced.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Http1(http1) => http1.session.read_body_bytes().await,
            Self::Http2(http2) => http2.session.read_body_bytes().await,
        }
        .map_err(|error| error.into_down())
    }

    /// Resolves when the client has left. Until then it sends the bytes that were written.
    pub async fn left(&mut self) -> BError {
        let (incoming, mut outgoing) = self.halves();
        let mut incoming = pin!(incoming.next(true, false));
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = outgoing.poll_flush(cx) {
                return Poll::Ready(error);
            }
            match incoming.as_mut().poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(error),
                // The request was read to its end, so only the end of the connection matters.
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Splits the client into its two directions: bytes that come from it, and bytes that go to it.
    pub fn halves(&mut self) -> (Incoming<'_>, Outgoing<'_>) {
        match self {
            Self::Http1(Http1 { session, link }) => {
                (Incoming::Http1(session), Outgoing::Http1(link))
            }
            Self::Http2(Http2 { session, body }) => {
                let has_head = body.is_some();
                (Incoming::Http2 { session, has_head }, Outgoing::Http2(body.as_mut()))
            }
        }
    }

    /// Sends an interim answer (1xx) over HTTP/1. Does nothing over HTTP/2.
    pub fn write_interim(&mut self, head: ResponseHeader) -> Result<()> {
        match self {
            Self::Http1(http1) => at_once(http1.session.write_response_header(Box::new(head))),
            // The h2 crate can send interim answers, but Pingora's session does not give access to
            // that.
            Self::Http2(_) => Ok(()),
        }
        .map_err(|error| error.into_down())
    }

    /// Sends a 100 (Continue), so that a client that waits for it sends its body.
    pub fn write_continue(&mut self) -> Result<()> {
        // Pingora would take the 100 for an answer that is complete before its request, and close.
        self.close_before_request_ends(false);
        let written = ResponseHeader::build(StatusCode::CONTINUE, Some(0))
            .and_then(|head| self.write_interim(head));
        self.close_before_request_ends(true);
        written
    }

    /// Sends the head of the answer. `end` is true if the answer has no body.
    pub fn write_head(&mut self, head: ResponseHeader, end: bool) -> Result<()> {
        match self {
            Self::Http1(http1) => {
                let session = &mut http1.session;
                let written = at_once(session.write_response_header(Box::new(head)));
                // After a switch of protocols the answer has no end yet: the bytes of the tunnel
                // follow.
                if end && written.is_ok() && !session.was_upgraded() {
                    at_once(session.finish_body()).map(drop)
                } else {
                    written
                }
            }
            Self::Http2(Http2 { session, body }) => {
                session.write_response_header(Box::new(head), end).map(|()| {
                    *body = session.take_response_body_writer().map(|w| AnswerBody::new(w, end));
                })
            }
        }
        .map_err(|error| error.into_down())
    }

    /// Sends a part of the answer's body. `end` is true if the body ends with it.
    pub fn write_body(&mut self, part: &[u8], end: bool) -> Result<()> {
        self.write_part(part, end).map_err(|error| error.into_down())
    }

    fn write_part(&mut self, part: &[u8], end: bool) -> Result<()> {
        match self {
            Self::Http1(http1) => {
                let session = &mut http1.session;
                // In chunked coding, an empty chunk ends the body.
                if !part.is_empty() {
                    at_once(session.write_body(part))?;
                }
                if end {
                    at_once(session.finish_body())?;
                }
                Ok(())
            }
            Self::Http2(Http2 { body: Some(body), .. }) => body.write(part, end),
            Self::Http2(Http2 { body: None, .. }) => {
                Error::e_explain(ErrorType::InternalError, "a body was written before its head")
            }
        }
    }

    /// Whether written bytes are waiting because the client does not take them.
    pub fn is_blocked(&mut self) -> bool {
        self.halves().1.is_blocked()
    }

    /// Whether the client has recently delayed a write: see
    /// [`Stall::is_recent`](super::stall::Stall::is_recent).
    pub fn has_stalled(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.link.has_stalled(),
            Self::Http2(http2) => http2.body.as_ref().is_some_and(AnswerBody::has_stalled),
        }
    }

    /// The final status that was sent; `None` if none was sent yet.
    pub fn answered(&self) -> Option<StatusCode> {
        let written = match self {
            Self::Http1(http1) => http1.session.response_written(),
            Self::Http2(http2) => http2.session.response_written(),
        };
        written.map(|head| head.status).filter(|status| is_final(*status))
    }

    /// Sends all bytes that were written.
    ///
    /// # Errors
    /// The client has left, or has taken no bytes for [`WRITE_TIMEOUT`].
    pub async fn flush(&mut self) -> Result<()> {
        let mut outgoing = self.halves().1;
        // Usually all bytes can be sent at once, so no timer is needed.
        match outgoing.flush_now() {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Box::pin(flush_slowly(outgoing)).await,
        }
    }

    /// Reads and drops the rest of the request's body, for at most [`DRAIN_TIMEOUT`].
    pub async fn drain(&mut self) {
        // An error means that the client has left, so there is nothing to read.
        let _ = match self {
            Self::Http1(http1) => http1.session.drain_request_body().await,
            Self::Http2(http2) => http2.session.drain_request_body().await,
        };
    }

    /// Whether the request's method is HEAD, whose answers have no body.
    pub fn asks_for_head(&self) -> bool {
        self.head().method == Method::HEAD
    }
}

async fn flush_slowly(mut outgoing: Outgoing<'_>) -> Result<()> {
    loop {
        let flushed = poll_fn(|cx| outgoing.poll_flush(cx));
        if let Ok(flushed) = tokio::time::timeout(WRITE_TIMEOUT / 4, flushed).await {
            return flushed;
        }
        if outgoing.blocked_since().is_some_and(|since| since.elapsed() >= WRITE_TIMEOUT) {
            return Err(Error::new(ErrorType::WriteTimedout).into_down());
        }
    }
}

/// True for a status that ends the exchange of heads. 101 is one; the other 1xx are not.
pub(super) fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}
