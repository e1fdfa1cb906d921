//! The config of `[server]`, `[[upstreams]]` and `[idempotency]`.

mod idempotency;
mod memory;
mod server;
mod upstream;
mod url;

pub use idempotency::IdempotencyConfig;
pub use memory::{CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW};
pub use server::{ServerConfig, TlsConfig};
pub use upstream::{UpstreamConfig, check_upstreams};
pub use url::{UpstreamUrl, UpstreamUrlError};
