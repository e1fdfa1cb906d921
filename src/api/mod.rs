//! Farebox's own routes: for customers on the public port ([`public`]), for operators on the admin
//! listener ([`admin`]), for probes and scrapers ([`health`]). Each of the three is an axum router
//! that is called in process. Other modules open the sockets.

mod admin;
mod answer;
mod balance;
mod body;
mod brand;
mod buy;
mod caller;
mod config;
mod cookie;
mod events;
mod health;
mod holds;
mod keys;
mod listings;
mod openapi;
mod parameters;
mod router;
mod sandbox;
mod session;
mod transactions;
mod ui;
mod usage;
mod webhook;

pub(crate) use admin::accounts::REPLAYED;
pub(crate) use admin::payments::is_payment_intent;
pub use answer::RequestId;
pub use brand::{Brand, BrandConfig};
pub use caller::ClientAddress;
pub use config::{ApiConfig, STRIPE_WEBHOOK_PATH};
pub use health::Readiness;
pub use router::{admin, health, public, starting};
