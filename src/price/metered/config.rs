//! `[[models]]`, `[rates]` and the prices by usage of a route, as written in gateway.toml.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::config::Size;
use crate::price::metered::unit_price::UnitPrice;
use crate::price::metered::unit_prices::UnitPrices;
use crate::price::metered::wanted::WantedValue;
use crate::price::money::UnitAmount;
use crate::usage::Kind;

/// The price by usage of a route: `"models"`, or a table of unit prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PriceConfig {
    /// `price = "models"`: by the table of models.
    Models,
    /// `price = { request = 0.5, image = 4 }`: the prices of the route itself.
    Units(Box<UnitsConfig>),
}

/// The `answer` of a route to which Farebox itself responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnAnswer {
    /// The list of models, in OpenAI's shape.
    Models,
}

/// The charge for an answer that does not report its usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMissingUsage {
    /// An estimate. The input counts as much as the hold covers, and the output is estimated from
    /// the delivered text.
    #[default]
    Estimate,
    /// The whole hold.
    Hold,
    /// No charge.
    Release,
}

/// The charge if the usage costs more than the hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOverrun {
    /// The whole cost, so that the balance may become negative.
    #[default]
    Debt,
    /// The amount of the hold. The rest is not charged.
    Cap,
}

/// The action if the account cannot pay the hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnShort {
    /// The call is refused with 402.
    #[default]
    Refuse,
    /// The request's output limit is lowered to an amount that the account can pay.
    Shorten,
}

/// The largest body of a metered request, unless its route has a limit of its own: 16 MiB.
pub const DEFAULT_MAX_BODY: Size = Size::from_mib(16);

/// Usage that costs more than this many times the hold is not believed, unless the route has a
/// limit of its own.
pub const DEFAULT_MAX_OVERRUN: u32 = 10;

/// Declares a struct that has the given keys and a price for each kind of usage.
macro_rules! with_prices {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            /// The price of a call, whatever it uses.
            pub request: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::Input`].
            pub input: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::CachedInput`].
            pub cached_input: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::CacheWrite`].
            pub cache_write: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::CacheWrite1h`].
            pub cache_write_1h: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::InputAudio`].
            pub input_audio: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::InputImage`].
            pub input_image: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::Output`].
            pub output: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::Reasoning`].
            pub reasoning: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::OutputAudio`].
            pub output_audio: Option<UnitPrice>,
            /// The price of a million tokens of [`Kind::OutputImage`].
            pub output_image: Option<UnitPrice>,
            /// The price of an image that was made.
            pub image: Option<UnitPrice>,
            /// The price of a second of audio or video.
            pub second: Option<UnitPrice>,
            /// The price of a character.
            pub character: Option<UnitPrice>,
            /// The price of a search.
            pub search: Option<UnitPrice>,
        }

        impl $name {
            /// The prices that are set, in the order of [`Kind::ALL`].
            pub(super) fn prices(&self) -> UnitPrices {
                let kinds = Kind::ALL.map(|kind| match kind {
                    Kind::Input => self.input,
                    Kind::CachedInput => self.cached_input,
                    Kind::CacheWrite => self.cache_write,
                    Kind::CacheWrite1h => self.cache_write_1h,
                    Kind::InputAudio => self.input_audio,
                    Kind::InputImage => self.input_image,
                    Kind::Output => self.output,
                    Kind::Reasoning => self.reasoning,
                    Kind::OutputAudio => self.output_audio,
                    Kind::OutputImage => self.output_image,
                    Kind::Image => self.image,
                    Kind::Second => self.second,
                    Kind::Character => self.character,
                    Kind::Search => self.search,
                });
                UnitPrices::new(self.request, kinds)
            }
        }
    };
}

with_prices! {
    /// The unit prices of a route, without a model.
    pub struct UnitsConfig {
        /// The operator's own cost of a unit of each kind.
        #[serde(default)]
        cost: CostConfig,
    }
}

with_prices! {
    /// One of the `above` tables of a model: prices of calls with more input.
    pub struct TierConfig {
        /// The tier applies to calls with more tokens of input than this, of all kinds together.
        input_tokens: u64,
        /// The operator's own costs of such a call, if they differ.
        #[serde(default)]
        cost: CostConfig,
    }
}

with_prices! {
    /// One of the `when` tables of a model: prices of calls whose requests have certain members.
    pub struct WhenConfig {
        /// The top-level members of the request, with the value that each must have.
        r#if: BTreeMap<String, WantedValue>,
        /// The operator's own costs of such a call, if they differ.
        #[serde(default)]
        cost: CostConfig,
    }
}

with_prices! {
    /// One `[[models]]`: the prices of a model, or of several models with one pattern.
    pub struct ModelConfig {
        /// The `model` of the requests: a name, or a pattern with `*`. ASCII case is ignored.
        r#match: String,
        /// The upstream of the model, in place of the route's.
        upstream: Option<String>,
        /// The model's name at the upstream, which replaces the name in the request.
        rename: Option<String>,
        /// Whether calls of this model cost nothing.
        #[serde(default)]
        free: bool,
        /// Whether the model thinks in tokens that a stream does not show. If so, a stream is read
        /// to its end even after its client has left, for its usage.
        #[serde(default)]
        hidden_output: bool,
        /// The prices of calls with much input.
        #[serde(default)]
        above: Vec<TierConfig>,
        /// The prices of calls whose requests have certain members. The first entry that matches
        /// counts.
        #[serde(default)]
        when: Vec<WhenConfig>,
        /// The most tokens of input that a call of the model can have.
        max_input_tokens: Option<u64>,
        /// The most tokens of output that a hold covers, for each answer.
        max_output_tokens: Option<u64>,
        /// The tokens of output that the hold of a stream covers at first, for each answer.
        hold_output_tokens: Option<u64>,
        /// The tokens that an image in a request counts as, until the provider reports its own
        /// number.
        image_tokens: Option<u64>,
        /// The operator's own cost for each kind of usage.
        #[serde(default)]
        cost: CostConfig,
    }
}

/// The operator's own costs of a model: for a million tokens, or for one unit of another kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CostConfig {
    /// The cost of a call, whatever it uses.
    pub request: Option<UnitAmount>,
    /// The costs of kinds, in the order of the config.
    pub kinds: Vec<(Kind, UnitAmount)>,
}

impl CostConfig {
    /// The cost that is set for `kind`.
    pub fn of(&self, kind: Kind) -> Option<UnitAmount> {
        self.kinds.iter().find(|(other, _)| *other == kind).map(|(_, cost)| *cost)
    }

    /// The cost of `kind`: its own, or its nearest parent's ([`Kind::parent`]). Also returns the kind
    /// for which that cost is set.
    pub fn inherited(&self, kind: Kind) -> Option<(Kind, UnitAmount)> {
        let mut kinds = std::iter::successors(Some(kind), |kind| kind.parent());
        kinds.find_map(|kind| Some((kind, self.of(kind)?)))
    }

    /// Each cost that is written, with the name of its unit.
    pub(in crate::price) fn units(&self) -> impl Iterator<Item = (&'static str, UnitAmount)> {
        let kinds = self.kinds.iter().map(|(kind, cost)| (kind.as_str(), *cost));
        self.request.iter().map(|cost| ("request", *cost)).chain(kinds)
    }

    /// These costs, except that a cost which `others` sets is taken from `others`.
    #[must_use]
    pub fn replaced_by(&self, others: &Self) -> Self {
        let kept = self.kinds.iter().filter(|(kind, _)| others.of(*kind).is_none());
        Self {
            request: others.request.or(self.request),
            kinds: kept.chain(&others.kinds).copied().collect(),
        }
    }
}

impl ModelConfig {
    /// Each table of own costs, with the path of its key in the model.
    pub(super) fn costs(&self) -> impl Iterator<Item = (String, &CostConfig)> {
        let above = self.above.iter().map(|tier| &tier.cost).enumerate();
        let when = self.when.iter().map(|when| &when.cost).enumerate();
        std::iter::once(("cost".to_owned(), &self.cost))
            .chain(above.map(|(at, cost)| (format!("above[{at}].cost"), cost)))
            .chain(when.map(|(at, cost)| (format!("when[{at}].cost"), cost)))
    }
}

/// `[rates]`: the value of one unit of a currency in another, such as `USD = "0.86 EUR"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RatesConfig {
    /// The day on which the rates were looked up, `as_of = 2026-11-30`.
    pub as_of: Option<toml::value::Date>,
    /// Each currency as written, with its value.
    pub worth: BTreeMap<String, UnitAmount>,
}

