//! The settings that only a metered route has.

use std::sync::Arc;

use crate::config::{Mistake, Size, within};
use crate::credits::Credits;
use crate::price::config::{OnClientAbort, RouteConfig};
use crate::price::metered::{
    DEFAULT_MAX_BODY, DEFAULT_MAX_OVERRUN, OnMissingUsage, OnOverrun, OnShort, OwnAnswer,
    PriceConfig, Tariff,
};
use crate::usage::{Kind, MeterKind};

/// The price of a route's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePrice {
    /// All calls cost the same.
    Fixed(Credits),
    /// A call costs what its usage costs at the prices of its model.
    Models(Metering),
    /// A call costs what its usage costs at the prices of the route.
    Units(Arc<Tariff>, Metering),
    /// Farebox itself answers, and the call is free.
    Answer(OwnAnswer),
}

/// How a metered route reads its requests and answers, and charges for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metering {
    /// How usage is read.
    pub meter: MeterKind,
    /// The least amount that is held if the price has a kind that the request does not limit.
    pub hold: Credits,
    /// The largest body of a request, in bytes.
    pub max_body: u64,
    /// Top-level members of a request that are refused.
    pub deny: Box<[Box<str>]>,
    /// The charge for an answer that does not report its usage.
    pub on_missing_usage: OnMissingUsage,
    /// The charge if the usage costs more than the hold.
    pub on_overrun: OnOverrun,
    /// The action if the account cannot pay the hold.
    pub on_short: OnShort,
    /// Usage that costs more than this many times the hold is not believed.
    pub max_overrun: u32,
}

/// The keys whose mistakes depend on whether the route has `price`. If `price` itself cannot be
/// read, such a mistake may be a false alarm.
pub const KEYS_BESIDE_PRICE: [&str; 10] = [
    "credits",
    "meter",
    "hold",
    "max_body",
    "deny",
    "on_missing_usage",
    "on_overrun",
    "on_short",
    "max_overrun",
    "on_client_abort",
];

/// The longest name of a member in `deny`, in bytes.
const MAX_MEMBER_BYTES: usize = 64;

impl RoutePrice {
    /// The price of each call, if it is known before the request's body is read. It is 0 for
    /// Farebox's own answers, and `None` for metered routes.
    pub fn fixed(&self) -> Option<Credits> {
        match self {
            Self::Fixed(credits) => Some(*credits),
            Self::Answer(_) => Some(Credits::ZERO),
            Self::Models(_) | Self::Units(..) => None,
        }
    }

    /// Whether all calls have the same price and go to an upstream.
    pub fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// How the route is metered; `None` if it is not.
    pub fn metering(&self) -> Option<&Metering> {
        match self {
            Self::Models(metering) | Self::Units(_, metering) => Some(metering),
            Self::Fixed(_) | Self::Answer(_) => None,
        }
    }

    /// Reads the price of a route from the config. `None` if the config is mistaken; [`mistakes`]
    /// then has the reason.
    pub(super) fn read(config: &RouteConfig) -> Option<Self> {
        if let Some(credits) = config.credits {
            return Some(Self::Fixed(credits));
        }
        if let Some(answer) = config.answer {
            return Some(Self::Answer(answer));
        }
        let metering = Metering {
            meter: config.meter.clone()?,
            hold: config.hold.unwrap_or_default(),
            max_body: config.max_body.unwrap_or(DEFAULT_MAX_BODY).0,
            deny: config.deny.iter().flatten().map(|name| name.as_str().into()).collect(),
            on_missing_usage: config.on_missing_usage.unwrap_or_default(),
            on_overrun: config.on_overrun.unwrap_or_default(),
            on_short: config.on_short.unwrap_or_default(),
            max_overrun: config.max_overrun.unwrap_or(DEFAULT_MAX_OVERRUN),
        };
        Some(match config.price.as_ref()? {
            PriceConfig::Models => Self::Models(metering),
            PriceConfig::Units(units) => Self::Units(Arc::new(Tariff::of_route(units)), metering),
        })
    }
}

