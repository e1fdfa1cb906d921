//! A connection to the upstream of a call: an idle one from the pool, or a new one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{BError, Error, ErrorType, Result};

use super::addresses::Attempts;
use super::call::About;
use super::client::{Client, at_once};
use super::failure::without_bytes;
use super::hop;
use super::link::Link;
use super::live::{Destination, Outcome};
use super::pool::{Idle, Pool, PoolKey};
use super::socket;
use super::transport::Transport;
use super::upstream::Upstream;

/// The time between two sweeps, which close idle connections whose time is up.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Opens connections to upstreams, and keeps idle ones for later calls.
pub(super) struct Connector {
    tls: TransportConnector,
    pool: Pool,
}

/// A connection to an upstream, for one request.
pub(super) struct Connection {
    pub session: HttpSession,
    pub link: Arc<Link>,
    pub address: SocketAddr,
    /// Whether the connection was idle in the pool, so it has served another request before.
    pub was_kept: bool,
}

impl Connector {
    /// Creates a connector that keeps at most `most_idle` idle connections.
    pub fn new(most_idle: usize) -> Self {
        // Idle connections are kept in our own pool, so Pingora's pool needs no room.
        let options = ConnectorOptions::new(1);
        Self { tls: TransportConnector::new(Some(options)), pool: Pool::new(most_idle) }
    }

    /// Closes idle connections whose time is up. Runs until the future is dropped.
    pub async fn keep_swept(&self) {
        self.pool.keep_swept(SWEEP_EVERY).await;
    }

    /// Returns a connection for a call. If an address cannot be connected to, the next one is
    /// tried; nothing of the request was sent by then.
    ///
    /// # Errors
    /// No address can be connected to, or the client has left meanwhile.
    pub async fn connect(
        &self,
        client: &mut Client,
        about: &About,
        destination: &Destination,
        attempts: &mut Attempts,
    ) -> Result<Connection> {
        let upstream = &destination.upstream;
        let Some(address) = upstream.next_address(attempts) else {
            let unknown = "no address of the upstream is known";
            destination.attempts.count(Outcome::Connect);
            return Err(Error::explain(ErrorType::ConnectError, unknown).into_up());
        };
        let key = PoolKey { upstream: upstream.id(), address };
        if let Some(Idle { stream, link, .. }) = self.pool.take(key) {
            return Ok(Connection::new(stream, link, address, true));
        }
        let (transport, address) =
            Box::pin(self.open(client, about, destination, attempts, address)).await?;
        let link = Link::over(transport);
        Ok(Connection::new(link.end(), link, address, false))
    }

    /// Moves a request to a new connection, after its connection broke before a byte of the request
    /// was sent ([`Connection::has_lost`]). This happens when an upstream resets an idle connection
    /// between its last probe and the first write.
    ///
    /// # Errors
    /// The same as those of [`connect`](Self::connect).
    pub async fn save(
        &self,
        connection: &mut Connection,
        client: &mut Client,
        about: &About,
        destination: &Destination,
        attempts: &mut Attempts,
    ) -> Result<()> {
        let address = connection.address;
        destination.attempts.count(Outcome::Closed);
        tracing::warn!(
            upstream = destination.upstream.name(),
            %address,
            connection = "kept",
            outcome = Outcome::Closed.label(),
            request_id = about.id.as_str(),
            "a kept connection was closed before any of the request was sent; a new one is opened"
        );
        let opened = Box::pin(self.open(client, about, destination, attempts, address)).await?;
        (connection.address, connection.was_kept) = (opened.1, false);
        connection.link.move_to(opened.0);
        Ok(())
    }

    async fn open(
        &self,
        client: &mut Client,
        about: &About,
        destination: &Destination,
        attempts: &mut Attempts,
        mut address: SocketAddr,
    ) -> Result<(Transport, SocketAddr)> {
        let upstream = &destination.upstream;
        loop {
            let error = match self.open_at(client, upstream, address).await? {
                Ok(transport) => {
                    upstream.connected(address);
                    return Ok((transport, address));
                }
                Err(error) => error,
            };
            destination.attempts.count(Outcome::Connect);
            if !upstream.failed(attempts, address) {
                return Err(error);
            }
            let Some(next) = upstream.next_address(attempts) else { return Err(error) };
            tracing::warn!(
                upstream = upstream.name(),
                %address,
                error = without_bytes(&error),
                outcome = Outcome::Connect.label(),
                request_id = about.id.as_str(),
                "an upstream could not be connected to; its next address is tried"
            );
            address = next;
        }
    }

