//! Warnings about prices by usage that are valid but probably not intended.

use crate::config::Mistake;
use crate::price::config::{PackConfig, RouteConfig};
use crate::price::margin::Margin;
use crate::price::metered::config::{CostConfig, ModelConfig, PriceConfig, RatesConfig};
use crate::price::metered::rates::Rates;
use crate::price::metered::tariff::Tariff;
use crate::price::metered::unit_price::UnitPrice;
use crate::price::metered::unit_prices::UnitPrices;
use crate::price::money::{Currency, UnitAmount};
use crate::price::pattern::{Pattern, Segment};
use crate::usage::{Kind, MeterKind};

/// Warnings about models that sell at a loss or for next to nothing, about patterns that may cover a
/// more expensive model, and about models that lack a part of their prices.
pub fn warn_of_models(models: &[ModelConfig], packs: &[PackConfig], rates: &Rates) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (index, config) in models.iter().enumerate() {
        let key = |name: &str| format!("models[{index}].{name}");
        let tariff = Tariff::of_model(config);
        if config.r#match.contains('*')
            && config.rename.as_ref().is_none_or(|name| name.contains('*'))
        {
            let message = format!(
                "every model that matches `{}` is sold at one price, also one that costs you more",
                config.r#match
            );
            let hint =
                "name the models one by one, or write `rename` with the one model that is meant";
            found.push(Mistake::new(key("match"), message, hint));
        }
        let has = |kind| tariff.base().of(kind).is_some();
        if has(Kind::Output) && !has(Kind::Input) {
            let message = format!(
                "`{}` has a price of `output` and none of `input`: input costs nothing",
                config.r#match
            );
            let hint = "write `input = …`, or `input = 0` where that is meant";
            found.push(Mistake::new(key("match"), message, hint));
        }
        if has(Kind::Input) && !has(Kind::Output) && expects_output(config) {
            let message = format!(
                "`{}` has a price of `input` and none of `output`: its answers cost nothing",
                config.r#match
            );
            let hint = "write `output = …`, or `output = 0` where that is meant";
            found.push(Mistake::new(key("match"), message, hint));
        }
        found.extend(prices_of_one_token(&key, config, packs));
        if !config.free {
            let loss = Losses { packs, rates, of: &config.r#match };
            found.extend(loss.of_model(&format!("models[{index}]"), config));
        }
    }
    found
}

/// Whether a model has a key that only a model with output has. Embeddings have none of them.
fn expects_output(config: &ModelConfig) -> bool {
    let prices = config.prices();
    config.hidden_output
        || config.max_output_tokens.is_some()
        || config.hold_output_tokens.is_some()
        || [Kind::CachedInput, Kind::CacheWrite, Kind::Reasoning, Kind::OutputAudio]
            .iter()
            .any(|kind| prices.written(*kind).is_some())
}

/// The least that a million tokens sell for, in billionths of a unit of the packs' currency: 0.001
/// EUR, say. The cheapest models cost their providers' customers ten times as much.
const LEAST_FOR_A_MILLION: u64 = 1_000_000;

/// A warning about a price of tokens that is probably the price of one token, as other price lists
/// have it.
fn prices_of_one_token(
    key: &dyn Fn(&str) -> String,
    config: &ModelConfig,
    packs: &[PackConfig],
) -> Option<Mistake> {
    let prices = config.prices();
    let mut tokens = prices.iter().filter(|(kind, price)| kind.is_token() && !price.is_zero());
    let (kind, revenue) = tokens.find_map(|(kind, price)| {
        let revenue = Margin::of_unit(price, None, packs, &Rates::default()).revenue?;
        (revenue.nanos() < LEAST_FOR_A_MILLION).then_some((kind.as_str(), revenue))
    })?;
    let message =
        format!("a million tokens of `{kind}` of `{}` sell for {revenue}", config.r#match);
    let hint =
        "prices of tokens are credits for a million: multiply the price of one token by 1000000";
    Some(Mistake::new(key(kind), message, hint))
}

/// Warnings about routes with unit prices of their own that sell a unit at a loss.
pub fn warn_of_unit_prices(
    routes: &[RouteConfig],
    packs: &[PackConfig],
    rates: &Rates,
) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        if let Some(PriceConfig::Units(units)) = &route.price {
            let loss = Losses { packs, rates, of: &route.path };
            let table = Table {
                key: format!("routes[{index}].price"),
                prices: units.prices(),
                costs: units.cost.clone(),
            };
            found.extend(loss.find(&table, &table, &[]));
        }
    }
    found
}

