//! Selling credits through Stripe.
//!
//! [`Sales`] sends buyers to Stripe's checkout page (`buy.rs`), receives Stripe's events (`inbox.rs`), and asks
//! Stripe for the payments, refunds and disputes whose events were lost (`reconcile.rs`). An event becomes
//! [`Facts`](crate::ledger::Facts) about a payment in `read.rs`; the ledger decides how many credits they move.
//!
//! [`Client`] is the connection to Stripe's API, with `requests.rs` for the requests and `objects.rs` for the
//! answers.

mod buy;
mod buy_limit;
mod client;
pub mod config;
mod inbox;
mod objects;
mod read;
mod reconcile;
mod requests;
mod sales;
mod sandbox;
mod signature;
mod sync;
mod trim;

pub use buy::{BuyError, BuyKey};
pub use client::{ApiError, Client};
pub use config::*;
pub use inbox::{Receipt, ReceiveError};
pub use reconcile::{ReconcileError, Reconciled};
pub use sales::{Sales, SalesError};
pub use sandbox::SandboxPage;
pub use signature::{Claim, SignatureError, sign};
pub use sync::{SyncReport, sync_packs, sync_webhook};
