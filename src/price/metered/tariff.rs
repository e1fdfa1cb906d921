//! The prices of a model or of a route, with the conditions that change them.

use std::collections::BTreeMap;

use crate::price::metered::condition::Condition;
use crate::price::metered::config::{CostConfig, ModelConfig, UnitsConfig};
use crate::price::metered::unit_prices::UnitPrices;
use crate::price::metered::wanted::WantedValue;

/// The most tokens of output that a hold covers, unless the model names another number.
pub const DEFAULT_MAX_OUTPUT_TOKENS: u64 = 8192;

/// The tokens of output that the hold of a stream covers at first, unless the model names another
/// number.
pub const DEFAULT_HOLD_OUTPUT_TOKENS: u64 = 2048;

/// The tokens that an image in a request counts as, unless the model names another number.
/// Providers count hardly more than this for one image.
pub const DEFAULT_IMAGE_TOKENS: u64 = 2000;

/// The prices of a model, or of a route with unit prices of its own. First a `when` replaces prices
/// depending on the request. Then a tier replaces prices depending on the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    pub(super) base: UnitPrices,
    /// The conditional prices. The first one whose condition holds replaces the prices that it
    /// names. There are at most [`MAX_WHENS`].
    pub(super) whens: Box<[When]>,
    /// The tiers, from the lowest bound to the highest.
    pub(super) tiers: Box<[Tier]>,
    pub(super) is_free: bool,
    pub(super) caps: Caps,
    /// The operator's own costs.
    cost: CostConfig,
}

/// The most `when` entries of a model. A quote keeps one bit of a `u64` for each.
pub(super) const MAX_WHENS: usize = 64;

/// The limits of a model on the amounts that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// The most tokens of input that a call can have, if that is known.
    pub max_input_tokens: Option<u64>,
    /// The most tokens of output that a hold covers, for each answer.
    pub max_output_tokens: u64,
    /// The tokens of output that the hold of a stream covers at first, for each answer.
    pub hold_output_tokens: u64,
    /// The tokens that an image in a request counts as.
    pub image_tokens: u64,
}

/// The prices of requests with certain members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct When {
    pub(super) condition: Condition,
    pub(super) prices: UnitPrices,
    /// The operator's own costs that differ from the base costs.
    cost: CostConfig,
}

/// The prices of calls with more input than a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tier {
    /// The tier applies to calls with more tokens of input than this.
    pub(super) above: u64,
    pub(super) prices: UnitPrices,
    /// The operator's own costs that differ from the base costs.
    cost: CostConfig,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            max_input_tokens: None,
            max_output_tokens: DEFAULT_MAX_OUTPUT_TOKENS,
            hold_output_tokens: DEFAULT_HOLD_OUTPUT_TOKENS,
            image_tokens: DEFAULT_IMAGE_TOKENS,
        }
    }
}

impl Tariff {
    /// Reads the prices of a model. `check_models` reports prices that make no sense.
    pub(super) fn of_model(config: &ModelConfig) -> Self {
        let whens = config.when.iter().take(MAX_WHENS).map(|when| {
            let wanted =
                when.r#if.iter().map(|(name, value)| (name.as_str().into(), value.clone()));
            let (condition, prices) = (Condition::new(wanted), when.prices());
            When { condition, prices, cost: when.cost.clone() }
        });
        let tiers = config.above.iter().map(|tier| Tier {
            above: tier.input_tokens,
            prices: tier.prices(),
            cost: tier.cost.clone(),
        });
        let mut tiers: Vec<Tier> = tiers.collect();
        tiers.sort_by_key(|tier| tier.above);
        let or_default = Caps::default();
        Self {
            base: config.prices(),
            whens: whens.collect(),
            tiers: tiers.into(),
            is_free: config.free,
            caps: Caps {
                max_input_tokens: config.max_input_tokens,
                max_output_tokens: config.max_output_tokens.unwrap_or(or_default.max_output_tokens),
                hold_output_tokens: config
                    .hold_output_tokens
                    .unwrap_or(or_default.hold_output_tokens),
                image_tokens: config.image_tokens.unwrap_or(or_default.image_tokens),
            },
            cost: config.cost.clone(),
        }
    }

    /// Reads the unit prices of a route.
    pub(in crate::price) fn of_route(config: &UnitsConfig) -> Self {
        Self {
            base: config.prices(),
            whens: Box::default(),
            tiers: Box::default(),
            is_free: false,
            caps: Caps::default(),
            cost: config.cost.clone(),
        }
    }

    /// The prices of a call to which no `when` and no tier applies.
    pub fn base(&self) -> &UnitPrices {
        &self.base
    }

    /// The limits on the amounts that are held.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Whether every call costs nothing.
    pub fn is_free(&self) -> bool {
        self.is_free
    }

    /// The bound of each tier with its prices, from the lowest bound to the highest.
    pub fn tiers(&self) -> impl Iterator<Item = (u64, &UnitPrices)> {
        self.tiers.iter().map(|tier| (tier.above, &tier.prices))
    }

    /// The operator's own costs of a call to which no `when` and no tier applies.
    pub fn cost(&self) -> &CostConfig {
        &self.cost
    }

    /// The own costs of each tier, in the order of [`Self::tiers`].
    pub fn tier_costs(&self) -> impl Iterator<Item = CostConfig> {
        self.tiers.iter().map(|tier| self.cost.replaced_by(&tier.cost))
    }

    /// The own costs of each `when`, in the order of [`Self::whens`].
    pub fn when_costs(&self) -> impl Iterator<Item = CostConfig> {
        self.whens.iter().map(|when| self.cost.replaced_by(&when.cost))
    }

    /// The members that each `when` wants, with the prices that replace others.
    pub fn whens(&self) -> impl Iterator<Item = (BTreeMap<&str, &WantedValue>, &UnitPrices)> {
        self.whens.iter().map(|when| (when.condition.wanted().collect(), &when.prices))
    }

    /// The top-level members of a request on which the price depends.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.whens.iter().flat_map(|when| when.condition.wanted().map(|(name, _)| name))
    }

    /// The prices of all tiers that apply to any input from 0 to `input_tokens`. `after_when` are
    /// the prices after `when` has replaced some.
    pub(super) fn up_to(
        &self,
        after_when: &UnitPrices,
        input_tokens: u64,
    ) -> impl Iterator<Item = UnitPrices> {
        let reached = self.tiers.iter().filter(move |tier| input_tokens > tier.above);
        let tiered = reached.map(|tier| after_when.replaced_by(&tier.prices));
        std::iter::once(*after_when).chain(tiered)
    }

    /// The prices of a call with `input_tokens` tokens of input. `after_when` are the prices after
    /// `when` has replaced some.
    pub(super) fn tiered(&self, after_when: &UnitPrices, input_tokens: u64) -> UnitPrices {
        let reached = self.tiers.iter().rev().find(|tier| input_tokens > tier.above);
        reached.map_or(*after_when, |tier| after_when.replaced_by(&tier.prices))
    }
}
