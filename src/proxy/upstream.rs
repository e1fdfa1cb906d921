//! Where calls go: addresses resolved in the background, connections and their limits.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use pingora_core::upstreams::peer::HttpPeer;

use super::addresses::{Addresses, Attempts};
use super::config::UpstreamConfig;

/// How often a name is looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How soon after a failure.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);

/// How long one look-up may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The next upstream's [id](Upstream::id).
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Finds the addresses of a host name and a port.
#[derive(Clone)]
pub struct Resolver(Option<Arc<LookUp>>);

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

impl Resolver {
    /// The system's.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A function that never blocks, such as a fixed table.
    pub fn new(
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(look_up)))
    }

    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match &self.0 {
            Some(look_up) => look_up(host, port),
            None => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver::new(…)" } else { "Resolver::system()" })
    }
}

/// One `[[upstreams]]`.
#[derive(Debug)]
pub struct Upstream {
    id: u64,
    name: String,
    host: String,
    port: u16,
    tls: bool,
    connect_timeout: Duration,
    read_timeout: Duration,
    keepalive_timeout: Duration,
    /// Whether the client's credentials go on to it.
    pub forward_authorization: bool,
    /// Its `host` header.
    pub authority: HeaderValue,
    /// Sent in place of the client's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    addresses: Addresses,
    resolver: Resolver,
}

impl Upstream {
    /// An upstream by its config, which was checked before. `None` where it was not.
    pub fn new(config: &UpstreamConfig, resolver: Resolver) -> Option<Arc<Self>> {
        let url = &config.url;
        let headers = config.headers.iter().map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        let fixed = url.host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, url.port));
        Some(Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: config.name.clone(),
            host: url.host.clone(),
            port: url.port,
            tls: url.tls,
            connect_timeout: config.connect_timeout.0,
            read_timeout: config.read_timeout.0,
            keepalive_timeout: config.keepalive_timeout.0,
            forward_authorization: config.forward_authorization,
            authority: HeaderValue::from_str(&authority(&url.host, url.port, url.tls)).ok()?,
            headers: headers.collect::<Option<_>>()?,
            addresses: Addresses::new(fixed),
            resolver,
        }))
    }

    /// The name by which routes refer to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of this upstream. No two upstreams of this process have the same number, even after a reload.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where a call connects to next. `None` where there is no address that it has not tried.
    pub fn next_address(&self, attempts: &mut Attempts) -> Option<SocketAddr> {
        self.addresses.next(attempts)
    }

    /// The peer by which Pingora's connector connects to an address.
    pub fn peer(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, self.tls, self.host.clone());
        peer.options.connection_timeout = Some(self.connect_timeout);
        peer.options.total_connection_timeout = Some(self.connect_timeout);
        peer
    }

    /// Whether connections to it are encrypted.
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// How long a connection to it may take to open.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The upstream's longest silence, where the route sets no other.
    pub fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// How long an idle connection to it is kept.
    pub fn keepalive_timeout(&self) -> Duration {
        self.keepalive_timeout
    }

    /// A call could not connect to an address. True where it should try another one.
    pub fn failed(&self, attempts: &mut Attempts, address: SocketAddr) -> bool {
        self.addresses.failed(attempts, address)
    }

    /// A connection to an address was opened.
    pub fn connected(&self, address: SocketAddr) {
        self.addresses.connected(address);
    }

    /// Looks its name up now, and again and again in the background for as long as it is in use.
    pub async fn resolve(self: &Arc<Self>) {
        if self.host.parse::<IpAddr>().is_ok() {
            return;
        }
        let found = self.resolve_once().await;
        let upstream = Arc::downgrade(self);
        tokio::spawn(keep_resolved(upstream, found));
    }

    async fn resolve_once(&self) -> bool {
        let look_up = self.resolver.look_up(&self.host, self.port);
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, look_up).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(upstream = self.name, host = self.host, %error, "no address found");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(upstream = self.name, host = self.host, "no address found in time");
                Vec::new()
            }
        };
        // If the look-up found nothing, the addresses that were found before stay in use.
        if !found.is_empty() {
            self.addresses.replace(&found);
        }
        !found.is_empty()
    }
}

async fn keep_resolved(upstream: Weak<Upstream>, mut found: bool) {
    loop {
        tokio::time::sleep(if found { RESOLVE_EVERY } else { RESOLVE_AGAIN }).await;
        let Some(upstream) = upstream.upgrade() else { return };
        found = upstream.resolve_once().await;
    }
}

fn authority(host: &str, port: u16, tls: bool) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == if tls { 443 } else { 80 } { host } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_header_is_the_upstream_s_own() {
        assert_eq!(authority("api.example.com", 443, true), "api.example.com");
        assert_eq!(authority("api.example.com", 443, false), "api.example.com:443");
        assert_eq!(authority("::1", 3000, false), "[::1]:3000");
    }
}
