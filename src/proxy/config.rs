//! `[server]` and `[[upstreams]]`.

mod server;
mod upstream;
mod url;

pub use server::{ServerConfig, TlsConfig};
pub use upstream::{UpstreamConfig, check_upstreams};
pub use url::{UpstreamUrl, UpstreamUrlError};
