//! The price table and the packs as callers see them, without the operator's costs, margins and
//! upstreams.

use serde::Serialize;

use crate::credits::Credits;
use crate::price::config::PackConfig;
use crate::price::money::Price;
use crate::price::route::Route;
use crate::price::table::PriceTable;

/// One rule in the answer of `GET /credits/prices`.
#[derive(Clone, Debug, Serialize)]
pub struct ListedPrice<'a> {
    path: &'a str,
    /// The label that people read in place of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    /// The methods of the rule; `["*"]` for all methods.
    methods: Vec<&'a str>,
    credits: Credits,
    /// True where WebSocket connections are allowed, at the same price.
    websocket: bool,
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

/// The price table as callers see it, in the config's order.
pub fn list_prices(table: &PriceTable) -> Vec<ListedPrice<'_>> {
    table.routes().iter().map(|route| ListedPrice::from(&**route)).collect()
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
            credits: route.credits,
            websocket: route.websocket,
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
