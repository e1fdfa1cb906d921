//! Farebox takes the fare before the ride.
#![forbid(unsafe_code)]

pub mod account;
pub mod api;
pub mod cli;
pub mod config;
pub mod credits;
pub mod demo;
pub mod gateway;
pub mod identify;
pub mod ledger;
pub mod metrics;
pub mod price;
pub mod problem;
pub mod proxy;
pub mod shop;
pub mod stripe;