impl<'de> Deserialize<'de> for PriceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Price;
        impl<'de> de::Visitor<'de> for Price {
            type Value = PriceConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"models\" or a table of prices such as { request = 0.5, image = 4 }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PriceConfig, E> {
                if text == "models" {
                    return Ok(PriceConfig::Models);
                }
                Err(E::custom(format_args!(
                    "`{text}` is no price by usage; write \"models\", a table such as \
                     {{ image = 4 }}, or `credits = …` for a fixed price"
                )))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PriceConfig, A::Error> {
                let units = UnitsConfig::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(PriceConfig::Units(Box::new(units)))
            }
        }
        deserializer.deserialize_any(Price)
    }
}

impl<'de> Deserialize<'de> for CostConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A key of the `cost` table.
        enum Unit {
            Request,
            Of(Kind),
        }
        impl<'de> Deserialize<'de> for Unit {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                match name.as_str() {
                    "request" => Ok(Self::Request),
                    kind => Kind::deserialize(de::value::StrDeserializer::new(kind)).map(Self::Of),
                }
            }
        }
        struct Costs;
        impl<'de> de::Visitor<'de> for Costs {
            type Value = CostConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of costs such as { input = \"2.50 USD\" }")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<CostConfig, A::Error> {
                let mut costs = CostConfig::default();
                while let Some(unit) = map.next_key::<Unit>()? {
                    let amount = map.next_value()?;
                    match unit {
                        Unit::Request => costs.request = Some(amount),
                        Unit::Of(kind) => costs.kinds.push((kind, amount)),
                    }
                }
                Ok(costs)
            }
        }
        deserializer.deserialize_any(Costs)
    }
}

impl<'de> Deserialize<'de> for RatesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rates;
        impl<'de> de::Visitor<'de> for Rates {
            type Value = RatesConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of rates such as USD = \"0.86 EUR\"")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<RatesConfig, A::Error> {
                let mut rates = RatesConfig::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "as_of" {
                        rates.as_of = Some(map.next_value()?);
                    } else {
                        rates.worth.insert(name, map.next_value()?);
                    }
                }
                Ok(rates)
            }
        }
        deserializer.deserialize_map(Rates)
    }
}
