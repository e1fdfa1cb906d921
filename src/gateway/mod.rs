//! The composition root: reads the config, opens the ledger, starts the services, stops them.

pub mod config;
mod start;

pub use start::*;
