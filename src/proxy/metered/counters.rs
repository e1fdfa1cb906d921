//! The parts of a metered route that its calls share: its meter, and its counters.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec};

use super::charge::{Cost, Source};
use crate::meter::Watched;
use crate::metrics::{Metrics, NO_MODEL};
use crate::price::metered::{Models, Tariff};
use crate::price::{Metering, RoutePrice};
use crate::usage::{Kind, MeterKind};

/// The parts of a metered route that all of its calls share.
#[derive(Debug)]
pub(in crate::proxy) struct MeteredRoute {
    /// How usage is read from answers.
    pub meter: MeterKind,
    /// The members of a request that are read or refused.
    pub watched: Watched,
    /// The largest body that a request may have, in bytes.
    pub max_body: usize,
    /// Whether the route has a model that costs nothing, so that an account without credits may
    /// call.
    pub has_free: bool,
    route: Arc<str>,
    tokens: IntCounterVec,
    unpriced: IntCounterVec,
    missing: IntCounter,
}

impl MeteredRoute {
    /// Creates a route with this price and label, and its time series.
    pub fn new(
        price: &RoutePrice,
        metering: &Metering,
        models: &Models,
        route: &Arc<str>,
        metrics: &Metrics,
    ) -> Self {
        let tariffs: Vec<(&str, &Tariff)> = match price {
            RoutePrice::Units(tariff, _) => vec![(NO_MODEL, &**tariff)],
            _ => models.all().iter().map(|model| (&*model.label, &*model.tariff)).collect(),
        };
        for (model, tariff) in &tariffs {
            for kind in Kind::ALL {
                let labels = [*model, kind.as_str()];
                if tariff.is_free() || tariff.base().of(kind).is_some() {
                    metrics.tokens.with_label_values(&[&**route, labels[0], labels[1]]);
                } else {
                    metrics.unpriced_usage.with_label_values(&labels);
                }
            }
        }
        let members = tariffs.iter().flat_map(|(_, tariff)| tariff.members());
        let deny = metering.deny.iter().map(|name| &**name);
        Self {
            meter: metering.meter.clone(),
            watched: Watched::new(members, deny),
            max_body: usize::try_from(metering.max_body).unwrap_or(usize::MAX),
            has_free: tariffs.iter().any(|(_, tariff)| tariff.is_free()),
            route: route.clone(),
            tokens: metrics.tokens.clone(),
            unpriced: metrics.unpriced_usage.clone(),
            missing: metrics.usage_missing.with_label_values(&[&**route]),
        }
    }

    /// Counts the usage of one call of the model with this label.
    pub fn count(&self, label: &str, cost: &Cost, request_id: &str) {
        for (kind, count) in cost.usage.iter() {
            self.tokens.with_label_values(&[&*self.route, label, kind.as_str()]).inc_by(count);
        }
        for kind in cost.unpriced.iter() {
            let count = cost.usage.of(kind);
            self.unpriced.with_label_values(&[label, kind.as_str()]).inc_by(count);
        }
        match cost.source {
            Source::Answer | Source::Estimate => {}
            Source::Missing => self.missing.inc(),
            Source::Unbelievable => {
                self.missing.inc();
                tracing::warn!(
                    route = &*self.route,
                    model = label,
                    request_id,
                    "an upstream reported a usage that cannot be true; the hold is charged"
                );
            }
        }
    }
}
