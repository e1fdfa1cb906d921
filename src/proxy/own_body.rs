//! The body of a call to an own route. It is read from the client only once the handler asks for
//! it.
//!
//! Handlers first identify their caller by the head. So a caller who is refused, or a path that
//! does not exist, uses no memory for a body.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::{Notify, mpsc};

/// The end of a body from which a handler reads.
pub(super) struct OwnBody {
    chunks: mpsc::Receiver<Bytes>,
    wanted: Arc<Notify>,
    /// Whether the feeder was already asked for the next chunk.
    has_asked: bool,
}

/// The end of a body to which the connection passes the chunks.
pub(super) struct Feeder {
    /// `None` once the body has ended.
    chunks: Option<mpsc::Sender<Bytes>>,
    wanted: Arc<Notify>,
}

/// Creates both ends of a body.
pub(super) fn own_body() -> (Feeder, OwnBody) {
    let (sender, receiver) = mpsc::channel(1);
    let wanted = Arc::new(Notify::new());
    let feeder = Feeder { chunks: Some(sender), wanted: wanted.clone() };
    (feeder, OwnBody { chunks: receiver, wanted, has_asked: false })
}

impl Feeder {
    /// Resolves when the handler wants the next chunk.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Passes on the chunk that was asked for; `None` ends the body.
    pub fn give(&mut self, chunk: Option<Bytes>) {
        match (chunk, &self.chunks) {
            // The channel has room for one chunk, and is empty when the next one is asked for. So
            // sending fails only if the handler has dropped its end and needs no more chunks.
            (Some(chunk), Some(chunks)) => drop(chunks.try_send(chunk)),
            _ => self.chunks = None,
        }
    }
}

impl HttpBody for OwnBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.has_asked {
            self.has_asked = true;
            self.wanted.notify_one();
        }
        let chunk = ready!(self.chunks.poll_recv(cx));
        self.has_asked = chunk.is_none();
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
