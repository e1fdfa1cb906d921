//! `[server]`: the listeners and their limits.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Mistake, Secret, Size, Span, within};

/// The listeners and their limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(default = "ServerConfig::without_token", deny_unknown_fields)]
pub struct ServerConfig {
    /// The address of the public listener.
    pub listen: SocketAddr,
    /// The address of the admin listener.
    pub admin: SocketAddr,
    /// The admin listener's bearer token; required, at least 16 bytes.
    pub admin_token: Secret,
    /// The address of a listener for health probes and metrics scrapers, which needs no token.
    pub health: Option<SocketAddr>,
    /// The number of worker threads; 0 means one for each core.
    pub threads: usize,
    /// How long new calls are still accepted after a SIGTERM, while `/readyz` already answers 503.
    pub drain_delay: Span,
    /// How long calls in flight may go on after that.
    pub shutdown_timeout: Span,
    /// The longest time for a request head, from its first byte to its last. The body of a request
    /// to one of Farebox's own routes may then take this long again.
    pub header_timeout: Span,
    /// The longest time that a client may send nothing in the body of a forwarded call.
    pub body_timeout: Span,
    /// The most memory for bodies that are read before their call is forwarded.
    pub body_memory: Size,
    /// The longest time that an idle client connection stays open.
    pub keepalive_timeout: Span,
    /// The largest request head, in bytes.
    pub max_header_bytes: usize,
    /// The most client connections at a time; fewer if the system's limit of open files is low.
    pub max_connections: usize,
    /// TLS of the public listener.
    pub tls: Option<TlsConfig>,
}

/// `[server.tls]`: PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate, followed by its chain.
    pub cert_file: PathBuf,
    /// The certificate's private key.
    pub key_file: PathBuf,
}

/// The shortest token, in bytes, that is safe against guessing.
const MIN_TOKEN_BYTES: usize = 16;

impl ServerConfig {
    /// The defaults of all keys except the token, which has no default.
    pub fn new(admin_token: Secret) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
            admin_token,
            health: None,
            threads: 0,
            drain_delay: Span::from_secs(0),
            shutdown_timeout: Span::from_secs(30),
            header_timeout: Span::from_secs(10),
            body_timeout: Span::from_secs(30),
            body_memory: Size::from_mib(256),
            keepalive_timeout: Span::from_secs(60),
            max_header_bytes: 65_536,
            max_connections: 20_000,
            tls: None,
        }
    }

    /// The defaults for serde. The token is empty, which [`check`](Self::check) refuses.
    fn without_token() -> Self {
        Self::new(Secret::new(""))
    }

    /// Finds the mistakes in this section, without opening a socket or a file.
    pub fn check(&self) -> Vec<Mistake> {
        let (none, moment, hour) =
            (Span::from_secs(0), Span::from_millis(1), Span::from_secs(3600));
        let minutes = |minutes: u64| Span::from_secs(60 * minutes);
        let limits = [
            within("server.threads", self.threads, 0..=1024),
            within("server.drain_delay", self.drain_delay, none..=minutes(10)),
            within("server.shutdown_timeout", self.shutdown_timeout, none..=hour),
            within("server.header_timeout", self.header_timeout, moment..=minutes(5)),
            within("server.body_timeout", self.body_timeout, moment..=hour),
            within("server.body_memory", self.body_memory, Size::from_mib(1)..=Size(1 << 40)),
            within("server.keepalive_timeout", self.keepalive_timeout, moment..=hour),
            within("server.max_header_bytes", self.max_header_bytes, 1024..=1_048_576),
            within("server.max_connections", self.max_connections, 1..=1_000_000),
        ];
        let mut found: Vec<Mistake> = limits.into_iter().flatten().collect();
        found.extend(self.check_token());
        found.extend(self.check_listeners());
        found.extend(self.tls.iter().flat_map(TlsConfig::check));
        found
    }

    /// Warns of settings that are valid but probably a mistake.
    pub fn warn(&self) -> Option<Mistake> {
        let is_private = self.admin.ip().to_canonical().is_loopback();
        (!is_private).then(|| {
            let message = format!(
                "the admin listener at {} can be reached from other machines, and has no TLS",
                self.admin
            );
            let hint = "listen on 127.0.0.1, or where a private network alone reaches it; `health` \
                        serves probes and metrics without the token";
            Mistake::new("server.admin", message, hint)
        })
    }

    fn check_token(&self) -> Option<Mistake> {
        let token = self.admin_token.expose();
        let message = if token.is_empty() {
            "`admin_token` is missing or empty"
        } else if token.len() < MIN_TOKEN_BYTES {
            "`admin_token` is shorter than 16 bytes"
        } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            "`admin_token` has a character that an HTTP header cannot carry"
        } else {
            return None;
        };
        let hint = "write admin_token = \"${FAREBOX_ADMIN_TOKEN}\" under [server], and set it: \
                    export FAREBOX_ADMIN_TOKEN=$(openssl rand -hex 32)";
        Some(Mistake::new("server.admin_token", message, hint))
    }

    /// Finds listeners that use the same socket: the second one could not start.
    fn check_listeners(&self) -> Vec<Mistake> {
        let listeners =
            [("listen", Some(self.listen)), ("admin", Some(self.admin)), ("health", self.health)];
        let listeners = listeners.into_iter().filter_map(|(name, socket)| Some((name, socket?)));
        let listeners: Vec<_> = listeners.collect();
        let mut found = Vec::new();
        for (index, (name, socket)) in listeners.iter().enumerate() {
            let earlier = listeners[..index].iter().find(|(_, other)| overlap(*socket, *other));
            if let Some((taken, _)) = earlier {
                let message = format!("`{name}` is the same socket as `{taken}`");
                let hint = "give each listener a port of its own";
                found.push(Mistake::new(format!("server.{name}"), message, hint));
            }
        }
        found
    }
}

