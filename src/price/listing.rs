//! The price table and the packs as callers see them, without the operator's costs, margins and
//! upstreams.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::credits::Credits;
use crate::price::config::PackConfig;
use crate::price::metered::{Model, Tariff, UnitPrices, WantedValue};
use crate::price::metering::RoutePrice;
use crate::price::money::Price;
use crate::price::route::Route;
use crate::price::table::PriceTable;

/// An element of `GET /credits/prices`. A route has `path`, a model has `model`.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Listed<'a> {
    /// A route.
    Route(ListedPrice<'a>),
    /// A model, for routes with `"price":"models"`.
    Model(ListedModel<'a>),
}

/// The price of a route's calls.
#[derive(Clone, Debug, Serialize)]
pub struct ListedPrice<'a> {
    path: &'a str,
    /// The label that people read in place of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    /// The methods of the rule; `["*"]` for all methods.
    methods: Vec<&'a str>,
    /// The fixed price.
    #[serde(skip_serializing_if = "Option::is_none")]
    credits: Option<Credits>,
    /// The price by usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<ListedUsage<'a>>,
    /// True if WebSocket connections are allowed, at the same price.
    websocket: bool,
}

/// The price by usage of a route.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ListedUsage<'a> {
    /// `"models"`: the price of the request's model.
    Models(&'static str),
    /// The prices of the route itself.
    Units(&'a UnitPrices),
}

/// The prices of a model: for a million tokens, or for one unit of another kind.
#[derive(Clone, Debug, Serialize)]
pub struct ListedModel<'a> {
    model: &'a str,
    /// Whether calls cost nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    free: bool,
    prices: &'a UnitPrices,
    /// The prices that replace others if the input has more than a number of tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    above: Vec<ListedTier<'a>>,
    /// The prices that replace others for certain requests. The first entry that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    when: Vec<ListedWhen<'a>>,
}

#[derive(Clone, Debug, Serialize)]
struct ListedTier<'a> {
    input_tokens: u64,
    prices: &'a UnitPrices,
}

#[derive(Clone, Debug, Serialize)]
struct ListedWhen<'a> {
    r#if: BTreeMap<&'a str, &'a WantedValue>,
    prices: &'a UnitPrices,
}

/// One pack in the answer of `GET /credits/packs`.
#[derive(Clone, Debug, Serialize)]
pub struct ListedPack<'a> {
    id: &'a str,
    name: &'a str,
    credits: Credits,
    price: Price,
    best_value: bool,
    /// A short text that the seller shows on the pack, such as "Most popular".
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<&'a str>,
}

/// The price table as callers see it: the routes, then the models, each in the config's order.
pub fn list_prices(table: &PriceTable) -> Vec<Listed<'_>> {
    let routes = table.routes().iter().map(|route| Listed::Route(ListedPrice::from(&**route)));
    let models = table.models().all().iter();
    routes.chain(models.map(|model| Listed::Model(ListedModel::from(&**model)))).collect()
}

/// The packs as callers see them, in the config's order.
pub fn list_packs(packs: &[PackConfig]) -> Vec<ListedPack<'_>> {
    packs.iter().map(ListedPack::from).collect()
}

impl<'a> From<&'a Route> for ListedPrice<'a> {
    fn from(route: &'a Route) -> Self {
        Self {
            path: route.label(),
            label: route.display_label.as_deref(),
            methods: route.methods.names(),
            credits: route.price.fixed(),
            price: match &route.price {
                RoutePrice::Models(_) => Some(ListedUsage::Models("models")),
                RoutePrice::Units(tariff, _) => Some(ListedUsage::Units(tariff.base())),
                RoutePrice::Fixed(_) | RoutePrice::Answer(_) => None,
            },
            websocket: route.websocket,
        }
    }
}

