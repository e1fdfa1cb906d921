//! The state of one call while it is passed on, in both directions.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_error::{BError, Result};

use crate::proxy::body::Buffered;
use crate::proxy::call::{About, Figures, Forwarded};
use crate::proxy::client::Client;
use crate::proxy::cors::Cors;
use crate::proxy::metered::Answered;

/// After this many parts of an answer in a row, the client is polled before the upstream.
pub(super) const STREAK: u32 = 16;

/// The most bytes of a body in memory that are sent at a time.
pub(super) const PIECE: usize = 64 * 1024;

/// How long each side may be silent.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Silences {
    pub upstream: Duration,
    /// The limit for the client while its request's body arrives.
    pub client: Duration,
}

/// One call that is being passed on.
pub(in crate::proxy) struct Relay<'a> {
    pub client: &'a mut Client,
    pub call: &'a mut Forwarded,
    pub about: &'a About,
    pub figures: &'a mut Figures,
    pub cors: &'a Cors,
    pub silences: Silences,
}

/// The progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Request {
    /// More of the body is expected, and will be passed on.
    Open,
    /// The upstream takes no more of the body, so its rest is read and dropped.
    Discarded,
    /// The whole body was sent, or was read and dropped.
    Ended,
}

/// The progress of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Answer {
    /// The head is expected.
    Head,
    /// The body is expected. The number is how many of its bytes are missing, if its length is
    /// known.
    Body(Option<u64>),
    /// The protocol was switched. Bytes are passed in both directions until one side ends.
    Tunnel,
    Ended,
    /// Farebox ended the answer early, because the account can pay no more.
    CutShort,
}

/// The progress of both directions.
pub(in crate::proxy) struct State {
    pub(super) request: Request,
    pub(super) answer: Answer,
    /// The part of the request's body that is in memory and not sent yet.
    pub(super) unsent: Option<Box<Buffered>>,
    /// The reason why the request could not be sent whole. The upstream may still answer.
    pub(super) send_error: Option<BError>,
    /// The error with which the client left. It is set while the answer is still read to its end.
    pub(super) left: Option<BError>,
    /// Whether the client has left, and the answer is still read only for a retry.
    pub(super) reads_for_retry: bool,
    /// The last time at which the upstream sent bytes, or was sent bytes.
    pub(super) upstream_moved: Instant,
    /// The last time at which the client sent bytes, or became free to send more.
    pub(super) client_moved: Instant,
    /// How many parts of the answer were passed on in a row.
    pub(super) streak: u32,
}

/// One thing that happened.
pub(super) enum Event<'a> {
    /// The upstream's next head, or an error.
    Head(Result<()>),
    /// A part of the answer's body; `None` at its end.
    Part(Result<Option<&'a [u8]>>),
    /// A part of the request's body; `None` at its end.
    Request(Result<Option<Bytes>>),
    /// The upstream has room for more of the request's body.
    MoreRequest,
    /// The client has room for more of an answer that is in memory.
    MoreAnswer,
    /// The ledger's answer on whether a stream's hold may grow.
    Grown(Answered),
    /// All written bytes were sent to the client, or sending failed.
    ClientFlushed(Result<()>),
    /// All written bytes were sent to the upstream, or sending failed.
    UpstreamFlushed(std::io::Result<()>),
    /// The deadlines are to be checked now.
    Time,
}

impl State {
    /// The state before anything has happened.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            request: Request::Open,
            answer: Answer::Head,
            unsent: None,
            send_error: None,
            left: None,
            reads_for_retry: false,
            upstream_moved: now,
            client_moved: now,
            streak: 0,
        }
    }

    /// Records that the upstream takes no more of the request. It may answer all the same.
    pub fn request_broke(&mut self, error: BError) {
        self.send_error.get_or_insert_with(|| error.into_up());
        self.unsent = None;
        if self.request == Request::Open {
            self.request = Request::Discarded;
        }
    }

    /// Returns the error of a call whose answer cannot be read. If sending the request failed
    /// earlier, that error is returned, because it is the cause.
    pub fn upstream_failed(&mut self, error: BError) -> BError {
        self.send_error.take().unwrap_or_else(|| error.into_up())
    }
}
