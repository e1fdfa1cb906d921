//! The settings of the gate.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::cors::Cors;
use super::retries::Retries;

/// The settings of a [`Gate`](super::Gate).
#[derive(Clone, Debug)]
pub struct GateOptions {
    /// The path below which Farebox's own routes are.
    pub prefix: String,
    /// The browser origins that may call.
    pub cors: Cors,
    /// The largest request head, in bytes.
    pub max_header_bytes: usize,
    /// The longest time for the body of a call to one of Farebox's own routes.
    pub own_body_timeout: Duration,
    /// The longest time that a client may send nothing in the body of a forwarded call.
    pub body_timeout: Duration,
    /// The most memory for bodies that are read before their call is forwarded, in bytes.
    pub body_memory: usize,
    /// The most idle connections to upstreams that are kept.
    pub upstream_idle: usize,
    /// Keeps answers for retries; `None` if that is turned off.
    pub retries: Option<Arc<Retries>>,
    /// Turns true when the gateway stops.
    pub stop: watch::Receiver<bool>,
}
