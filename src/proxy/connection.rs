//! The connections of clients. An HTTP/1 connection carries one request after the other, an HTTP/2
//! connection many at once.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp as _};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_error::ErrorType;
use tokio::io::ReadBuf;
use tokio::sync::watch;

use super::bounded::{Bounded, LINGER_BYTES};
use super::client::{Client, DRAIN_TIMEOUT, Http1, Next};
use super::config::{CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW};
use super::gate::{After, Gate};
use super::limits::Limits;
use super::link::Link;
use super::watch::HeadWatch;
use super::watched::Watched;

/// The parts that all connections of a listener share.
#[derive(Clone)]
pub(super) struct Server {
    pub gate: Arc<Gate>,
    pub limits: Limits,
    /// Turns true when no further requests shall be read.
    pub stop: watch::Receiver<bool>,
    /// Turns true when the calls that are still running shall be cut off.
    pub cut_off: watch::Receiver<bool>,
}

/// An accepted connection. It is encrypted if the listener has TLS.
pub(super) enum Accepted {
    Http1(Arc<Link>),
    Http2(Stream),
}

impl Server {
    /// Serves a connection until it ends, or its client is silent for too long.
    pub async fn serve(self, accepted: Accepted, head: Arc<HeadWatch>) {
        let limits = self.limits;
        tokio::select! {
            biased;
            () = self.serve_requests(accepted, head.clone()) => {}
            () = head.too_slow(limits) => tracing::debug!("closed a connection that sent no request"),
        }
    }

    async fn serve_requests(self, accepted: Accepted, head: Arc<HeadWatch>) {
        let stream = match accepted {
            Accepted::Http1(link) => return self.serve_http1(link, head).await,
            Accepted::Http2(stream) => stream,
        };
        let shutdown = self.stop.clone();
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(self.limits.keepalive_timeout);
        let stream = Box::new(Watched::new(stream, head.clone()));
        let connection = Arc::new(Http2Connection { server: self, options, head });
        // Pingora reads the connection, and passes each of its streams to [`Http2Connection`].
        let _ = Box::pin(connection.process_new(stream, &shutdown)).await;
    }

    async fn serve_http1(self, link: Arc<Link>, head: Arc<HeadWatch>) {
        let Self { gate, limits, mut stop, .. } = self;
        let is_stopping = stop.clone();
        let mut stopped = pin!(stop.wait_for(|stop| *stop));
        let bounded = Bounded::new(link.clone(), head.clone(), limits.max_header_bytes);
        let mut client = Client::Http1(Http1::new(Box::new(bounded), link.clone()));
        let most = loop {
            head.awaits_next();
            let read = tokio::select! {
                // If a request has arrived by the time of the stop, it is still served.
                biased;
                read = client.read_head() => read,
                _ = &mut stopped => return,
            };
            match read {
                Ok(true) => head.begins(),
                Ok(false) => return,
                // Only a malformed head is answered. After any other error the client is gone.
                Err(error) if *error.etype() != ErrorType::InvalidHTTPHeader => return,
                Err(_) => {
                    head.begins();
                    gate.refuse_head(&mut client).await;
                    break LINGER_BYTES;
                }
            }
            if *is_stopping.borrow() {
                client.close_afterwards();
            }
            if gate.serve(&mut client).await == After::Closes {
                return;
            }
            client = match client.next_request(&link) {
                Next::Now(next) => next,
                Next::Later(next) => match next.await {
                    Some(next) => next,
                    None => break usize::MAX,
                },
                Next::Never => return,
            };
        };
        // From here on the connection counts as waiting: at `max_connections` it may be closed to make room.
        head.awaits_next();
        tokio::select! {
            biased;
            () = linger(&link, most) => {}
            _ = &mut stopped => {}
        }
    }
}

/// Shuts the connection down for writing, then reads and drops bytes until the client has closed
/// its end, has sent more than `most` bytes, or [`DRAIN_TIMEOUT`] is over. A connection that is
/// closed while bytes lie unread is reset, and a reset may take the last answer from a client that
/// has not read it yet (RFC 9112, 9.6).
async fn linger(link: &Link, most: usize) {
    let (mut is_shut, mut read) = (false, 0);
    let reading = poll_fn(|cx| {
        if !is_shut && ready!(link.poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        is_shut = true;
        let mut rest = [0; 4096];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            let is_broken = ready!(link.poll_read(cx, &mut rest)).is_err();
            read += rest.filled().len();
            if is_broken || rest.filled().is_empty() || read > most {
                return Poll::Ready(());
            }
        }
    });
    // A client that goes on sending for longer is cut off.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

/// One HTTP/2 connection. Each stream of it is a call.
struct Http2Connection {
    server: Server,
    options: HttpServerOptions,
    head: Arc<HeadWatch>,
}

#[async_trait]
impl HttpServerApp for Http2Connection {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        // ALPN has negotiated HTTP/2, so Pingora passes only HTTP/2 sessions.
        let ServerSession::H2(session) = session else { return None };
        let _open = self.head.begins_stream();
        let mut client = Client::http2(session);
        let mut cut_off = self.server.cut_off.clone();
        tokio::select! {
            // The cut-off is polled first. Otherwise a call that is cut off together with its
            // connection would be taken for one whose client has left.
            biased;
            _ = cut_off.wait_for(|cut_off| *cut_off) => {}
            _ = self.server.gate.serve(&mut client) => {}
        }
        None
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    /// The window of a connection is larger than that of one stream, so that a stalled upload
    /// leaves room for the others (see `config/memory.rs`). A head above the limit is refused with
    /// 431.
    fn h2_options(&self) -> Option<H2Options> {
        let most = self.server.limits.max_header_bytes;
        let mut options = default_h2_options();
        options
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(most).unwrap_or(u32::MAX));
        Some(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that calling the closure would return. The closure is never called.
    fn size_of<F: Future>(_: impl FnOnce() -> F) -> usize {
        std::mem::size_of::<F>()
    }

    fn never<T>() -> T {
        unreachable!("the closures of this test are never called")
    }

    /// This future is in memory for as long as the connection is open, so its size counts.
    #[test]
    fn the_future_of_a_connection_keeps_to_its_budget() {
        let (server, link, head) = (never::<Server>, never::<Arc<Link>>, never::<Arc<HeadWatch>>);
        let whole = size_of(|| server().serve(Accepted::Http1(link()), head()));
        println!("a connection's future: {whole} bytes");
        assert!(whole <= 6 * 1024, "{whole} bytes");
    }
}
