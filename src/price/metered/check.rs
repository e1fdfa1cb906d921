//! Checks the models as a whole.

use crate::config::{Mistake, within};
use crate::price::check::{foreign_cost, unknown_upstream};
use crate::price::config::RouteConfig;
use crate::price::metered::config::{ModelConfig, OwnAnswer, PriceConfig};
use crate::price::metered::pattern::{ModelPattern, is_model_name};
use crate::price::metered::rates::Rates;
use crate::price::metered::tariff::{DEFAULT_MAX_OUTPUT_TOKENS, MAX_WHENS, Tariff};
use crate::price::metered::unit_prices::UnitPrices;
use crate::price::money::Currency;
use crate::usage::{Kind, MAX_COUNT};

/// The mistakes in `[[models]]`. `upstreams` are the names of the `[[upstreams]]`, and `currency`
/// is the packs' currency, if there are packs.
pub fn check_models(
    configs: &[ModelConfig],
    upstreams: &[&str],
    currency: Option<Currency>,
    rates: &Rates,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut earlier: Vec<ModelPattern> = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let key = |name: &str| format!("models[{index}].{name}");
        match ModelPattern::parse(&config.r#match) {
            Ok(pattern) => {
                mistakes.extend(overlap(&key("match"), &pattern, &earlier));
                mistakes.extend(senseless_rename(&key("rename"), config, &pattern));
                earlier.push(pattern);
            }
            Err(error) => mistakes.push(explained(key("match"), &error.to_string())),
        }
        if let Some(name) = config.upstream.as_deref().filter(|name| !upstreams.contains(name)) {
            mistakes.push(unknown_upstream(&key("upstream"), name, upstreams));
        }
        mistakes.extend(senseless_prices(index, config));
        mistakes.extend(senseless_whens(&key, config));
        mistakes.extend(senseless_tiers(&key, config));
        mistakes.extend(senseless_caps(&key, config));
        if let Some(currency) = currency {
            for (at, cost) in config.costs() {
                mistakes.extend(cost.units().filter_map(|(unit, cost)| {
                    foreign_cost(&key(&format!("{at}.{unit}")), cost, currency, rates)
                }));
            }
        }
    }
    mistakes
}

/// The mistakes in metered routes that depend on the models: a route that is priced by models needs
/// at least one model.
pub fn check_metered_routes(routes: &[RouteConfig], models: &[ModelConfig]) -> Vec<Mistake> {
    if !models.is_empty() {
        return Vec::new();
    }
    let found = routes.iter().enumerate().filter_map(|(index, route)| {
        let key = if route.price == Some(PriceConfig::Models) {
            "price"
        } else if route.answer == Some(OwnAnswer::Models) {
            "answer"
        } else {
            return None;
        };
        let message = "no model has a price: every model of this route would be unknown";
        let hint = "add [[models]] with match, input and output, here or in the `models_file`";
        Some(Mistake::new(format!("routes[{index}].{key}"), message, hint))
    });
    found.collect()
}

/// A mistake whose remedy follows a semicolon.
fn explained(key: String, error: &str) -> Mistake {
    let (message, hint) = error.split_once("; ").unwrap_or((error, ""));
    Mistake::new(key, message, hint)
}

/// The mistake of a pattern that shares a name with an earlier pattern of the same length. Neither
/// would be the longer match for that name.
fn overlap(key: &str, pattern: &ModelPattern, earlier: &[ModelPattern]) -> Option<Mistake> {
    let clashes = |other: &ModelPattern| {
        other.is_exact() == pattern.is_exact()
            && other.length() == pattern.length()
            && other.overlaps(pattern)
    };
    let other = earlier.iter().find(|other| clashes(other))?;
    let message = if pattern == other {
        format!("`{pattern}` has its prices in an earlier [[models]]")
    } else {
        format!("some models match both `{pattern}` and `{other}`, which is as long")
    };
    let hint = if pattern == other {
        "keep one of the two; case does not count"
    } else {
        "make the one longer that is meant to win, or name the models one by one"
    };
    Some(Mistake::new(key, message, hint))
}

fn senseless_rename(key: &str, config: &ModelConfig, pattern: &ModelPattern) -> Option<Mistake> {
    let rename = config.rename.as_deref()?;
    let stars = rename.matches('*').count();
    if !is_model_name(rename) || matches!(rename, "." | "..") {
        let message = format!("`{rename}` is no name of a model");
        return Some(Mistake::new(key, message, "write 1 to 255 visible ASCII characters"));
    }
    if stars > 1 || stars == 1 && pattern.stars() != 1 {
        let message = "it is not clear what the `*` of `rename` stands for".to_owned();
        let hint = "write one `*` in `match` and one in `rename`, or a plain name";
        return Some(Mistake::new(key, message, hint));
    }
    None
}

