//! `[[routes]]` and `[[packs]]`, as written in gateway.toml.

use serde::{Deserialize, Deserializer};

use crate::config::{Size, Span};
use crate::credits::Credits;
use crate::price::metered::{OnMissingUsage, OnOverrun, OnShort, OwnAnswer, PriceConfig};
use crate::price::money::{Price, UnitAmount};
use crate::usage::MeterKind;

/// One `[[routes]]`: a price rule, and the options of its calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// An exact path, or a pattern with `{name}` for one segment and `{*rest}` for the rest. If
    /// several rules match a path, the most exact one applies.
    pub path: String,
    /// The label that people read in place of the path, such as "Image, HD".
    #[serde(default, deserialize_with = "unless_empty")]
    pub label: Option<String>,
    /// The methods of the rule; all methods if absent.
    pub methods: Option<Vec<String>>,
    /// The name of an `[[upstreams]]`; only a route with `answer` has none.
    pub upstream: Option<String>,
    /// The fixed price of a call, which is 0 for a free call. Each route has exactly one of
    /// `credits`, `price` and `answer`; none of them has a default.
    pub credits: Option<Credits>,
    /// The price by usage.
    pub price: Option<PriceConfig>,
    /// The answer that Farebox itself gives, free and without an upstream.
    pub answer: Option<OwnAnswer>,
    /// How usage is read. Only routes with `price` have this key and the following ones down to
    /// `max_overrun`.
    pub meter: Option<MeterKind>,
    /// The least amount that is held, if the price has a kind that the request does not limit, such
    /// as seconds.
    pub hold: Option<Credits>,
    /// The largest body of a request.
    pub max_body: Option<Size>,
    /// Top-level members of a request that are refused.
    pub deny: Option<Vec<String>>,
    /// The charge for an answer that does not report its usage.
    pub on_missing_usage: Option<OnMissingUsage>,
    /// The charge if the usage costs more than the hold.
    pub on_overrun: Option<OnOverrun>,
    /// The action if the account cannot pay the hold.
    pub on_short: Option<OnShort>,
    /// Usage that costs more than this many times the hold is not believed.
    pub max_overrun: Option<u32>,
    /// The operator's own cost of a call, for the margin report. It is in the packs' currency, or
    /// in one that `[rates]` converts into that currency.
    pub cost: Option<UnitAmount>,
    /// The classes of answers that are charged.
    #[serde(default = "StatusClass::charged_by_default")]
    pub charge_on: Vec<StatusClass>,
    /// Whether a call is charged when its client disconnects before the answer has ended.
    #[serde(default)]
    pub on_client_abort: OnClientAbort,
    /// Whether WebSocket upgrades are allowed. Each connection is priced as one call.
    #[serde(default)]
    pub websocket: bool,
    /// The longest time that the upstream may send nothing. Overrides the upstream's own
    /// `read_timeout` on this route.
    pub read_timeout: Option<Span>,
}

impl RouteConfig {
    /// The operator's own cost of each unit, if the route has unit prices of its own.
    pub(super) fn unit_costs(&self) -> impl Iterator<Item = (&'static str, UnitAmount)> {
        let units = match &self.price {
            Some(PriceConfig::Units(units)) => Some(units),
            _ => None,
        };
        units.into_iter().flat_map(|units| units.cost.units())
    }
}

/// A class of HTTP status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum StatusClass {
    /// 200 to 299, and 101.
    #[serde(rename = "2xx")]
    Success,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    Redirection,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    ClientError,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
}

impl StatusClass {
    /// The class of a final status. 101 counts as a 2xx, because it ends a call. The other 1xx are
    /// not final, so they have no class; statuses that HTTP does not define have none either.
    pub const fn of(status: u16) -> Option<Self> {
        match status {
            101 | 200..=299 => Some(Self::Success),
            300..=399 => Some(Self::Redirection),
            400..=499 => Some(Self::ClientError),
            500..=599 => Some(Self::ServerError),
            _ => None,
        }
    }

