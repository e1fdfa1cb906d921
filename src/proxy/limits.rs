//! The limits of a listener.

use std::time::Duration;

/// The limits for the clients of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections at a time.
    pub max_connections: usize,
    /// The longest time for a TLS handshake, and for the first request head. Both are counted from
    /// the moment at which the connection was accepted.
    pub header_timeout: Duration,
    /// The longest time from an answer's end to the end of the next request's head.
    pub keepalive_timeout: Duration,
    /// The largest request head, in bytes.
    pub max_header_bytes: usize,
}
