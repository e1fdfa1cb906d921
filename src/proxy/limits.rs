//! The limits of a listener.

use std::time::Duration;

/// The limits on what clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub max_connections: usize,
    /// For a TLS handshake, and for the first request's head, from the connection on.
    pub header_timeout: Duration,
    /// From an answer's end to the end of the next request's head.
    pub keepalive_timeout: Duration,
    /// For a request's head.
    pub max_header_bytes: usize,
}