impl TlsConfig {
    fn check(&self) -> Vec<Mistake> {
        let files = [("cert_file", &self.cert_file), ("key_file", &self.key_file)];
        let empty = files.into_iter().filter(|(_, file)| file.as_os_str().is_empty());
        let mistake = |name| {
            let hint = "name a PEM file, or remove [server.tls]";
            Mistake::new(format!("server.tls.{name}"), format!("`{name}` is empty"), hint)
        };
        empty.map(|(name, _)| mistake(name)).collect()
    }
}

/// True if both addresses need the same socket. Port 0 asks the system for a free port, so it never
/// collides.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &ServerConfig) -> Vec<String> {
        config.check().into_iter().map(|mistake| mistake.key).collect()
    }

    fn sound() -> ServerConfig {
        ServerConfig::new(Secret::new("0123456789abcdef"))
    }

    #[test]
    fn a_weak_token_is_refused() {
        assert_eq!(keys(&sound()), [""; 0]);
        for weak in ["", "0123456789abcde", "0123456789abcdef\n", "0123456789 abcdef"] {
            let config = ServerConfig::new(Secret::new(weak));
            assert_eq!(keys(&config), ["server.admin_token"], "{weak:?}");
        }
    }

    #[test]
    fn listeners_do_not_share_a_socket() {
        let socket = |text: &str| text.parse().unwrap();
        let same = ServerConfig { admin: socket("0.0.0.0:8080"), ..sound() };
        assert_eq!(keys(&same), ["server.admin"]);
        let health = Some(socket("127.0.0.1:9090"));
        assert_eq!(keys(&ServerConfig { health, ..sound() }), ["server.health"]);
        let any = socket("127.0.0.1:0");
        assert_eq!(keys(&ServerConfig { listen: any, admin: any, ..sound() }), [""; 0]);
    }

    #[test]
    fn limits_have_limits() {
        let config = ServerConfig {
            threads: 5000,
            header_timeout: Span::from_secs(0),
            body_timeout: Span::from_secs(0),
            body_memory: Size(1),
            max_header_bytes: 1,
            max_connections: 0,
            ..sound()
        };
        let limited = [
            "threads",
            "header_timeout",
            "body_timeout",
            "body_memory",
            "max_header_bytes",
            "max_connections",
        ];
        assert_eq!(keys(&config), limited.map(|name| format!("server.{name}")));
        assert_eq!(config.check()[1].hint, "it can be 1ms to 5m");
    }
}
