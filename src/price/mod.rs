//! What a call costs.

pub mod config;

pub use config::*;
