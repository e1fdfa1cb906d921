//! Farebox's own routes.

pub mod config;

pub use config::*;
