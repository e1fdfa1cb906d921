//! What a reload replaces: prices, packs and upstreams, all at once.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter};

use super::upstream::Upstream;
use crate::app::Catalogue;
use crate::metrics::Metrics;
use crate::price::Route;

/// One version of the reloadable config.
#[derive(Debug)]
pub struct Live {
    /// What is for sale.
    pub catalogue: Arc<Catalogue>,
    routes: Vec<PricedRoute>,
}

/// A price rule with all that serving it needs.
#[derive(Debug)]
pub struct PricedRoute {
    pub rule: Arc<Route>,
    /// The rule's label, shared with every hold.
    pub label: Arc<str>,
    pub upstream: Arc<Upstream>,
    /// The route's metrics, looked up once.
    pub answered_200: IntCounter,
    pub request_seconds: Histogram,
    pub overhead_seconds: Histogram,
}

impl Live {
    /// Puts a catalogue and its upstreams together.
    ///
    /// # Errors
    /// The name of an upstream that a route names and that is not there.
    pub fn new(
        catalogue: Arc<Catalogue>,
        upstreams: &[Arc<Upstream>],
        metrics: &Metrics,
    ) -> Result<Self, Box<str>> {
        let routes = catalogue.prices.routes().iter().map(|rule| {
            let upstream = upstreams.iter().find(|upstream| upstream.name() == &*rule.upstream);
            let upstream = upstream.ok_or_else(|| rule.upstream.clone())?.clone();
            let label = rule.label();
            metrics.begin_route(label);
            Ok(PricedRoute {
                rule: rule.clone(),
                label: label.into(),
                upstream,
                answered_200: metrics.requests.with_label_values(&[label, "200"]),
                request_seconds: metrics.request_seconds.with_label_values(&[label]),
                overhead_seconds: metrics.overhead_seconds.with_label_values(&[label]),
            })
        });
        let routes = routes.collect::<Result<_, Box<str>>>()?;
        Ok(Self { catalogue, routes })
    }

    /// The route at `index` of the price table.
    pub fn route(&self, index: usize) -> Option<&PricedRoute> {
        self.routes.get(index)
    }
}
