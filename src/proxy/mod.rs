//! The proxy. A call goes through the steps identify → price → hold → forward → meter → settle.
//!
//! A call passes these files in this order: `listener`, `connection`, `client` (who sent it),
//! `gate` (the ladder of steps), `target`, `own`, `body` or `metered`, `forward`, `headers`,
//! `connect`, `relay`, `settle`. Parsing, framing, sessions and TLS are Pingora's; the order of the
//! steps is ours. No code outside this folder calls Pingora.

mod addresses;
mod answer_body;
mod body;
mod body_memory;
mod bounded;
mod call;
mod client;
mod client_address;
mod config;
mod connect;
mod connection;
mod cors;
mod failure;
mod forward;
mod gate;
mod halves;
mod headers;
mod hop;
mod limits;
mod link;
mod listener;
mod live;
mod metered;
mod options;
mod own;
mod own_body;
mod places;
mod pool;
mod refused;
mod relay;
mod reply;
mod retries;
mod settle;
mod socket;
mod stall;
mod target;
mod tls;
mod transport;
mod upstream;
mod watch;
mod watched;

pub use call::CallsInFlight;
pub use config::{
    IdempotencyConfig, ServerConfig, TlsConfig, UpstreamConfig, UpstreamUrl, UpstreamUrlError,
    check_upstreams,
};
pub use cors::Cors;
pub use gate::Gate;
pub use limits::Limits;
pub use listener::PublicListener;
pub use live::Live;
pub use options::GateOptions;
pub(crate) use places::Places;
pub use retries::Retries;
pub use tls::{TlsFiles, TlsFilesError};
pub use upstream::{Resolver, Upstream};
pub(crate) use watch::HeadWatch;
