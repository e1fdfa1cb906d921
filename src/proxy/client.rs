//! The client's side of a call, over HTTP/1 or HTTP/2.
//!
//! Nothing that is written here waits: over HTTP/1 it goes into the connection's [`Link`], over
//! HTTP/2 into [`AnswerBody`]. A caller that writes a body asks [`Client::is_blocked`] before each
//! part.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Method, StatusCode, Version};
use pingora_core::protocols::http::ReusableHttpStream;
use pingora_core::protocols::http::v1::server::HttpSession as Http1Session;
use pingora_core::protocols::http::v2::server::HttpSession as Http2Session;
use pingora_core::protocols::{Digest, Stream};
use pingora_error::{BError, Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::answer_body::AnswerBody;
use super::halves::{Incoming, Outgoing};
use super::link::Link;

/// How long a client may take to read a part of an answer.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the rest of a refused request's body is read, so that its client sees the answer.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The sender of a request, who gets its answer.
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
    /// There once the answer's head was sent.
    body: Option<AnswerBody>,
}

/// The next thing to do on a connection after an answer.
#[expect(clippy::large_enum_variant, reason = "the usual variant is the large one")]
pub(super) enum Next {
    /// The next request is read at once.
    Now(Client),
    /// The next request is read once this is done, where it says so.
    Later(Pin<Box<dyn Future<Output = Option<Client>> + Send>>),
    /// The connection ends.
    Never,
}

/// Finishes a future that never waits, because what it writes to never does.
pub(super) fn at_once<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Error::e_explain(ErrorType::InternalError, "a write had to wait"),
    }
}

impl Http1 {
    /// A session on a connection on which a request is awaited.
    pub fn new(stream: Stream, link: Arc<Link>) -> Self {
        let mut session = Http1Session::new(stream);
        // The connection's own deadlines count (`watch.rs`).
        session.set_server_keepalive(Some(0));
        session.set_read_timeout(None);
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        // A client that pipelines its next request has not gone away.
        session.set_pipelining_enabled(true);
        Self { session, link }
    }
}

impl Http1 {
    /// The session of the next request on a connection.
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
    /// Where the head cannot be read.
    pub async fn read_head(&mut self) -> Result<bool> {
        match self {
            Self::Http1(http1) => Ok(http1.session.read_request().await?.is_some()),
            Self::Http2(_) => Ok(true),
        }
    }

    /// The source of the connection's next request, once what is left of this one has been
    /// read.
    pub fn next_request(self, link: &Arc<Link>) -> Next {
        let Self::Http1(mut http1) = self else { return Next::Never };
        // An answer that is not whole is followed by nothing.
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
        // The rest of a body is read, or the connection is shut.
        let link = link.clone();
        Next::Later(Box::pin(async move { Some(Http1::after(reused.await.ok()??, link)) }))
    }

    /// The call begins: its head was read.
    pub fn begin_call(&mut self) {
        if let Self::Http1(Http1 { session, link }) = self {
            link.begin_call();
            // HTTP/1.0 has no interim answers (RFC 9110, 15.2).
            session.set_ignore_info_resp(session.req_header().version == Version::HTTP_10);
        }
    }

    /// The request's head; a stub of it once it was [taken](Self::take_head).
    pub fn head(&self) -> &RequestHeader {
        match self {
            Self::Http1(http1) => http1.session.req_header(),
            Self::Http2(http2) => http2.session.req_header(),
        }
    }

    /// The request's head, to be changed.
    pub fn head_mut(&mut self) -> &mut RequestHeader {
        match self {
            Self::Http1(http1) => http1.session.req_header_mut(),
            Self::Http2(http2) => http2.session.req_header_mut(),
        }
    }

    /// Takes the request's head out, and leaves what the session still reads of it: the method, the
    /// version, and whether it asks for an upgrade. Whether it asks for a close has been read.
    pub fn take_head(&mut self) -> Result<RequestHeader> {
        // The framing of the request's body is read from the head, if it was not yet.
        let _ = self.is_body_done();
        let head = self.head_mut();
        let mut stub = RequestHeader::build_no_case(head.method.clone(), b"/", Some(0))?;
        stub.set_version(head.version);
        if let Some(value) = head.headers.get(UPGRADE) {
            stub.insert_header(UPGRADE, value.clone())?;
        }
        Ok(std::mem::replace(head, stub))
    }

    /// The head's bytes as they came over HTTP/1.
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

