//! What a call costs. Pure: no I/O, no clock, no proxy.
//!
//! A request's path is made canonical once ([`CanonicalPath`]), and the same bytes are priced
//! and forwarded. The [`PriceTable`] finds the one [`Route`] with the most exact [`Pattern`],
//! and answers with a [`Quote`] or a refusal; what nobody priced is never free.
//!
//! The rules come from `[[routes]]` and `[[packs]]` ([`RouteConfig`], [`PackConfig`]), are
//! checked as a whole ([`check_routes`], [`check_packs`]; [`foreign_patterns`] and [`sold_at_a_loss`]
//! warn), and are shown to callers without what
//! is the operator's business ([`ListedPrice`], [`ListedPack`]) and to the operator with it
//! ([`Margin`], [`render_report`]).
//!
//! Credits and money are integers ([`crate::credits::Credits`], [`Price`], [`UnitAmount`]).

mod check;
mod config;
mod currency;
mod doubts;
mod listing;
mod lookalikes;
mod margin;
mod money;
mod path;
mod pattern;
mod report;
mod route;
mod table;
mod tree;

pub use check::{check_packs, check_routes, lookalike_routes, no_routes};
pub use config::{OnClientAbort, PackConfig, RouteConfig, StatusClass};
pub use currency::Currency;
pub use doubts::{foreign_patterns, sold_at_a_loss};
pub use listing::{ListedPack, ListedPrice, list_packs, list_prices};
pub use margin::{Margin, credit_price};
pub use money::{MAX_MINOR, MoneyError, Price, UnitAmount};
pub use path::{CanonicalPath, MAX_PATH_BYTES, PathRefusal};
pub use pattern::{Pattern, PatternError, Segment};
pub use report::render_report;
pub use route::{Methods, Route};
pub use table::{PriceTable, Quote, QuoteRefusal};