impl<'a> From<&'a Model> for ListedModel<'a> {
    fn from(model: &'a Model) -> Self {
        let tariff: &Tariff = &model.tariff;
        let above =
            tariff.tiers().map(|(input_tokens, prices)| ListedTier { input_tokens, prices });
        let when = tariff.whens().map(|(wanted, prices)| ListedWhen { r#if: wanted, prices });
        Self {
            model: &model.label,
            free: tariff.is_free(),
            prices: tariff.base(),
            above: above.collect(),
            when: when.collect(),
        }
    }
}

impl<'a> From<&'a PackConfig> for ListedPack<'a> {
    fn from(pack: &'a PackConfig) -> Self {
        Self {
            id: &pack.id,
            name: pack.name(),
            credits: pack.credits,
            price: pack.price,
            best_value: pack.best_value,
            badge: pack.badge.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::RouteConfig;
    use crate::price::metered::Models;

    #[test]
    fn callers_see_prices_but_no_costs_of_the_operator() {
        let config: RouteConfig =
            toml::from_str("path = '/a/{x}'\nupstream = 'ai'\ncredits = '0.25'\ncost = '0.04 EUR'")
                .unwrap();
        let table = PriceTable::new(&[config], &["ai"]).unwrap();
        assert_eq!(
            serde_json::to_string(&list_prices(&table)).unwrap(),
            r#"[{"path":"/a/{x}","methods":["*"],"credits":0.25,"websocket":false}]"#
        );
    }

    #[test]
    fn labels_are_listed_beside_the_names_of_routes_and_packs() {
        let config: RouteConfig =
            toml::from_str("path = '/hd'\nlabel = 'Image, HD'\nupstream = 'ai'\ncredits = 1")
                .unwrap();
        let table = PriceTable::new(&[config], &["ai"]).unwrap();
        let listed = serde_json::to_string(&list_prices(&table)).unwrap();
        assert!(listed.contains(r#""path":"/hd","label":"Image, HD","#), "{listed}");
        assert_eq!(table.routes()[0].label(), "/hd");
        assert_eq!(table.display_label("/hd"), Some("Image, HD"));
        assert_eq!(table.display_label("/other"), None);
        let pack: PackConfig =
            toml::from_str("id = 'p'\ncredits = 5\nprice = '1.00 EUR'\nbadge = 'Most popular'")
                .unwrap();
        let listed = serde_json::to_string(&list_packs(&[pack])).unwrap();
        assert!(listed.ends_with(r#""best_value":false,"badge":"Most popular"}]"#), "{listed}");
    }

    #[test]
    fn models_are_listed_with_all_that_changes_their_prices_and_no_cost() {
        let route = |text: &str| toml::from_str::<RouteConfig>(text).unwrap();
        let routes = [
            route(
                "path = '/chat'\nmethods = ['POST']\nupstream = 'ai'\nmeter = 'openai'\nprice = 'models'",
            ),
            route(
                "path = '/draw'\nupstream = 'ai'\nmeter = 'openai'\nprice = { request = '0.5', image = 4 }",
            ),
            route("path = '/models'\nanswer = 'models'"),
        ];
        let model = toml::from_str(
            "match = 'gpt-5'\nrename = 'secret'\ninput = '2.5'\noutput = 10\ncost = { input = '1 EUR' }
             above = [{ input_tokens = 200000, input = 5 }]
             when = [{ if = { quality = 'hd', n = 2, fast = true }, output = 20 }]",
        );
        let free = toml::from_str("match = 'llama-*'\nfree = true");
        let table = PriceTable::new(&routes, &["ai"]).unwrap();
        let table = table.with_models(Models::new(&[model.unwrap(), free.unwrap()]));
        assert_eq!(
            serde_json::to_string(&list_prices(&table)).unwrap(),
            concat!(
                r#"[{"path":"/chat","methods":["POST"],"price":"models","websocket":false},"#,
                r#"{"path":"/draw","methods":["*"],"price":{"request":0.5,"image":4},"websocket":false},"#,
                r#"{"path":"/models","methods":["*"],"credits":0,"websocket":false},"#,
                r#"{"model":"gpt-5","prices":{"input":2.5,"output":10},"#,
                r#""above":[{"input_tokens":200000,"prices":{"input":5}}],"#,
                r#""when":[{"if":{"fast":true,"n":2,"quality":"hd"},"prices":{"output":20}}]},"#,
                r#"{"model":"llama-*","free":true,"prices":{}}]"#
            )
        );
    }

    #[test]
    fn a_pack_is_listed_as_the_contract_says() {
        let pack: PackConfig = toml::from_str(
            "id = 'pack-500'\nname = 'Pack 500'\ncredits = 500\nprice = '79.00 EUR'
             stripe_price = 'price_1'\nbest_value = true",
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&list_packs(&[pack])).unwrap(),
            concat!(
                r#"[{"id":"pack-500","name":"Pack 500","credits":500,"#,
                r#""price":{"amount":7900,"currency":"eur"},"best_value":true}]"#
            )
        );
    }
}
