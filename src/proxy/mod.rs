//! The Pingora side: identify → price → hold → forward → meter → settle, a phase each.
//!
//! `gate.rs` is the `ProxyHttp` implementation; its phases are a few lines that call the
//! other files. Nothing outside this folder and `gateway.rs` knows Pingora.

mod addresses;
mod body;
mod bounded;
mod call;
mod config;
mod cors;
mod failure;
mod gate;
mod headers;
mod listener;
mod live;
mod own;
mod own_body;
mod places;
mod reply;
mod settle;
mod target;
mod tls;
mod upstream;

pub use call::CallsInFlight;
pub use config::{
    ServerConfig, TlsConfig, UpstreamConfig, UpstreamUrl, UpstreamUrlError, check_upstreams,
};
pub use cors::Cors;
pub use gate::{Gate, GateOptions};
pub(crate) use listener::HeadWatch;
pub use listener::{Limits, PublicListener};
pub use live::Live;
pub(crate) use places::Places;
pub use tls::{TlsFiles, TlsFilesError};
pub use upstream::{Resolver, Upstream};
