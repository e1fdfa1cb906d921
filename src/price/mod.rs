//! The price of a call. Pure: no I/O, no clock, no proxy.
//!
//! A request's path is made canonical once ([`CanonicalPath`]), and the same bytes are priced and
//! forwarded. The [`PriceTable`] finds the one [`Route`] with the most exact [`Pattern`], and
//! answers with a [`Quote`] or a refusal; a path without a price is never free.
//!
//! A metered route has no price before its request is read: [`metered`] has the models and their
//! prices, quotes a request and charges its usage.
//!
//! The rules come from `[[routes]]` and `[[packs]]` ([`RouteConfig`], [`PackConfig`]). They are
//! checked as a whole ([`check_routes`], [`check_packs`]; [`foreign_patterns`] and
//! [`sold_at_a_loss`] warn). Callers see them without costs ([`ListedPrice`], [`ListedPack`]), the
//! operator with costs and margins ([`Margin`], [`render_report`]).
//!
//! Credits and money are integers ([`crate::credits::Credits`], [`Price`], [`UnitAmount`]).

mod check;
mod config;
mod listing;
mod lookalikes;
mod margin;
pub mod metered;
mod metering;
mod money;
mod path;
mod pattern;
mod report;
mod route;
mod table;
mod version;
mod warnings;

pub use check::{check_packs, check_routes};
pub use config::{OnClientAbort, PackConfig, RouteConfig, StatusClass};
pub use listing::{
    Listed, ListedModel, ListedPack, ListedPrice, ListedUsage, list_packs, list_prices,
};
pub use margin::{Margin, credit_price};
pub use metering::{KEYS_BESIDE_PRICE, Metering, RoutePrice};
pub use money::{Currency, MAX_MINOR, MoneyError, Price, UnitAmount};
pub use path::{CanonicalPath, MAX_PATH_BYTES, PathRefusal};
pub use pattern::{Pattern, PatternError, Segment};
pub use report::{render_models, render_report};
pub use route::{Methods, Route};
pub use table::{PriceTable, Quote, QuoteRefusal};
pub use version::PricesVersion;
pub use warnings::{foreign_patterns, lookalike_routes, no_routes, sold_at_a_loss};