/// Warnings for the units of a model, or of a route, that cost the operator more than they sell for.
struct Losses<'a> {
    packs: &'a [PackConfig],
    rates: &'a Rates,
    /// The model's `match`, or the route's path.
    of: &'a str,
}

/// One table of prices in the config, with the operator's own costs in it.
#[derive(Clone)]
struct Table {
    /// The path of the table's key.
    key: String,
    prices: UnitPrices,
    costs: CostConfig,
}

impl Table {
    /// The prices and costs of calls to which this table applies, and `over` as well, whose prices
    /// and costs count first.
    fn under(&self, over: &Self) -> Self {
        Self {
            key: over.key.clone(),
            prices: self.prices.replaced_by(&over.prices),
            costs: self.costs.replaced_by(&over.costs),
        }
    }

    /// Each unit that has a price or a cost of its own. A kind that lacks one of the two has that of
    /// its parent.
    fn units(&self) -> impl Iterator<Item = Sold> + '_ {
        let request = self.costs.request.map(|cost| Sold {
            unit: "request",
            price: self.prices.request().unwrap_or_default(),
            cost,
            costs_as: "request",
        });
        let kinds = Kind::ALL.into_iter().filter_map(|kind| {
            if self.prices.written(kind).is_none() && self.costs.of(kind).is_none() {
                return None;
            }
            let (costs_as, cost) = self.costs.inherited(kind)?;
            let price = self.prices.of(kind).unwrap_or_default();
            Some(Sold { unit: kind.as_str(), price, cost, costs_as: costs_as.as_str() })
        });
        request.into_iter().chain(kinds)
    }
}

/// The price and the own cost of one unit.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sold {
    unit: &'static str,
    price: UnitPrice,
    cost: UnitAmount,
    /// The unit for which the cost is set: a kind without a cost costs as its parent.
    costs_as: &'static str,
}

impl Losses<'_> {
    /// The warnings for a model at `key`: for the calls to which no `when` and no tier applies, for
    /// those to which one of them does, and for those to which one of each does. A table costs what
    /// the model does, except where the table itself names a cost.
    fn of_model(&self, key: &str, config: &ModelConfig) -> Vec<Mistake> {
        let table = |key, prices, costs: &CostConfig| Table { key, prices, costs: costs.clone() };
        let base = table(key.to_owned(), config.prices(), &config.cost);
        let tiers: Vec<Table> = config
            .above
            .iter()
            .enumerate()
            .map(|(at, tier)| table(format!("{key}.above[{at}]"), tier.prices(), &tier.cost))
            .collect();
        let whens = config
            .when
            .iter()
            .enumerate()
            .map(|(at, when)| table(format!("{key}.when[{at}]"), when.prices(), &when.cost));
        let mut found = self.find(&base, &base, &[]);
        let tiered: Vec<Table> = tiers.iter().map(|tier| base.under(tier)).collect();
        for (tier, all) in tiers.iter().zip(&tiered) {
            found.extend(self.find(tier, all, &[&base]));
        }
        for when in whens {
            let after_when = base.under(&when);
            found.extend(self.find(&when, &after_when, &[&base]));
            for (tier, without_when) in tiers.iter().zip(&tiered) {
                let both = after_when.under(tier);
                found.extend(self.find(tier, &both, &[&base, &after_when, without_when]));
            }
        }
        found
    }

    /// The warnings for the units that `all` sells at a loss, but not for those that one of `told`
    /// sells at the same price and cost. `all` are the prices and costs of calls to which `own`
    /// applies.
    fn find(&self, own: &Table, all: &Table, told: &[&Table]) -> Vec<Mistake> {
        let is_told = |sold: &Sold| told.iter().any(|table| table.units().any(|one| one == *sold));
        let lost = all.units().filter(|sold| !is_told(sold));
        lost.filter_map(|sold| self.loss(own, sold)).collect()
    }

    /// The warning for a unit of the table `own`, if it is sold at a loss.
    fn loss(&self, own: &Table, Sold { unit, price, cost, costs_as }: Sold) -> Option<Mistake> {
        let Margin { revenue, .. } = Margin::of_unit(price, Some(cost), self.packs, self.rates);
        let revenue = revenue?;
        let comparable = self.rates.convert(cost, revenue.currency())?;
        if revenue.nanos() >= comparable.nanos() {
            return None;
        }
        let is_inherited = costs_as != unit;
        let as_parent = if is_inherited { format!(", as `{costs_as}`") } else { String::new() };
        let message =
            format!("`{unit}` of `{}` sells for {revenue} and costs {cost}{as_parent}", self.of);
        let remedy = if is_inherited { "add" } else { "correct" };
        let hint =
            format!("raise `{unit}`, or {remedy} its `cost`; `farebox prices` shows every margin");
        let is_written = own.costs.units().any(|(name, _)| name == unit);
        let key = if is_written { format!("cost.{unit}") } else { unit.to_owned() };
        Some(Mistake::new(format!("{}.{key}", own.key), message, hint))
    }
}

