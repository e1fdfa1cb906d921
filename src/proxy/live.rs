//! The part of the config that a reload replaces: prices, packs and upstreams, all at once.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter};

use super::upstream::Upstream;
use crate::app::Catalogue;
use crate::metrics::{Metrics, UPSTREAM_OUTCOMES};
use crate::price::Route;

/// One version of the reloadable config.
#[derive(Debug)]
pub struct Live {
    /// The prices and packs.
    pub catalogue: Arc<Catalogue>,
    routes: Vec<Arc<PricedRoute>>,
}

/// A price rule, with everything that serving its calls needs.
#[derive(Debug)]
pub struct PricedRoute {
    pub rule: Arc<Route>,
    /// The rule's label, which every hold shares.
    pub label: Arc<str>,
    pub upstream: Arc<Upstream>,
    /// The metrics of the route. They are looked up once, not for each call.
    pub answered_200: IntCounter,
    pub request_seconds: Histogram,
    pub overhead_seconds: Histogram,
    /// The counters `farebox_upstream_requests_total` of the route's upstream.
    pub attempts: AttemptCounters,
}

/// Counts the attempts to get an answer from an upstream: one counter for each outcome.
#[derive(Debug)]
pub struct AttemptCounters([IntCounter; Outcome::ALL.len()]);

/// The outcome of one attempt to get an answer from an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream answered without an error.
    Ok,
    /// No connection could be opened.
    Connect,
    /// The upstream sent nothing, or took nothing of the request, for too long.
    Timeout,
    /// The upstream broke the connection off before or within its answer, or sent bytes that are
    /// not HTTP.
    Closed,
    /// The upstream answered with a client error: a status from 400 to 499.
    Status4xx,
    /// The upstream answered with a server error: a status from 500 to 599.
    Status5xx,
}

impl Outcome {
    /// Every outcome, in the order of [`UPSTREAM_OUTCOMES`].
    const ALL: [Self; UPSTREAM_OUTCOMES.len()] =
        [Self::Ok, Self::Connect, Self::Timeout, Self::Closed, Self::Status4xx, Self::Status5xx];

    /// The outcome of an attempt that was answered.
    pub fn of_status(status: u16) -> Self {
        match status {
            400..=499 => Self::Status4xx,
            500..=599 => Self::Status5xx,
            _ => Self::Ok,
        }
    }

    /// The metric's label for this outcome.
    pub fn label(self) -> &'static str {
        UPSTREAM_OUTCOMES[self as usize]
    }
}

impl AttemptCounters {
    fn new(upstream: &str, metrics: &Metrics) -> Self {
        let counter = |outcome: Outcome| {
            metrics.upstream_requests.with_label_values(&[upstream, outcome.label()])
        };
        Self(Outcome::ALL.map(counter))
    }

    /// Counts an attempt.
    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].inc();
    }
}

impl Live {
    /// Joins the rules of a catalogue with their upstreams.
    ///
    /// # Errors
    /// The name of an upstream that a rule refers to and that does not exist.
    pub fn new(
        catalogue: Arc<Catalogue>,
        upstreams: &[Arc<Upstream>],
        metrics: &Metrics,
    ) -> Result<Self, Box<str>> {
        let routes = catalogue.prices.routes().iter().map(|rule| {
            let name = rule.upstream.as_deref().unwrap_or_default();
            let upstream = upstreams.iter().find(|upstream| upstream.name() == name);
            let upstream = upstream.ok_or_else(|| Box::<str>::from(name))?.clone();
            let label = rule.label();
            metrics.begin_route(label);
            Ok(Arc::new(PricedRoute {
                rule: rule.clone(),
                label: label.into(),
                attempts: AttemptCounters::new(upstream.name(), metrics),
                upstream,
                answered_200: metrics.requests.with_label_values(&[label, "200"]),
                request_seconds: metrics.request_seconds.with_label_values(&[label]),
                overhead_seconds: metrics.overhead_seconds.with_label_values(&[label]),
            }))
        });
        let routes = routes.collect::<Result<_, Box<str>>>()?;
        Ok(Self { catalogue, routes })
    }

    /// The route at `index` of the price table.
    pub fn route(&self, index: usize) -> Option<&Arc<PricedRoute>> {
        self.routes.get(index)
    }
}
