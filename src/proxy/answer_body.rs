//! The body of an answer over HTTP/2. Small parts are gathered into one frame, and bytes wait here
//! while the client's window has no room for them.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;
use pingora_error::{Error, ErrorType, OrErr as _, Result};

use super::stall::Stall;

/// Once this many bytes are gathered, they are sent without waiting for a flush. 16 KiB is the
/// usual limit on a frame.
const GATHERED: usize = 16 * 1024;

/// The sending half of one stream.
pub(super) struct AnswerBody {
    stream: SendStream<Bytes>,
    /// The parts that were written since the last flush.
    gathered: Vec<u8>,
    /// Earlier parts that are not sent yet.
    unsent: Bytes,
    /// Whether the last part of the body was written.
    ends: bool,
    has_ended: bool,
    is_blocked: bool,
    stall: Stall,
}

impl AnswerBody {
    /// Creates the body that follows a head. `has_ended` is true if the answer has no body.
    pub fn new(stream: SendStream<Bytes>, has_ended: bool) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            unsent: Bytes::new(),
            ends: has_ended,
            has_ended,
            is_blocked: false,
            stall: Stall::default(),
        }
    }

    /// Adds a part of the body to the bytes that the next flush sends. `end` is true if the body
    /// ends with the part.
    pub fn write(&mut self, part: &[u8], end: bool) -> Result<()> {
        if self.ends {
            return match part {
                [] => Ok(()),
                _ => Error::e_explain(ErrorType::InternalError, "a body went on after its end"),
            };
        }
        self.ends = end;
        self.gathered.extend_from_slice(part);
        if self.is_blocked || self.gathered.len() < GATHERED {
            return Ok(());
        }
        // Bytes for which there is no room now are sent by a later flush.
        match self.poll_flush(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Ready once all bytes have been sent. Until then the client's window has no room for the
    /// rest.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if self.unsent.is_empty() {
                if self.gathered.is_empty() {
                    break;
                }
                self.unsent = std::mem::take(&mut self.gathered).into();
            }
            self.stream.reserve_capacity(self.unsent.len());
            let room = match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(room)) => room.or_err(ErrorType::WriteError, "HTTP/2")?,
                Poll::Ready(None) => {
                    return Poll::Ready(Error::e_explain(
                        ErrorType::ConnectionClosed,
                        "the stream has ended",
                    ));
                }
                Poll::Pending => {
                    self.is_blocked = true;
                    self.stall.waits();
                    return Poll::Pending;
                }
            };
            if room == 0 {
                continue;
            }
            let part = self.unsent.split_to(room.min(self.unsent.len()));
            self.stall.moves(part.len());
            self.send(part)?;
        }
        self.is_blocked = false;
        if self.ends && !self.has_ended {
            self.send(Bytes::new())?;
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, part: Bytes) -> Result<()> {
        let end = self.ends && self.unsent.is_empty() && self.gathered.is_empty();
        self.has_ended |= end;
        self.stream.send_data(part, end).or_err(ErrorType::WriteError, "HTTP/2")
    }

    /// Ready once the client has reset the stream.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A stream that has ended cannot be reset.
        if self.has_ended {
            return Poll::Pending;
        }
        self.stream.poll_reset(cx).map(drop)
    }

    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The time since which written bytes have been waiting for room in the client's window.
    pub fn blocked_since(&self) -> Option<Instant> {
        if self.is_blocked { self.stall.waiting_since() } else { None }
    }

    /// Whether the client has recently delayed a write: see [`Stall::is_recent`].
    pub fn has_stalled(&self) -> bool {
        self.stall.is_recent()
    }
}
