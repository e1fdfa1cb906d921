//! Farebox takes the fare before the ride: a reverse proxy, built on Pingora, that stands in
//! front of AI endpoints. It knows who calls, what the call costs, and whether that account has
//! the credits; it takes them first, forwards, and gives back what was not used.
//!
//! # A tour
//! A call passes six steps, and each has its place:
//!
//! | step | what happens | where |
//! |---|---|---|
//! | identify | headers become an [account] | [`identify`] |
//! | price | the canonical path and the method become a quote | [`price`] |
//! | hold | the quote's [credits] are set aside, on disk in `strict` | [`ledger`], [`store`] |
//! | forward | the request goes upstream with our headers | [`proxy`] |
//! | meter | the answer streams back, never buffered whole | [`proxy`] |
//! | settle | the hold is captured or released, once, however the call ends | [`proxy`], [`ledger`], [`store`] |
//!
//! [`stripe`] sells the credits; [`gateway`] puts the pieces together; [`cli`] has a file for each
//! command; [`api`] is Farebox's own routes; [`app`] is what the proxy and those routes share;
//! [`problem`] is every error a client can see; [`config`] reads gateway.toml, of which each
//! module owns its part; [`metrics`] declares every metric; `cli::demo` is `farebox demo`.
//!
//! Imports run one way: from the command line down to the credits. ARCHITECTURE.md has the map.
#![forbid(unsafe_code)]

pub mod account;
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod credits;
pub mod gateway;
pub mod identify;
pub mod ledger;
pub mod metrics;
pub mod open_files;
pub mod price;
mod private;
pub mod problem;
pub mod proxy;
pub mod store;
pub mod stripe;
