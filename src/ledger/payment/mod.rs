//! Payments: the facts that Stripe or an import reported of them, and the credits that they moved.

mod facts;
mod micros;
mod record;

pub use facts::{Dispute, Due, Facts, Money, OnDispute, Progress, Refund, Sale, Stage};
pub use record::{Payment, PaymentChange, TakeFacts};