/// The mistakes in the price of a route, and in the keys that belong to it. `key` returns the path
/// of a key of the route in the config.
pub(super) fn mistakes(key: &dyn Fn(&str) -> String, config: &RouteConfig) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut wrong = |name: &str, message: String, hint: &str| {
        found.push(Mistake::new(key(name), message, hint));
    };
    if config.upstream.is_none() && config.answer.is_none() {
        let hint = "add `upstream = …` with the name of an [[upstreams]]";
        wrong("upstream", "missing key `upstream`".to_owned(), hint);
    }
    let prices = [
        ("credits", config.credits.is_some()),
        ("price", config.price.is_some()),
        ("answer", config.answer.is_some()),
    ];
    let mut written = prices.iter().filter(|(_, is_written)| *is_written).map(|(name, _)| *name);
    match (written.next(), written.next()) {
        (None, _) => {
            let hint = "add `credits = …` for a fixed price, 0 for free calls, or `price = \"models\"` \
                        for a price by usage";
            wrong("credits", "missing key `credits`".to_owned(), hint);
        }
        (Some(first), Some(second)) => {
            let message = format!("a route has either `{first}` or `{second}`");
            wrong(second, message, "keep one of the two");
        }
        (Some(_), None) => {}
    }
    match &config.price {
        Some(price) => {
            metered_mistakes(config, price, &mut wrong);
        }
        None => out_of_place(config, &mut wrong),
    }
    if config.answer.is_some() {
        let not_here = [
            ("upstream", config.upstream.is_some()),
            ("websocket", config.websocket),
            ("cost", config.cost.is_some()),
        ];
        for (name, _) in not_here.iter().filter(|(_, is_written)| *is_written) {
            let message = format!("`{name}` has no meaning where Farebox answers itself");
            wrong(name, message, "remove it, or `answer`");
        }
        if config.path.contains('{') {
            let hint = "write one path, such as \"/v1/models\"";
            wrong("path", "an own answer stands at one path, not at a pattern".to_owned(), hint);
        }
    }
    let limits =
        config.max_body.map(|size| within(&key("max_body"), size, Size(1 << 10)..=Size(1 << 30)));
    let overruns =
        config.max_overrun.map(|times| within(&key("max_overrun"), times, 1..=1_000_000));
    found.extend(limits.flatten());
    found.extend(overruns.flatten());
    found
}

/// The mistakes in a route that is priced by usage.
fn metered_mistakes(
    config: &RouteConfig,
    price: &PriceConfig,
    wrong: &mut dyn FnMut(&str, String, &str),
) {
    if config.meter.is_none() {
        let hint = "add meter = \"openai\" or \"anthropic\", after the shape of the answers, or a table of JSON pointers";
        wrong("meter", "missing key `meter`, which says how usage is read".to_owned(), hint);
    }
    if config.websocket {
        let hint = "remove it, or give the route a fixed price with `credits`";
        wrong("websocket", "a WebSocket is not metered".to_owned(), hint);
    }
    if config.cost.is_some() {
        let hint = "write the cost of each kind beside its price, in the model or in `price`: \
                    cost = { input = \"2.50 USD\" }";
        wrong("cost", "`cost` is the cost of a call with a fixed price".to_owned(), hint);
    }
    if config.hold.is_some_and(Credits::is_zero) {
        wrong(
            "hold",
            "`hold` cannot be 0".to_owned(),
            "write the credits that a call may need, or leave it out",
        );
    }
    if let PriceConfig::Units(units) = price {
        let tariff = Tariff::of_route(units);
        let seconds = tariff.base().of(Kind::Second);
        if tariff.base().is_free() {
            let hint = "write one price above 0, or `credits = 0` for a free route";
            wrong("price", "this price is 0 for every call".to_owned(), hint);
        } else if config.hold.is_none() && seconds.is_some_and(|price| !price.is_zero()) {
            let hint = "add `hold = …`: the credits that one call may need";
            let message = "a request does not say how many seconds it will take, so nothing would \
                           be held for them";
            wrong("hold", message.to_owned(), hint);
        }
    }
    let mut denied: Vec<&str> = Vec::new();
    for name in config.deny.iter().flatten() {
        let problem = if name.is_empty() || name.len() > MAX_MEMBER_BYTES {
            Some("is not the name of a member of a request")
        } else if denied.contains(&name.as_str()) {
            Some("is listed twice")
        } else if name == "model" && *price == PriceConfig::Models {
            Some("is in every request that has a price")
        } else {
            None
        };
        match problem {
            Some(problem) => {
                wrong(
                    "deny",
                    format!("`{name}` {problem}"),
                    "list names such as \"store\", each once",
                );
            }
            None => denied.push(name),
        }
    }
}

/// The mistakes of a route without `price` that has keys of a route with `price`.
fn out_of_place(config: &RouteConfig, wrong: &mut dyn FnMut(&str, String, &str)) {
    let keys = [
        ("meter", config.meter.is_some()),
        ("hold", config.hold.is_some()),
        ("max_body", config.max_body.is_some()),
        ("deny", config.deny.is_some()),
        ("on_missing_usage", config.on_missing_usage.is_some()),
        ("on_overrun", config.on_overrun.is_some()),
        ("on_short", config.on_short.is_some()),
        ("max_overrun", config.max_overrun.is_some()),
    ];
    for (name, _) in keys.iter().filter(|(_, is_written)| *is_written) {
        let message = format!("`{name}` is for routes with a price by usage");
        wrong(name, message, "remove it, or write `price` in place of `credits`");
    }
    if config.on_client_abort == OnClientAbort::Drain {
        let hint = "write \"charge\" or \"release\", or a price by usage with `price`";
        wrong(
            "on_client_abort",
            "\"drain\" reads usage, which a fixed price does not have".to_owned(),
            hint,
        );
    }
}
