//! Farebox takes the fare before the ride.
#![forbid(unsafe_code)]

pub mod account;
pub mod config;
pub mod credits;
pub mod price;
