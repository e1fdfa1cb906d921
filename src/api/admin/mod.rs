//! What operators do, behind the admin token.

pub(super) mod accounts;
pub(super) mod crashed;
pub(super) mod entries;
pub(super) mod holds;
pub(super) mod import;
pub(super) mod keys;
pub(super) mod ledger;
pub(super) mod overview;
pub(super) mod payments;
pub(super) mod stripe;
mod token;

use std::sync::Arc;

pub(super) use token::{Guesses, require_token};

use crate::app::App;
use crate::config::Secret;

/// What the admin routes need.
#[derive(Clone)]
pub(super) struct Admin {
    pub app: Arc<App>,
    pub token: Secret,
    pub guesses: Arc<Guesses>,
}