    /// Where the client is.
    pub fn address(&self) -> Option<IpAddr> {
        let socket = self.digest()?.socket_digest.as_ref()?;
        // A listener on `[::]` sees IPv4 clients as `::ffff:192.0.2.1`.
        socket.peer_addr()?.as_inet().map(|address| address.ip().to_canonical())
    }

    /// Whether the client's connection is closed from its side. A connection on whose request
    /// much is on its way, or behind whose request more was sent, is not read, and so may not have
    /// told.
    pub fn has_left(&self) -> bool {
        /// `TCP_ESTABLISHED` of Linux: neither side has said that it will send no more.
        const ESTABLISHED: u8 = 1;
        let socket = self.digest().and_then(|digest| digest.socket_digest.as_ref());
        let info = socket.and_then(|socket| socket.tcp_info());
        info.is_some_and(|info| info.tcpi_state != ESTABLISHED)
    }

    /// Whether the request asks to change the protocol.
    pub fn asks_for_upgrade(&self) -> bool {
        matches!(self, Self::Http1(http1) if http1.session.is_upgrade_req())
    }

    /// Whether the request has no (more) body to read.
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

    /// Whether the connection is closed after an answer that comes before the request's end, as it
    /// is by default. Otherwise the rest of the request is read.
    pub fn close_before_request_ends(&mut self, close: bool) {
        if let Self::Http1(http1) = self {
            http1.session.set_close_on_response_before_downstream_finish(close);
        }
    }

    /// The next part of the request's body; `None` where it has ended.
    ///
    /// # Errors
    /// Where the client has left, or its body does not have the framing that its head announced.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Http1(http1) => http1.session.read_body_bytes().await,
            Self::Http2(http2) => http2.session.read_body_bytes().await,
        }
        .map_err(|error| error.into_down())
    }

    /// Resolves when the client has left. Sends meanwhile what was written.
    pub async fn left(&mut self) -> BError {
        let (incoming, mut outgoing) = self.halves();
        let mut incoming = pin!(incoming.next(true, false));
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = outgoing.poll_flush(cx) {
                return Poll::Ready(error);
            }
            match incoming.as_mut().poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(error),
                // There is nothing to read but the end.
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The two directions apart: what comes from the client, and what goes to it.
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

    /// Sends an interim answer (1xx), where the protocol has them.
    pub fn write_interim(&mut self, head: ResponseHeader) -> Result<()> {
        match self {
            Self::Http1(http1) => at_once(http1.session.write_response_header(Box::new(head))),
            // h2 could; Pingora's session keeps the means to itself.
            Self::Http2(_) => Ok(()),
        }
        .map_err(|error| error.into_down())
    }

    /// Has a client that waits for a 100 send its body.
    pub fn write_continue(&mut self) -> Result<()> {
        // Pingora would take the 100 for an answer that came before the request's end, and close.
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
                // A tunnel has no end yet.
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

    /// Sends a part of the answer's body, and with `end` its end.
    pub fn write_body(&mut self, part: &[u8], end: bool) -> Result<()> {
        self.write_part(part, end).map_err(|error| error.into_down())
    }

    fn write_part(&mut self, part: &[u8], end: bool) -> Result<()> {
        match self {
            Self::Http1(http1) => {
                let session = &mut http1.session;
                // An empty chunk would be the end.
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

    /// Whether the client does not take what was written.
    pub fn is_blocked(&mut self) -> bool {
        self.halves().1.is_blocked()
    }

    /// Whether the client has lately made a write wait for a second or more.
    pub fn has_stalled(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.link.has_stalled(),
            Self::Http2(http2) => http2.body.as_ref().is_some_and(AnswerBody::has_stalled),
        }
    }

    /// The status that was sent, interim ones excepted.
    pub fn answered(&self) -> Option<StatusCode> {
        let written = match self {
            Self::Http1(http1) => http1.session.response_written(),
            Self::Http2(http2) => http2.session.response_written(),
        };
        written.map(|head| head.status).filter(|status| is_final(*status))
    }

    /// Sends everything that was written.
    ///
    /// # Errors
    /// Where the client has left, or takes nothing for [`WRITE_TIMEOUT`].
    pub async fn flush(&mut self) -> Result<()> {
        let mut outgoing = self.halves().1;
        // Usually everything can be sent at once, so no timer is needed.
        match outgoing.flush_now() {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Box::pin(flush_slowly(outgoing)).await,
        }
    }

    /// Reads what is left of the request's body, for [`DRAIN_TIMEOUT`] at most.
    pub async fn drain(&mut self) {
        // A client that has gone has nothing more to send.
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

/// True for a status that ends a call; 101 is one.
pub(super) fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}
