//! An upstream: its addresses, which are resolved in the background, and the limits of its
//! connections.

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

/// The time between two look-ups of a name.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// The time between a look-up that failed and the next one.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);

/// The longest time that one look-up may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The [id](Upstream::id) of the next upstream that is created.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Finds the addresses of a host name.
#[derive(Clone)]
pub struct Resolver(Option<Arc<LookUp>>);

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

impl Resolver {
    /// A resolver that asks the system.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A resolver that calls `look_up`, which must not block. It may read a fixed table, for
    /// example.
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
    /// Whether the client's credentials are forwarded.
    pub forward_authorization: bool,
    /// The value of the forwarded `host` header.
    pub authority: HeaderValue,
    /// The config's headers, which replace the client's headers of the same names.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    addresses: Addresses,
    resolver: Resolver,
}

impl Upstream {
    /// Creates an upstream from its config, which must have been checked. `None` if the config is
    /// invalid.
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

    /// The name by which routes refer to this upstream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of this upstream. It is never used for another upstream of this process, even
    /// after a reload.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The address that a call tries next; `None` if it has tried all.
    pub fn next_address(&self, attempts: &mut Attempts) -> Option<SocketAddr> {
        self.addresses.next(attempts)
    }

    /// The description of an address for Pingora's connector.
    pub fn peer(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, self.tls, self.host.clone());
        peer.options.connection_timeout = Some(self.connect_timeout);
        peer.options.total_connection_timeout = Some(self.connect_timeout);
        peer
    }

    /// Whether connections to this upstream are encrypted.
    pub fn has_tls(&self) -> bool {
        self.tls
    }

    /// The longest time for opening a connection.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The longest time that the upstream may send nothing, unless the route has a value of its
    /// own.
    pub fn read_timeout(&self) -> Duration {
        self.read_timeout
    }

    /// The longest time that an idle connection is kept.
    pub fn keepalive_timeout(&self) -> Duration {
        self.keepalive_timeout
    }

    /// Records that a call could not connect to an address. True if the call should try another
    /// one.
    pub fn failed(&self, attempts: &mut Attempts, address: SocketAddr) -> bool {
        self.addresses.failed(attempts, address)
    }

    /// Records that a connection to an address was opened.
    pub fn connected(&self, address: SocketAddr) {
        self.addresses.connected(address);
    }

    /// Looks the upstream's name up now, then again and again in the background while it is in use.
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