/// The number of days after which rates count as old.
const MAX_RATE_AGE_DAYS: i64 = 92;

/// Warnings about rates that are old or unused. `today` is the number of days since 1970.
pub fn warn_of_rates(
    config: &RatesConfig,
    routes: &[RouteConfig],
    models: &[ModelConfig],
    today: i64,
) -> Vec<Mistake> {
    let mut found = Vec::new();
    let of_models = models.iter().flat_map(ModelConfig::costs);
    let of_models = of_models.flat_map(|(_, cost)| cost.units()).map(|(_, cost)| cost);
    let of_routes = routes.iter().flat_map(RouteConfig::unit_costs).map(|(_, cost)| cost);
    let costs = of_models.chain(of_routes).chain(routes.iter().filter_map(|route| route.cost));
    let used: Vec<Currency> = costs.map(|cost| cost.currency()).collect();
    for code in config.worth.keys() {
        if code.parse().is_ok_and(|currency| !used.contains(&currency)) {
            let message = format!("no cost is in {code}, so this rate is not used");
            found.push(Mistake::new(format!("rates.{code}"), message, "remove it"));
        }
    }
    if let Some(date) = config.as_of {
        let age = today - days_since_1970(date.year.into(), date.month.into(), date.day.into());
        if age > MAX_RATE_AGE_DAYS {
            let message = format!("the rates are {age} days old, so margins may be wrong");
            let hint = "look them up again, and write the day into `as_of`";
            found.push(Mistake::new("rates.as_of", message, hint));
        }
    }
    found
}

/// The number of days from 1970-01-01 to a day of the Gregorian calendar.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March here, so that the leap day is its last day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Segments of a provider's paths below which the data belong to the provider's key, and not to the
/// account that calls.
const SHARED: [&str; 11] = [
    "files",
    "uploads",
    "threads",
    "assistants",
    "conversations",
    "vector_stores",
    "containers",
    "batches",
    "fine_tuning",
    "evals",
    "cachedcontents",
];

/// The member of a request that continues a response which the provider has stored.
const CONTINUES: &str = "previous_response_id";

