//! The operators' routes, which require the admin token.

pub(super) mod accounts;
pub(super) mod crashed;
pub(super) mod entries;
mod guesses;
pub(super) mod holds;
pub(super) mod import;
pub(super) mod keys;
pub(super) mod ledger;
pub(super) mod models;
pub(super) mod overview;
pub(super) mod payments;
mod posting;
mod state;
pub(super) mod stripe;
mod token;

pub(super) use state::Admin;
pub(super) use token::require_token;
