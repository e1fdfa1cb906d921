//! Checks the rules and the packs as a whole.

use std::collections::{HashMap, HashSet};

use http::Method;

use crate::config::Mistake;
use crate::price::config::{PackConfig, RouteConfig};
use crate::price::metered::Rates;
use crate::price::money::{Currency, UnitAmount};
use crate::price::pattern::Segment;
use crate::price::route::{Route, is_short_line};

/// The longest `badge`, in characters.
const MAX_BADGE_CHARS: usize = 40;

/// Finds the mistakes in `[[routes]]`. `upstreams` are the names of the `[[upstreams]]`.
pub fn check_routes(configs: &[RouteConfig], upstreams: &[&str]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut routes = Vec::new();
    for (index, config) in configs.iter().enumerate() {
        let upstream = config.upstream.as_deref().filter(|_| config.answer.is_none());
        if let Some(name) = upstream.filter(|name| !upstreams.contains(name)) {
            mistakes.push(unknown_upstream(&format!("routes[{index}].upstream"), name, upstreams));
        }
        match Route::read(index, config) {
            Ok(route) => routes.push(route),
            Err(more) => mistakes.extend(more),
        }
    }
    let mut same_paths: HashMap<&[Segment], Vec<&Route>> = HashMap::new();
    for route in &routes {
        let earlier = same_paths.entry(route.pattern.segments()).or_default();
        mistakes.extend(earlier.iter().filter_map(|earlier| conflict(earlier, route)));
        earlier.push(route);
    }
    mistakes
}

/// The mistake at `key`, which names an upstream that does not exist.
pub(super) fn unknown_upstream(key: &str, name: &str, upstreams: &[&str]) -> Mistake {
    let hint = match upstreams {
        [] => "add an `[[upstreams]]` with this name".to_owned(),
        known => format!("add an `[[upstreams]]` with this name, or use {}", known.join(", ")),
    };
    Mistake::new(key, format!("no upstream is named `{name}`"), hint)
}

/// The contradiction between two rules for the same paths; `None` if they are compatible.
fn conflict(earlier: &Route, later: &Route) -> Option<Mistake> {
    let (index, label) = (later.index, later.label());
    let other = format!("routes[{}] (`{}`)", earlier.index, earlier.label());
    if earlier.methods.overlap(&later.methods) {
        return Some(Mistake::new(
            format!("routes[{index}].path"),
            format!("`{label}` has a rule in {other} already, for the same method"),
            "keep one of the two, or give each its own `methods`",
        ));
    }
    // A ledger entry names the path without the method, so all rules of a path must share one
    // label.
    if let (Some(first), Some(second)) = (&earlier.display_label, &later.display_label)
        && first != second
    {
        return Some(Mistake::new(
            format!("routes[{index}].label"),
            format!("`{label}` has another label in {other}, and history shows one for both"),
            "write the same label for every method of a path",
        ));
    }
    let splits_head = |get: &Route, head: &Route| {
        get.methods.name(&Method::GET) && head.methods.name(&Method::HEAD)
    };
    let split = splits_head(earlier, later) || splits_head(later, earlier);
    let key = if later.metering().is_some() { "price" } else { "credits" };
    (split && earlier.price != later.price).then(|| {
        Mistake::new(
            format!("routes[{index}].{key}"),
            format!("GET and HEAD of `{label}` differ in price here and in {other}"),
            "leave HEAD out: it comes with GET, at the same price",
        )
    })
}

/// The mistakes in `[[packs]]`, and those in the own costs of `routes`. These costs are compared
/// with the packs' prices at the given rates.
pub fn check_packs(packs: &[PackConfig], routes: &[RouteConfig], rates: &Rates) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut ids = HashSet::new();
    let mut best = None;
    for (index, pack) in packs.iter().enumerate() {
        let mut wrong = |name: &str, message: String, hint: &str| {
            mistakes.push(Mistake::new(format!("packs[{index}].{name}"), message, hint));
        };
        if !is_pack_id(&pack.id) {
            let message = format!("`{}` cannot name a pack", pack.id);
            wrong("id", message, "use 1 to 64 letters, digits, `-`, `_` and `.`");
        } else if !ids.insert(&pack.id) {
            wrong("id", format!("two packs are named `{}`", pack.id), "give each its own id");
        }
        if pack.credits.is_zero() {
            wrong("credits", "a pack without credits sells nothing".into(), "write at least 1");
        }
        check_price(pack, &packs[0], &mut wrong);
        if pack.badge.as_deref().is_some_and(|badge| !is_short_line(badge, MAX_BADGE_CHARS)) {
            let message =
                format!("`badge` is not one line of at most {MAX_BADGE_CHARS} characters");
            wrong("badge", message, "write a word or two, such as \"Most popular\"");
        }
        if pack.best_value && best.replace(index).is_some() {
            let message = "a second pack is marked as the best value".into();
            wrong("best_value", message, "mark one pack only");
        }
    }
    mistakes.extend(foreign_costs(packs, routes, rates));
    mistakes
}

fn check_price(pack: &PackConfig, first: &PackConfig, wrong: &mut dyn FnMut(&str, String, &str)) {
    let (price, currency) = (pack.price, first.price.currency());
    if price.minor() == 0 {
        wrong("price", "a pack cannot have the price 0".into(), "grant the credits instead");
    }
    if price.currency() != currency {
        let message = format!("{} is not the currency of the first pack", price.currency());
        wrong("price", message, &format!("price every pack in {currency}"));
    }
    if !price.minor().is_multiple_of(price.currency().charge_step()) {
        let message = format!("{price} cannot be charged: its last decimals must be 0");
        wrong("price", message, "round it as Stripe requires for this currency");
    }
}

fn is_pack_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&id.len()) && id.bytes().all(allowed)
}

/// The mistakes of routes whose `cost` is in another currency than the packs, if there is no rate
/// between the two.
fn foreign_costs(packs: &[PackConfig], routes: &[RouteConfig], rates: &Rates) -> Vec<Mistake> {
    let Some(first) = packs.first() else { return Vec::new() };
    let currency = first.price.currency();
    let foreign = routes.iter().enumerate().flat_map(|(index, route)| {
        let of_unit = route
            .unit_costs()
            .map(move |(unit, cost)| (format!("routes[{index}].price.cost.{unit}"), cost));
        let of_call = route.cost.map(|cost| (format!("routes[{index}].cost"), cost));
        of_call.into_iter().chain(of_unit)
    });
    foreign.filter_map(|(key, cost)| foreign_cost(&key, cost, currency, rates)).collect()
}

/// The mistake at `key` if `cost` cannot be compared with prices in `currency`, because the config
/// has no rate between the two currencies.
pub(super) fn foreign_cost(
    key: &str,
    cost: UnitAmount,
    currency: Currency,
    rates: &Rates,
) -> Option<Mistake> {
    let from = cost.currency();
    (from != currency && rates.convert(UnitAmount::from_nanos(0, from), currency).is_none()).then(
        || {
            let message = format!("{cost} is not in the currency of the packs");
            let hint = format!(
                "write what it costs you in {currency}, or what one {from} is worth: \
             {from} = \"… {currency}\" under [rates]"
            );
            Mistake::new(key, message, hint)
        },
    )
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
