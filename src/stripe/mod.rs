//! Buying credits.

pub mod config;

pub use config::*;
