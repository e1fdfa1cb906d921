//! The part of a gateway that a reload replaces: prices, packs and upstreams.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::app::Catalogue;
use crate::gateway::config::Config;
use crate::gateway::error::StartError;
use crate::metrics::Metrics;
use crate::price::metered::{Models, Rates};
use crate::price::{
    Currency, PackConfig, PriceTable, PricesVersion, credit_price, list_packs, list_prices,
};
use crate::proxy::{Live, Resolver, Upstream, UpstreamConfig};

/// Builds the price table and the upstreams of a config, and creates their metrics.
pub(super) async fn open_live(
    config: &Config,
    resolver: &Resolver,
    metrics: &Metrics,
) -> Result<Live, StartError> {
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let prices = PriceTable::new(&config.routes, &names).map_err(StartError::Config)?;
    let prices = prices.with_exact_paths(config.api.exact_paths);
    let prices = prices.with_models(Models::new(&config.models));
    let catalogue = catalogue(prices, Rates::new(&config.rates), &config.packs)?;
    let open = |upstream: &UpstreamConfig| {
        Upstream::new(upstream, resolver.clone()).ok_or_else(|| {
            StartError::Internal(format!(
                "the headers of upstream {:?} are not valid",
                upstream.name
            ))
        })
    };
    let upstreams = config.upstreams.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    for upstream in &upstreams {
        upstream.resolve().await;
    }
    let live = Live::new(Arc::new(catalogue), &upstreams, metrics)
        .map_err(|name| StartError::Internal(format!("unknown upstream {name:?}")))?;
    for pack in &config.packs {
        metrics.begin_pack(&pack.id, &pack.price.currency().code().to_ascii_lowercase());
    }
    show_margins(&live.catalogue.prices, &config.packs, metrics);
    Ok(live)
}

/// Builds the price table and the packs, with the JSON of their listings.
pub(super) fn catalogue(
    prices: PriceTable,
    rates: Rates,
    packs: &[PackConfig],
) -> Result<Catalogue, StartError> {
    let json = |error: serde_json::Error| StartError::Internal(error.to_string());
    let prices_json = serde_json::value::to_raw_value(&list_prices(&prices)).map_err(json)?;
    let version = PricesVersion::of(prices_json.get());
    let packs_json = serde_json::value::to_raw_value(&list_packs(packs)).map_err(json)?;
    let (prices_json, packs_json) = (prices_json.into(), packs_json.into());
    Ok(Catalogue { prices, prices_json, version, rates, packs: packs.to_vec(), packs_json })
}

/// Sets the metrics of costs and of the credit price, and removes those of earlier prices. Rules
/// for different methods of one path share a label, which has the highest of their costs.
fn show_margins(prices: &PriceTable, packs: &[PackConfig], metrics: &Metrics) {
    let code = |currency: Currency| currency.code().to_ascii_lowercase();
    let mut costs = BTreeMap::new();
    for route in prices.routes() {
        if let Some(cost) = route.cost {
            let labels = [route.label().to_owned(), code(cost.currency())];
            let shown: &mut f64 = costs.entry(labels).or_default();
            *shown = shown.max(cost.as_minor_metric());
        }
    }
    metrics.show_route_costs(&costs);
    let price = credit_price(packs);
    let price = price.map(|price| ([code(price.currency())], price.as_minor_metric()));
    metrics.show_credit_price(&price.into_iter().collect());
}
