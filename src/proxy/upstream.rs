//! Where calls go: addresses resolved in the background, connections and their limits.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use super::config::UpstreamConfig;

/// How often a name is looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// How soon after a failure.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);

/// How long one look-up may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many addresses a call tries before it gives up. Only connecting is ever tried again.
pub(super) const MAX_ATTEMPTS: usize = 3;

/// One `[[upstreams]]`.
#[derive(Debug)]
pub struct Upstream {
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
    /// Empty until the name is resolved.
    addresses: ArcSwap<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Upstream {
    /// An upstream by its config, which was checked before. `None` where it was not.
    pub fn new(config: &UpstreamConfig) -> Option<Arc<Self>> {
        let url = &config.url;
        let headers = config.headers.iter().map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        let fixed = url.host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, url.port));
        Some(Arc::new(Self {
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
            addresses: ArcSwap::from_pointee(fixed.into_iter().collect()),
            next: AtomicUsize::new(0),
        }))
    }

    /// What routes call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where to send a call's `attempt`: the addresses in turn. `None` while there is none.
    pub fn peer(
        &self,
        attempt: usize,
        read_timeout: Option<Duration>,
        websocket: bool,
    ) -> Option<Box<HttpPeer>> {
        let addresses = self.addresses.load();
        let turn = if addresses.len() > 1 { self.next.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let address = *addresses.get(turn.wrapping_add(attempt) % addresses.len().max(1))?;
        let mut peer = Box::new(HttpPeer::new(address, self.tls, self.host.clone()));
        let options = &mut peer.options;
        options.connection_timeout = Some(self.connect_timeout);
        options.total_connection_timeout = Some(self.connect_timeout);
        options.read_timeout = Some(read_timeout.unwrap_or(self.read_timeout));
        options.write_timeout = options.read_timeout;
        options.idle_timeout = Some(self.keepalive_timeout);
        if !websocket {
            options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        }
        Some(peer)
    }

    /// How many addresses it has now.
    pub fn address_count(&self) -> usize {
        self.addresses.load().len()
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
        let lookup = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
            Ok(Ok(found)) => found.collect::<Vec<_>>(),
            Ok(Err(error)) => {
                tracing::warn!(upstream = self.name, host = self.host, %error, "no address found");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(upstream = self.name, host = self.host, "no address found in time");
                Vec::new()
            }
        };
        // What was found before stays good while the name server is away.
        if !found.is_empty() && **self.addresses.load() != found {
            self.addresses.store(Arc::new(found));
            return true;
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