    pub(super) fn charged_by_default() -> Vec<Self> {
        vec![Self::Success, Self::Redirection]
    }
}

/// Whether a call is charged if its client disconnects before the answer has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnClientAbort {
    /// The call is charged if the request had been sent, up to a small rest, or if a charged answer
    /// had begun. Otherwise a client could avoid the charge by disconnecting just before the answer
    /// ends.
    #[default]
    Charge,
    /// The call is not charged: its hold is released.
    Release,
    /// The answer is still read to its end, and charged by its usage. Only routes with `price`
    /// allow this.
    Drain,
}

/// One `[[packs]]`: credits for sale.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackConfig {
    /// The pack's id in the API, in Stripe's metadata and in metrics.
    pub id: String,
    /// The name that people read. Use [`PackConfig::name`], which falls back to the id.
    #[serde(default, rename = "name", deserialize_with = "unless_empty")]
    pub display_name: Option<String>,
    /// The credits that the buyer gets.
    pub credits: Credits,
    /// The amount that the buyer pays.
    pub price: Price,
    /// The id of a price made in Stripe's dashboard. Without it, each checkout session gets the
    /// price from this config. An empty text counts as absent, so that the variable in
    /// `"${STRIPE_PRICE:-}"` may be unset.
    #[serde(default, deserialize_with = "unless_empty")]
    pub stripe_price: Option<String>,
    /// Marks the recommended pack. At most one pack has this mark.
    #[serde(default)]
    pub best_value: bool,
    /// A short text that the seller shows on the pack, such as "Most popular". Without it, the
    /// recommended pack is shown as "Recommended".
    #[serde(default, deserialize_with = "unless_empty")]
    pub badge: Option<String>,
}

impl PackConfig {
    /// The name that people read: the pack's name, or its id if it has no name.
    pub fn name(&self) -> &str {
        self.display_name.as_deref().unwrap_or(&self.id)
    }
}

fn unless_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.filter(|text: &String| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(toml: &str) -> Result<RouteConfig, toml::de::Error> {
        toml::from_str(&format!("path = '/a'\nupstream = 'ai'\n{toml}"))
    }

    #[test]
    fn a_free_route_says_so() {
        assert_eq!(route("").unwrap().credits, None, "`check_routes` refuses it");
        assert_eq!(route("credits = 0").unwrap().credits, Some(Credits::ZERO));
        assert!(route("credits = -5").is_err());
    }

    #[test]
    fn a_route_charges_for_answers_and_for_leaving_unless_it_says_otherwise() {
        use StatusClass::*;
        let plain = route("credits = 5").unwrap();
        assert_eq!(plain.charge_on, [Success, Redirection]);
        assert_eq!(plain.on_client_abort, OnClientAbort::Charge);
        assert!(!plain.websocket);
        let all = "credits = 5\nmethods = ['POST']\ncost = '0.0004 EUR'\ncharge_on = ['2xx', '4xx']
            on_client_abort = 'release'\nwebsocket = true\nread_timeout = '90s'";
        let all = route(all).unwrap();
        assert_eq!(all.charge_on, [Success, ClientError]);
        assert_eq!(all.on_client_abort, OnClientAbort::Release);
        assert_eq!(all.read_timeout, Some(Span::from_secs(90)));
        assert!(route("credits = 5\ncharge_on = ['1xx']").is_err());
    }

    #[test]
    fn switching_protocols_counts_as_success_and_other_1xx_as_nothing() {
        assert_eq!(StatusClass::of(101), Some(StatusClass::Success));
        assert_eq!(StatusClass::of(100), None);
        assert_eq!(StatusClass::of(103), None);
        assert_eq!(StatusClass::of(600), None);
    }

    #[test]
    fn an_unset_stripe_price_and_name_are_none() {
        let pack: PackConfig = toml::from_str(
            "id = 'p'\nname = ''\ncredits = 100\nprice = '19.00 EUR'\nstripe_price = ''",
        )
        .unwrap();
        assert_eq!(pack.stripe_price, None);
        assert_eq!(pack.name(), "p");
        assert!(!pack.best_value);
    }
}
