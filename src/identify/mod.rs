//! Who calls.

pub mod config;

pub use config::*;
