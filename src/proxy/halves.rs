//! The two directions of a client's connection. The relay reads from one while it writes to the
//! other.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use pingora_core::protocols::http::v1::server::HttpSession as Http1Session;
use pingora_core::protocols::http::v2::server::HttpSession as Http2Session;
use pingora_error::{BError, Error, ErrorType, OrErr as _, Result};

use super::answer_body::AnswerBody;
use super::link::Link;

/// The direction from the client.
pub(super) enum Incoming<'a> {
    Http1(&'a mut Http1Session),
    Http2 { session: &'a mut Http2Session, has_head: bool },
}

/// The direction to the client.
pub(super) enum Outgoing<'a> {
    Http1(&'a Link),
    Http2(Option<&'a mut AnswerBody>),
}

impl Incoming<'_> {
    /// The next part of the request's body. `is_done` says whether all of the body was read,
    /// `reads` whether the caller wants the next part. If there is no more of the body, or the
    /// caller does not want it, the future resolves only once the client has left. The future may
    /// be dropped at any time.
    pub async fn next(self, is_done: bool, reads: bool) -> Result<Option<Bytes>> {
        match self {
            Self::Http1(session) if is_done || reads => {
                session.read_body_or_idle(is_done).await.map_err(|error| error.into_down())
            }
            // Over HTTP/1 the end of the connection can be seen only after the whole body was read.
            Self::Http1(_) => std::future::pending().await,
            Self::Http2 { session, has_head } => {
                poll_fn(|cx| {
                    // A reset is looked for here as well, because it would go unnoticed while the
                    // body is not read.
                    if !has_head && Pin::new(&mut session.idle()).poll(cx).is_ready() {
                        return Poll::Ready(Err(reset()));
                    }
                    if is_done || !reads {
                        return Poll::Pending;
                    }
                    session.poll_read_body_bytes(cx).map(|part| {
                        let part = part.transpose();
                        part.or_err(ErrorType::ReadError, "while reading the request's body")
                            .map_err(|error| error.into_down())
                    })
                })
                .await
            }
        }
    }
}

/// The error for a client that has reset its stream.
fn reset() -> BError {
    Error::explain(ErrorType::ConnectionClosed, "the client reset its stream").into_down()
}

impl Outgoing<'_> {
    /// Ready once all written bytes have been sent. Over HTTP/2, h2 has then accepted them within
    /// the client's window.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Http1(link) => {
                let flushed = link.poll_flush(cx);
                flushed.map(|flushed| {
                    flushed.or_err(ErrorType::WriteError, "sending to the client").map_err(down)
                })
            }
            Self::Http2(None) => Poll::Ready(Ok(())),
            Self::Http2(Some(body)) => {
                if body.poll_reset(cx).is_ready() {
                    return Poll::Ready(Err(reset()));
                }
                body.poll_flush(cx).map_err(down)
            }
        }
    }

    /// Sends as much as can be sent now, without waiting.
    pub fn flush_now(&mut self) -> Poll<Result<()>> {
        self.poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    pub fn is_blocked(&self) -> bool {
        match self {
            Self::Http1(link) => link.is_blocked(),
            Self::Http2(body) => body.as_ref().is_some_and(|body| body.is_blocked()),
        }
    }

    /// The time since which the client has taken none of the written bytes.
    pub fn blocked_since(&self) -> Option<Instant> {
        match self {
            Self::Http1(link) => link.blocked_since(),
            Self::Http2(body) => body.as_ref().and_then(|body| body.blocked_since()),
        }
    }
}

fn down(error: BError) -> BError {
    error.into_down()
}
