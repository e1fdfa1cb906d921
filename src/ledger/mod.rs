//! Where credits are kept.

pub mod config;

pub use config::*;