/// The mistake of a model that costs nothing without `free`, or that has `free` and prices.
fn senseless_prices(index: usize, config: &ModelConfig) -> Option<Mistake> {
    let base = config.prices();
    let changes = config.when.iter().map(|when| when.prices());
    let changes = changes.chain(config.above.iter().map(|tier| tier.prices()));
    let has_price = std::iter::once(base).chain(changes).any(|prices| !prices.is_free());
    match (config.free, base.is_free()) {
        (true, _) if has_price => {
            let message = "a model with `free = true` has prices above 0".to_owned();
            let key = format!("models[{index}].free");
            Some(Mistake::new(key, message, "remove `free`, or the prices"))
        }
        (false, true) => {
            let message = format!("`{}` has no price above 0", config.r#match);
            let hint = "write its prices, such as input = 250 and output = 1000, or `free = true`";
            // The mistake is reported for the whole model: if one of its keys could not be read,
            // that key may have been its price.
            Some(Mistake::new(format!("models[{index}]"), message, hint))
        }
        _ => None,
    }
}

fn senseless_whens(key: &dyn Fn(&str) -> String, config: &ModelConfig) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let tariff = Tariff::of_model(config);
    if config.when.len() > MAX_WHENS {
        let message = format!("a model has at most {MAX_WHENS} `when`");
        mistakes.push(Mistake::new(key("when"), message, "leave the rarest out"));
    }
    for (index, when) in tariff.whens.iter().enumerate() {
        let mut wrong = |message: &str, hint: &str| {
            mistakes.push(Mistake::new(key(&format!("when[{index}]")), message, hint));
        };
        let is_shadowed =
            tariff.whens.iter().take(index).any(|other| other.condition.includes(&when.condition));
        if when.condition.wanted().next().is_none() {
            let hint = "name a member of the request and its value: if = { size = \"1024x1024\" }";
            wrong("this `when` has no condition", hint);
        } else if when.prices.is_empty() {
            wrong("this `when` changes no price", "add the prices that it replaces");
        } else if is_shadowed {
            let hint = "only the first `when` that holds counts: write the narrower one first";
            wrong("this `when` never counts, since an earlier one holds wherever it does", hint);
        } else if !config.free && tariff.base.replaced_by(&when.prices).is_free() {
            let hint = "leave one price above 0, or write `free = true` for a model of its own";
            wrong("with this `when` a call costs nothing", hint);
        }
    }
    mistakes
}

fn senseless_tiers(key: &dyn Fn(&str) -> String, config: &ModelConfig) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    // The tiers in the order of their bounds, each with its place in the file.
    let mut tiers: Vec<_> = config.above.iter().enumerate().collect();
    tiers.sort_by_key(|(_, tier)| tier.input_tokens);
    let base = config.prices();
    let mut below: Option<(u64, UnitPrices)> = None;
    for (index, tier) in tiers {
        let mut wrong = |message: String, hint: &str| {
            mistakes.push(Mistake::new(key(&format!("above[{index}]")), message, hint));
        };
        let bound = tier.input_tokens;
        let prices = base.replaced_by(&tier.prices());
        let lower = below.map_or(base, |(_, prices)| prices);
        if tier.prices().is_empty() {
            wrong("this tier changes no price".to_owned(), "add the prices that it replaces");
        } else if bound == 0 || bound > MAX_COUNT {
            let message = format!("a tier cannot begin above {bound} tokens");
            wrong(message, "write a number of tokens that a request can have, such as 200000");
        } else if below.is_some_and(|(other, _)| other == bound) {
            let hint = "write one tier for each number of tokens";
            wrong(format!("a second tier begins above {bound} tokens"), hint);
        } else if let Some(unit) = cheaper_unit(&lower, &prices) {
            let message = format!("`{unit}` is cheaper above {bound} tokens than below");
            let hint = "a tier prices the whole call, so a call would cost less with more input: raise \
                        it, or leave it out";
            wrong(message, hint);
        }
        below = Some((bound, prices));
    }
    mistakes
}

/// The first unit that `higher` prices below `lower`.
fn cheaper_unit(lower: &UnitPrices, higher: &UnitPrices) -> Option<&'static str> {
    if higher.request() < lower.request() {
        return Some("request");
    }
    Kind::ALL.into_iter().find(|kind| higher.of(*kind) < lower.of(*kind)).map(Kind::as_str)
}

fn senseless_caps(key: &dyn Fn(&str) -> String, config: &ModelConfig) -> Vec<Mistake> {
    let caps = [
        ("max_input_tokens", config.max_input_tokens, 1),
        ("max_output_tokens", config.max_output_tokens, 1),
        ("hold_output_tokens", config.hold_output_tokens, 1),
        ("image_tokens", config.image_tokens, 0),
    ];
    let mut mistakes: Vec<Mistake> = caps
        .into_iter()
        .filter_map(|(name, value, least)| within(&key(name), value?, least..=MAX_COUNT))
        .collect();
    let most = config.max_output_tokens.unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS);
    if let Some(first) =
        config.hold_output_tokens.filter(|first| *first > most && *first <= MAX_COUNT)
    {
        let message = format!("a stream cannot hold for {first} tokens where {most} are the most");
        let hint = match config.max_output_tokens {
            Some(_) => "write at most `max_output_tokens`",
            None => "write `max_output_tokens` too: the most tokens that the model can answer with",
        };
        mistakes.push(Mistake::new(key("hold_output_tokens"), message, hint));
    }
    mistakes
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
