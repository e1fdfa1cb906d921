//! The public listener. It accepts connections, limits how long a client may take, and stops
//! without cutting off calls.
//!
//! Pingora's own server is not used: on a stop it sleeps for its whole grace period, and then drops
//! the calls that are still running.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{ALPN, GetSocketDigest as _, SocketDigest, Ssl as _};
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::{Accepted, Server};
use super::gate::Gate;
use super::limits::Limits;
use super::link::Link;
use super::places::Places;
use super::watch::HeadWatch;

/// The pause before accepting again after an error, such as a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound listener.
pub struct PublicListener {
    socket: TcpListener,
    tls: Option<Acceptor>,
    gate: Arc<Gate>,
    limits: Limits,
    connections: IntGauge,
}

impl PublicListener {
    /// Creates a listener that passes its connections to `gate`.
    pub fn new(socket: TcpListener, tls: Option<Acceptor>, gate: Gate, limits: Limits) -> Self {
        let connections = gate.app.metrics.connections.clone();
        Self { socket, tls, gate: Arc::new(gate), limits, connections }
    }

    /// The address that the listener is bound to.
    ///
    /// # Errors
    /// The system does not tell the address.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` turns true. Then it accepts no more connections, lets idle ones end, and
    /// returns the tasks of those on which calls still run. Aborting such a task ends the call of
    /// an HTTP/1 connection. The calls of an HTTP/2 connection are tasks of their own, which end
    /// when `cut_off` turns true.
    pub async fn serve(
        self,
        mut stop: watch::Receiver<bool>,
        cut_off: watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let Self { socket, tls, gate, limits, connections } = self;
        let tls = tls.map(Arc::new);
        let mut places = Places::new(limits.max_connections);
        let server = Server { gate: gate.clone(), limits, stop: stop.clone(), cut_off };
        let sweeping = async move { gate.keep_swept().await };
        let mut sweeping = pin!(sweeping);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = places.ended() => continue,
                () = &mut sweeping => continue,
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
            let (server, tls) = (server.clone(), tls.clone());
            let counted = Counted::new(&connections);
            let head = Arc::new(HeadWatch::new());
            let watched = head.clone();
            places.serve(head, async move {
                let _counted = counted;
                if let Some(accepted) = Box::pin(handshake(stream, tls, limits)).await {
                    server.serve(accepted, watched).await;
                }
            });
        }
        drop(socket);
        places.into_tasks()
    }
}

/// Makes the TLS handshake if the listener has TLS.
async fn handshake(
    stream: TcpStream,
    tls: Option<Arc<Acceptor>>,
    limits: Limits,
) -> Option<Accepted> {
    use std::os::fd::AsRawFd as _;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Small answers should be sent without delay. If the option cannot be set, they are only
    // slower.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return Some(Accepted::Http1(Link::to_client(stream, digest))) };
    let mut stream = L4Stream::from(stream);
    stream.set_socket_digest(digest);
    let secured = tokio::time::timeout(limits.header_timeout, tls.tls_handshake(stream)).await;
    match secured {
        Ok(Ok(stream)) => {
            let is_http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
            let stream = Box::new(stream);
            Some(if is_http2 {
                Accepted::Http2(stream)
            } else {
                Accepted::Http1(Link::new(stream))
            })
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Counts a connection in a gauge for as long as it is open.
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
