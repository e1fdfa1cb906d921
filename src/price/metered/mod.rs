//! Prices by usage: the table of models, the quote for a request, and the charge for its usage.
//!
//! A [`Tariff`] has the prices of a model or of a route. [`Models`] finds the tariff of a request's
//! model. [`quote`] says how much is held for a request, and [`MeteredQuote::charge`] how much its
//! usage costs. Sums are exact, and are rounded up once, at the end, to a micro-credit.

mod check;
mod condition;
mod config;
mod models;
mod own_cost;
mod pattern;
mod quote;
mod rates;
mod tariff;
mod unit_price;
mod unit_prices;
mod wanted;
mod warnings;

pub use check::{check_metered_routes, check_models};
pub use config::{
    CostConfig, DEFAULT_MAX_BODY, DEFAULT_MAX_OVERRUN, ModelConfig, OnMissingUsage, OnOverrun,
    OnShort, OwnAnswer, PriceConfig, RatesConfig, TierConfig, UnitsConfig, WhenConfig,
};
pub use models::{Listing, Model, Models};
pub use own_cost::OwnCost;
pub use pattern::{MAX_MODEL_BYTES, ModelPattern, ModelPatternError, is_model_name};
pub use quote::{Charge, MeteredQuote, MeteredRefusal, quote};
pub use rates::{Rates, check_rates};
pub use tariff::{Caps, Tariff};
pub use unit_price::{UnitPrice, UnitPriceError};
pub use unit_prices::{UnitPrices, Unpriced};
pub use wanted::WantedValue;
pub use warnings::{warn_of_metered, warn_of_models, warn_of_rates, warn_of_unit_prices};
