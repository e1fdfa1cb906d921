//! The parts of a gateway that the proxy and Farebox's own routes share: they identify callers, quote calls, and make
//! the problems for refusals.

mod quote;
mod shared;

pub use quote::{BodyQuote, names_model, quote_body};
pub(crate) use shared::USAGE_TARGET;
pub use shared::{App, Catalogue, Usage, log_usage, refuse_path, refuse_quote};
