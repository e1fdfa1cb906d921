//! The state that the admin routes share.

use std::sync::Arc;

use crate::api::admin::guesses::Guesses;
use crate::app::App;
use crate::config::Secret;

/// The state of the admin routes' handlers.
#[derive(Clone)]
pub(in crate::api) struct Admin {
    pub app: Arc<App>,
    pub token: Secret,
    pub guesses: Arc<Guesses>,
}
