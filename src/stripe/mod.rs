//! Buying credits: Stripe's checkout page, its events, and what they move.
//!
//! [`Sales`] sends a buyer to pay, takes Stripe's events in, and asks Stripe what a lost event left
//! out. What an event says becomes [`Facts`](crate::ledger::Facts) in `read.rs`; what the facts move
//! is decided by the ledger.

mod buy;
mod buy_limit;
mod client;
pub mod config;
mod inbox;
mod kept;
mod objects;
mod read;
mod reconcile;
mod sales;
mod sandbox;
mod signature;
mod sync;

pub use buy::{BuyError, BuyKey};
pub use client::{ApiError, Client};
pub use config::*;
pub use inbox::{Receipt, ReceiveError};
pub use reconcile::{ReconcileError, Reconciled};
pub use sales::{Sales, SalesError};
pub use sandbox::SandboxPage;
pub use signature::{Claim, SignatureError, sign};
pub use sync::{SyncReport, sync_packs, sync_webhook};
