//! One call on its way, and how far both directions have come.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_error::{BError, Result};

use crate::proxy::body::Buffered;
use crate::proxy::call::{About, Figures, Forwarded};
use crate::proxy::client::Client;
use crate::proxy::cors::Cors;
use crate::proxy::metered::Answered;

/// How many parts of an answer in a row are passed on before the client is listened to.
pub(super) const STREAK: u32 = 16;

/// How much of a body that lies in memory is handed over at a time, in bytes.
pub(super) const PIECE: usize = 64 * 1024;

/// The longest silences of both sides.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Silences {
    pub upstream: Duration,
    /// In the middle of a request's body.
    pub client: Duration,
}

/// One call on its way.
pub(in crate::proxy) struct Relay<'a> {
    pub client: &'a mut Client,
    pub call: &'a mut Forwarded,
    pub about: &'a About,
    pub figures: &'a mut Figures,
    pub cors: &'a Cors,
    pub silences: Silences,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// More of its body is passed on.
    Open,
    /// The upstream takes no more; what comes is thrown away.
    Discarded,
    /// All of it was handed over, or read.
    Ended,
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The head is awaited.
    Head,
    /// The body is awaited; so many bytes of it, where the length is known.
    Body(Option<u64>),
    /// The protocol was switched: bytes pass both ways until one side ends.
    Tunnel,
    Ended,
    /// The answer ends here for the client, although the upstream would go on.
    CutShort,
}

/// The state of both directions.
pub(super) struct State {
    pub request: Request,
    pub answer: Answer,
    /// The part of the request's body that was read before, and is not handed over yet.
    pub unsent: Option<Box<Buffered>>,
    /// Why the request could not be sent whole. The upstream may still answer.
    pub send_error: Option<BError>,
    /// Why nothing more is sent to the client, where its answer is read to the end all the same.
    pub left: Option<BError>,
    /// When something last came from the upstream, or it was last sent something.
    pub upstream_moved: Instant,
    /// When something last came from the client, or it was last possible.
    pub client_moved: Instant,
    /// Parts of the answer in a row.
    pub streak: u32,
}

/// One thing that happened.
pub(super) enum Event<'a> {
    /// The upstream's next head was read.
    Head(Result<()>),
    /// A part of the answer's body.
    Part(Result<Option<&'a [u8]>>),
    /// A part of the request's body, or why none comes.
    Request(Result<Option<Bytes>>),
    /// There is room for more of the request's body.
    MoreRequest,
    /// There is room for more of an answer that lies in memory.
    MoreAnswer,
    /// The ledger has answered whether a stream's hold may grow.
    Grown(Answered),
    /// The client took what was written, or cannot.
    ClientFlushed(Result<()>),
    /// The upstream took what was written, or cannot.
    UpstreamFlushed(std::io::Result<()>),
    /// The deadlines are to be looked at.
    Time,
}

impl State {
    /// Nothing has happened yet.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            request: Request::Open,
            answer: Answer::Head,
            unsent: None,
            send_error: None,
            left: None,
            upstream_moved: now,
            client_moved: now,
            streak: 0,
        }
    }

    /// The upstream takes no more of the request, and may have answered all the same.
    pub fn request_broke(&mut self, error: BError) {
        self.send_error.get_or_insert_with(|| error.into_up());
        self.unsent = None;
        if self.request == Request::Open {
            self.request = Request::Discarded;
        }
    }

    /// Reading the answer failed; where the request had failed before, that is why.
    pub fn upstream_failed(&mut self, error: BError) -> BError {
        self.send_error.take().unwrap_or_else(|| error.into_up())
    }
}
