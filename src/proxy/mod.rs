//! The Pingora side.

pub mod config;

pub use config::*;