/// Warnings about routes through which one account may read another's data at the provider, about
/// routes with the meter of another provider, and about routes without `hold` whose models charge
/// by the second, because no request says how many seconds it will take.
pub fn warn_of_metered(routes: &[RouteConfig], models: &[ModelConfig]) -> Vec<Mistake> {
    let mut found = Vec::new();
    let sells_by_usage = routes.iter().any(|route| route.price.is_some());
    for (index, route) in routes.iter().enumerate() {
        let key = |name: &str| format!("routes[{index}].{name}");
        let Ok(pattern) = Pattern::parse(&route.path) else { continue };
        if let Some(data) = shared_data(&pattern, sells_by_usage) {
            let message = format!(
                "`{}` reaches {data} at the provider, where all accounts share your key: one can read another's",
                route.path
            );
            let hint = "remove the route, unless the upstream keeps its callers apart";
            found.push(Mistake::new(key("path"), message, hint));
        }
        if let Some((theirs, meter)) = other_shape(&pattern, route.meter.as_ref()) {
            let message = format!(
                "`{}` is a path of {theirs}, whose usage this meter does not read: calls are not charged what they used",
                route.path
            );
            let hint = format!(
                "write meter = \"{meter}\", unless the upstream answers in another shape there"
            );
            found.push(Mistake::new(key("meter"), message, hint));
        }
        let continues = last_literal(&pattern) == Some("responses") && route.price.is_some();
        let denies = route.deny.iter().flatten().any(|name| name == CONTINUES);
        let models = || models.iter().filter(|_| route.price == Some(PriceConfig::Models));
        if continues && !denies && models().any(|model| model.max_input_tokens.is_some()) {
            let message = format!(
                "`{}` lets `{CONTINUES}` through: an account that learns an id can continue another's conversation",
                route.path
            );
            let hint = format!("add deny = [\"{CONTINUES}\", \"conversation\"]");
            found.push(Mistake::new(key("path"), message, hint));
        }
        let by_second = models()
            .find(|model| model.prices().of(Kind::Second).is_some_and(|price| !price.is_zero()));
        if let Some(model) = by_second.filter(|_| route.hold.is_none()) {
            let message = format!(
                "no request says how many seconds it takes, so nothing is held for those of `{}`",
                model.r#match
            );
            let hint = "add `hold = …` to the route: the credits that one call may need";
            found.push(Mistake::new(key("price"), message, hint));
        }
    }
    found
}

/// The provider whose path this is, and the name of its meter, if `meter` is that of another
/// provider.
fn other_shape(
    pattern: &Pattern,
    meter: Option<&MeterKind>,
) -> Option<(&'static str, &'static str)> {
    let literals = pattern.segments().iter().map(|segment| match segment {
        Segment::Literal(text) => &**text,
        _ => "",
    });
    let literals: Vec<&str> = literals.collect();
    match (literals.as_slice(), meter?) {
        ([.., "v1", "messages"], MeterKind::OpenAi) => Some(("Anthropic's", "anthropic")),
        (
            [.., "chat", "completions"]
            | [.., "images", "generations" | "edits"]
            | [.., "v1", "completions" | "responses" | "embeddings"],
            MeterKind::Anthropic,
        ) => Some(("OpenAI's", "openai")),
        _ => None,
    }
}

/// The shared data of a provider that a path reaches. A pattern for everything below `/v1` counts
/// only if the config sells by usage.
fn shared_data(pattern: &Pattern, sells_by_usage: bool) -> Option<String> {
    let segments = pattern.segments();
    let literal = |segment: &Segment| match segment {
        Segment::Literal(text) => Some(text.to_ascii_lowercase()),
        _ => None,
    };
    let named = segments.iter().filter_map(literal).find(|text| SHARED.contains(&text.as_str()));
    if let Some(name) = named {
        return Some(format!("`{name}`"));
    }
    match segments {
        [.., Segment::Literal(first), Segment::One | Segment::Rest] if &**first == "responses" => {
            Some("stored responses".to_owned())
        }
        [Segment::Literal(first), Segment::Rest] if sells_by_usage && first.starts_with('v') => {
            Some("files and stored responses".to_owned())
        }
        _ => None,
    }
}

fn last_literal(pattern: &Pattern) -> Option<&str> {
    match pattern.segments().last()? {
        Segment::Literal(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
#[path = "warnings_tests.rs"]
mod tests;
