//! Farebox is a reverse proxy, built on Pingora, that stands in front of AI endpoints and charges
//! prepaid credits. It identifies the caller, prices the call, sets the credits aside before it
//! forwards, and gives back the credits that the call did not use.
//!
//! # A tour
//! A call passes six steps:
//!
//! | step | what happens | where |
//! |---|---|---|
//! | identify | headers become an [account] | [`identify`] |
//! | price | the canonical path and the method become a quote | [`price`] |
//! | hold | the quote's [credits] are set aside, on disk in `strict` | [`ledger`] |
//! | forward | the request goes upstream with our headers | [`proxy`] |
//! | meter | the answer streams back, never buffered whole | [`proxy`], [`meter`] |
//! | settle | the hold is captured or released, once, however the call ends | [`proxy`], [`ledger`] |
//!
//! [`stripe`] sells the credits; [`gateway`] composes the parts and starts them; [`cli`] has one
//! file for each command; [`api`] serves Farebox's own routes; [`app`] is shared by the proxy and
//! those routes; [`problem`] lists every error that a client can see; [`config`] reads
//! gateway.toml, where each module owns a section; [`usage`] says what a metered call asks for and
//! used; [`metrics`] declares every metric; `cli::demo`
//! is `farebox demo`.
//!
//! Imports run one way, from the command line down to the credits. ARCHITECTURE.md has the map.
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
pub mod meter;
pub mod metrics;
pub mod price;
pub mod problem;
pub mod proxy;
pub mod store;
pub mod stripe;
pub mod usage;
