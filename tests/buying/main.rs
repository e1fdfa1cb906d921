//! Buying credits: `farebox serve` in a process of its own, with a Stripe on a socket beside it
//! (`support/stripe`) that is as strict as the real one, and events signed as Stripe signs them.
//! Tests that concern the ledger run on both backends (`backend`): each test below is
//! `…::embedded::…` and `…::redis::…`.
//!
//! Failures with webhooks, refunds and disputes that users of other gateways report, and the tests that show they do
//! not happen here:
//!
//! | failure | shown by |
//! |---|---|
//! | a duplicate webhook mints credits | `webhooks::a_duplicate_webhook_mints_nothing` and all of `orders` |
//! | an event is marked done before the credit is written | `faults::an_event_that_could_not_be_stored_is_refused_and_its_retry_is_applied`, `faults::what_was_stored_before_a_crash_is_applied_after_it` |
//! | refunds are not taken back, or twice | `refunds::half_of_the_money_takes_half_of_the_credits`, `refunds::a_refund_counts_once_under_both_of_its_names` |
//! | disputes are not taken back, or not reinstated when won | `disputes::what_the_bank_takes_is_taken_back_and_returned_when_it_is_won` |
//! | a negative price or usage mints credits | `refunds::amounts_that_make_no_sense_mint_nothing` |
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

use support::{http, process};

mod backend;
mod sdk;
mod shop;

mod again;
mod buy;
mod disputes;
mod faults;
mod imported;
mod local_stripe;
mod lost;
mod newcomers;
mod orders;
mod packs;
mod personal;
mod refunds;
mod sales;
mod sandbox;
mod signatures;
mod webhooks;