    /// Opens a connection to `address`. The inner result tells why none could be opened.
    ///
    /// # Errors
    /// The client has left.
    async fn open_at(
        &self,
        client: &mut Client,
        upstream: &Upstream,
        address: SocketAddr,
    ) -> Result<Result<Transport>> {
        let timeout = upstream.connect_timeout();
        let opening = async {
            if upstream.has_tls() {
                let opened = socket::open_tls(&self.tls, upstream.peer(address), timeout).await;
                opened.map(|(stream, socket)| Transport::Tls(stream, socket))
            } else {
                socket::open(address, timeout).await.map(Transport::Tcp)
            }
        };
        // A client whose body is not read yet cannot be watched: reading would take bytes of the
        // body.
        let watches = client.is_body_done();
        let left =
            async { if watches { client.left().await } else { std::future::pending().await } };
        tokio::select! {
            biased;
            opened = opening => Ok(opened.map_err(|error: BError| error.into_up())),
            error = left => Err(error),
        }
    }

    /// Keeps the connection for a later call if request **and** answer have ended and no bytes
    /// followed the answer. Otherwise closes it.
    pub fn give_back(&self, mut connection: Connection, upstream: &Upstream) {
        let Connection { session, link, address, .. } = &mut connection;
        let is_sent = matches!(link.flush_now(), Poll::Ready(Ok(())));
        if !keeps_connection(session) || !is_sent {
            return;
        }
        let headers = session.resp_header().map(|head| &head.headers);
        let theirs = headers.and_then(hop::keep_alive_secs).map(shorter_than);
        let keep = upstream.keepalive_timeout().min(theirs.unwrap_or(Duration::MAX));
        if keep.is_zero() {
            return;
        }
        let key = PoolKey { upstream: upstream.id(), address: *address };
        let link = link.clone();
        // If the connection stays open, `reuse` returns it without a wait.
        let kept = at_once(async { Ok::<_, BError>(connection.session.reuse().await) });
        if let Ok(Some(stream)) = kept {
            self.pool.put(key, Idle { stream, link, until: Instant::now() + keep });
        }
    }
}

/// Whether the upstream keeps its connection open after the answer whose head was read.
pub(super) fn keeps_connection(session: &mut HttpSession) -> bool {
    session.respect_keepalive();
    // Pingora looks only at the first `connection` header.
    let asks = session.resp_header().is_some_and(|head| hop::asks_to_close(&head.headers));
    session.will_keepalive() && !asks
}

/// How long Farebox keeps an idle connection that the upstream keeps for `secs` seconds. The result
/// is shorter, because a call is lost if the upstream closes the connection while the call is being
/// sent.
fn shorter_than(secs: u64) -> Duration {
    let theirs = Duration::from_secs(secs);
    theirs.saturating_sub(Duration::from_secs(1).min(theirs / 2))
}

impl Connection {
    fn new(stream: Stream, link: Arc<Link>, address: SocketAddr, was_kept: bool) -> Self {
        link.begin_call();
        // The session has no read or write timeout: the relay has deadlines of its own.
        Self { session: HttpSession::new(stream), link, address, was_kept }
    }

    /// Sends the written bytes, as far as that is possible at once. True if a connection from the
    /// pool broke before a byte of the request was sent. The request may then be sent on another
    /// connection.
    pub fn has_lost(&self) -> bool {
        self.was_kept && self.link.flush_now().is_ready() && self.link.has_lost()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_kept_for_less_than_its_upstream_keeps_it() {
        for (theirs, ours_ms) in [(0, 0), (1, 500), (2, 1000), (5, 4000), (60, 59_000)] {
            assert_eq!(shorter_than(theirs), Duration::from_millis(ours_ms));
        }
    }
}
