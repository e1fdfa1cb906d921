//! The public listener: accepts connections, bounds how long a client may take, and stops
//! without cutting off a call.
//!
//! Pingora's own server sleeps its whole grace period on a stop and then drops what runs, so
//! the socket is accepted from here and only the connections are handed to Pingora.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp as _};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{ALPN, GetSocketDigest as _, SocketDigest, Ssl as _, Stream};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::addresses::MAX_ATTEMPTS;
use super::bounded::Bounded;
use super::config::{CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW};
use super::gate::Gate;
use super::places::Places;

/// How long a client may take to read a part of an answer.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the rest of a refused request's body is read, so that its client sees the answer.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long accepting rests when the system has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub max_connections: usize,
    /// Idle connections to upstreams.
    pub upstream_idle: usize,
    /// For a TLS handshake, and for the first request's head, from the connection on.
    pub header_timeout: Duration,
    /// From an answer's end to the end of the next request's head.
    pub keepalive_timeout: Duration,
    /// For a request's head.
    pub max_header_bytes: usize,
}

/// A bound listener.
pub struct PublicListener {
    socket: TcpListener,
    tls: Option<Acceptor>,
    proxy: Arc<HttpProxy<Gate>>,
    limits: Limits,
    connections: IntGauge,
}

impl PublicListener {
    /// A listener that hands its connections to `gate`.
    pub fn new(
        socket: TcpListener,
        tls: Option<Acceptor>,
        gate: Gate,
        limits: Limits,
        threads: usize,
    ) -> Self {
        let connections = gate.app.metrics.connections.clone();
        let conf = ServerConf {
            threads,
            upstream_keepalive_pool_size: limits.upstream_idle,
            max_retries: MAX_ATTEMPTS,
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(gate, Arc::new(conf));
        proxy.handle_init_modules();
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(limits.keepalive_timeout);
        proxy.server_options = Some(options);
        proxy.h2_options = Some(h2_options(limits.max_header_bytes));
        Self { socket, tls, proxy: Arc::new(proxy), limits, connections }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` turns true; then accepts nothing more, lets idle connections go, and
    /// returns the ones on which calls still run. Aborting these ends their calls, but HTTP/2's,
    /// which are tasks of their own: they end when `cut_off` turns true.
    pub async fn serve(
        self,
        mut stop: watch::Receiver<bool>,
        cut_off: watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let Self { socket, tls, proxy, limits, connections } = self;
        let tls = tls.map(Arc::new);
        let mut places = Places::new(limits.max_connections);
        let shutdown = stop.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = places.ended() => continue,
                accepted = socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(
                        target: "farebox::anybody",
                        %error,
                        "a connection could not be accepted"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = places.make_room() => {}
            }
            let (proxy, tls, shutdown) = (proxy.clone(), tls.clone(), shutdown.clone());
            let cut_off = cut_off.clone();
            let counted = Counted::new(&connections);
            let head = Arc::new(HeadWatch::new());
            let watched = head.clone();
            places.serve(head, async move {
                let _counted = counted;
                if let Some((stream, is_http2)) = handshake(stream, tls, limits).await {
                    let head = watched;
                    serve_connection(proxy, stream, is_http2, head, limits, shutdown, cut_off)
                        .await;
                }
            });
        }
        drop(socket);
        proxy.http_cleanup().await;
        places.into_tasks()
    }
}

/// Pingora's options for HTTP/2, with windows that let an upload over a long line run, and one that
/// stalls leave room for the others of its connection. A larger head is 431.
fn h2_options(max_header_bytes: usize) -> H2Options {
    let mut options = default_h2_options();
    options
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX));
    options
}

/// Dresses a socket for Pingora, with TLS where there is TLS.
async fn handshake(
    stream: TcpStream,
    tls: Option<Arc<Acceptor>>,
    limits: Limits,
) -> Option<(Stream, bool)> {
    use std::os::fd::AsRawFd as _;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Small answers must not wait for more; where it cannot be set they do.
    let _ = stream.set_nodelay(true);
    let mut stream = L4Stream::from(stream);
    stream.set_socket_digest(digest);
    let Some(tls) = tls else { return Some((Box::new(stream), false)) };
    let secured = tokio::time::timeout(limits.header_timeout, tls.tls_handshake(stream)).await;
    match secured {
        Ok(Ok(stream)) => {
            let is_http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
            Some((Box::new(stream), is_http2))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve_connection(
    proxy: Arc<HttpProxy<Gate>>,
    stream: Stream,
    is_http2: bool,
    head: Arc<HeadWatch>,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
    cut_off: watch::Receiver<bool>,
) {
    let connection = Arc::new(Connection { proxy, head: head.clone(), is_http2, cut_off });
    let stream = if is_http2 {
        // HTTP/2 has its own limit.
        stream
    } else {
        Box::new(Bounded::new(stream, head.clone(), limits.max_header_bytes))
    };
    let serving = CONNECTION.scope(head.clone(), connection.process_new(stream, &shutdown));
    tokio::select! {
        _ = serving => {}
        () = head.too_slow(limits) => tracing::debug!("closed a connection that sent no request"),
    }
}

/// What Pingora does not do for a connection: bound the time to a whole request head (for HTTP/2,
/// to its first request, preface included; Pingora closes it when it is idle later), and end
/// HTTP/2's calls.
struct Connection {
    proxy: Arc<HttpProxy<Gate>>,
    head: Arc<HeadWatch>,
    is_http2: bool,
    cut_off: watch::Receiver<bool>,
}

impl HttpServerApp for Connection {
    /// Serves one request: on HTTP/1 it is still to be read, on HTTP/2 its head is there. Written
    /// out, so that Pingora's future of a call is not put into another box of ours.
    fn process_new_http<'a, 'b, 'future>(
        self: &'a Arc<Self>,
        session: ServerSession,
        shutdown: &'b watch::Receiver<bool>,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'future>>
    where
        'a: 'future,
        'b: 'future,
    {
        if !self.is_http2 {
            self.head.awaits_next();
            return self.proxy.process_new_http(session, shutdown);
        }
        self.head.begins();
        Box::pin(async move {
            let mut cut_off = self.cut_off.clone();
            tokio::select! {
                // First, or a call whose connection was cut as well would pass for one whose
                // client has left.
                biased;
                _ = cut_off.wait_for(|cut_off| *cut_off) => None,
                reused = self.proxy.process_new_http(session, shutdown) => reused,
            }
        })
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }
}

tokio::task_local! {
    static CONNECTION: Arc<HeadWatch>;
}

/// Called when a request's head has been read.
pub(super) fn head_arrived() {
    // Not set on HTTP/2, where each stream is a task of its own.
    let _ = CONNECTION.try_with(|head| head.begins());
}

/// Whether the client of the call that runs here has lately made its upstream wait: a write to it
/// was pending for [`STALL`]. Never true over HTTP/2, whose windows Pingora keeps to itself.
pub(super) fn client_has_stalled() -> bool {
    CONNECTION.try_with(|head| head.has_stalled()).unwrap_or(false)
}

/// How long a connection has waited for a whole request head.
#[derive(Debug)]
pub(crate) struct HeadWatch {
    opened: Instant,
    /// In milliseconds since `opened`: 0 before the first head, [`BUSY`] from the end of a head
    /// until the call is over and what is left of its body has been read.
    waiting_since_ms: AtomicU64,
    /// How much was read since then.
    bytes: AtomicUsize,
    /// How much was written in this call since its client had not read for [`STALL`]; [`NEVER`]
    /// where it always has.
    written_since_stall: AtomicUsize,
}

/// How long a write to a client is pending before it counts as the client's pause.
pub(super) const STALL: Duration = Duration::from_secs(1);

const NEVER: usize = usize::MAX;

/// How much of an answer may be on its way in the buffers of both machines, in bytes. An upstream
/// that has sent more after a pause did not break off because of it.
const BUFFERED: usize = 16 << 20;

const BUSY: u64 = u64::MAX;

impl HeadWatch {
    /// A connection that was opened now, and waits for its first head.
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            waiting_since_ms: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
            written_since_stall: AtomicUsize::new(NEVER),
        }
    }

    fn set(&self, waiting_since_ms: u64) {
        self.waiting_since_ms.store(waiting_since_ms, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// A whole head has arrived.
    pub fn begins(&self) {
        self.set(BUSY);
        self.written_since_stall.store(NEVER, Ordering::Relaxed);
    }

    /// A write was pending for [`STALL`].
    pub fn stalled(&self) {
        self.written_since_stall.store(0, Ordering::Relaxed);
    }

    /// Counts bytes that were written.
    pub fn wrote(&self, bytes: usize) {
        let before = self.written_since_stall.load(Ordering::Relaxed);
        if before != NEVER {
            self.written_since_stall.store(before.saturating_add(bytes), Ordering::Relaxed);
        }
    }

    /// Whether the client has lately made its upstream wait.
    pub fn has_stalled(&self) -> bool {
        self.written_since_stall.load(Ordering::Relaxed) <= BUFFERED
    }

    /// How long a head has been awaited by now; `None` while a call runs.
    pub fn waited(&self) -> Option<Duration> {
        match self.waiting_since_ms.load(Ordering::Relaxed) {
            BUSY => None,
            since => Some(self.opened.elapsed().saturating_sub(Duration::from_millis(since))),
        }
    }

    /// True from the end of a head until the next one is awaited.
    pub fn is_busy(&self) -> bool {
        self.waiting_since_ms.load(Ordering::Relaxed) == BUSY
    }

    /// The next head is awaited from now on; the first one is from the beginning.
    pub fn awaits_next(&self) {
        if self.is_busy() {
            self.set(self.elapsed_ms().max(1));
        }
    }

    /// How many bytes were read of a head that has not ended yet; `None` while a call runs.
    pub fn bytes_of_head(&self) -> Option<usize> {
        (!self.is_busy()).then(|| self.bytes.load(Ordering::Relaxed))
    }

    /// Counts bytes that were read of a head.
    pub fn grew(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Resolves once the client has taken longer than it may. It runs in the connection's own
    /// task, so a head cannot arrive at the moment at which this decides.
    pub async fn too_slow(&self, limits: Limits) {
        let shortest = limits.header_timeout.min(limits.keepalive_timeout);
        loop {
            let deadline = match self.waiting_since_ms.load(Ordering::Relaxed) {
                BUSY => Instant::now() + shortest,
                0 => self.opened + limits.header_timeout,
                since => self.opened + Duration::from_millis(since) + limits.keepalive_timeout,
            };
            let now = Instant::now();
            if deadline <= now {
                return;
            }
            // A call that ends meanwhile may bring a nearer deadline.
            tokio::time::sleep_until(deadline.min(now + shortest)).await;
        }
    }
}

/// Counts a connection for as long as it is open.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
