//! The part of the config that a reload replaces: prices, packs and upstreams, all at once.

use std::sync::Arc;

use bytes::Bytes;
use prometheus::{Histogram, IntCounter};

use super::metered::MeteredRoute;
use super::upstream::Upstream;
use crate::app::Catalogue;
use crate::metrics::{Metrics, UPSTREAM_OUTCOMES};
use crate::price::Route;
use crate::problem::Shape;
use crate::usage::MeterKind;

/// One version of the reloadable config.
#[derive(Debug)]
pub struct Live {
    /// The prices and packs.
    pub catalogue: Arc<Catalogue>,
    routes: Vec<Arc<PricedRoute>>,
    /// The upstream of each model that has one of its own, by the index of the model.
    models: Vec<Option<Arc<Destination>>>,
    listing: Bytes,
}

/// A price rule, with everything that serving its calls needs.
#[derive(Debug)]
pub struct PricedRoute {
    pub rule: Arc<Route>,
    /// The rule's label, which every hold shares.
    pub label: Arc<str>,
    /// The upstream that calls of this route go to, unless their model has one of its own. `None`
    /// if no call needs it.
    pub destination: Option<Arc<Destination>>,
    /// The parts that only a metered route has; `None` for other routes.
    pub(super) metered: Option<MeteredRoute>,
    /// The route's metrics, looked up once.
    pub answered_200: IntCounter,
    pub request_seconds: Histogram,
    pub overhead_seconds: Histogram,
}

/// An upstream, with the counters of the attempts to get an answer from it.
#[derive(Debug)]
pub struct Destination {
    pub upstream: Arc<Upstream>,
    /// `farebox_upstream_requests_total` of the upstream.
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

impl Destination {
    fn new(upstream: Arc<Upstream>, metrics: &Metrics) -> Arc<Self> {
        let attempts = AttemptCounters::new(upstream.name(), metrics);
        Arc::new(Self { upstream, attempts })
    }
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

impl PricedRoute {
    /// The shape of the JSON in which clients of this route get problems.
    pub fn shape(&self) -> Shape {
        match self.metered.as_ref().map(|metered| &metered.meter) {
            Some(MeterKind::Anthropic) => Shape::Anthropic,
            _ => Shape::OpenAi,
        }
    }
}

impl Live {
    /// Joins the rules of a catalogue with their upstreams.
    ///
    /// # Errors
    /// A route or a model names an upstream that does not exist. The error is its name.
    pub fn new(
        catalogue: Arc<Catalogue>,
        upstreams: &[Arc<Upstream>],
        metrics: &Metrics,
    ) -> Result<Self, Box<str>> {
        let destinations: Vec<Arc<Destination>> =
            upstreams.iter().map(|upstream| Destination::new(upstream.clone(), metrics)).collect();
        let find = |name: Option<&str>| match name {
            None => Ok(None),
            Some(name) => {
                let mut all = destinations.iter();
                let found = all.find(|destination| destination.upstream.name() == name);
                found.cloned().map(Some).ok_or_else(|| name.into())
            }
        };
        let prices = &catalogue.prices;
        let routes = prices.routes().iter().map(|rule| {
            let label: Arc<str> = rule.label().into();
            metrics.begin_route(&label);
            let metered = rule.metering().map(|metering| {
                MeteredRoute::new(&rule.price, metering, prices.models(), &label, metrics)
            });
            Ok(Arc::new(PricedRoute {
                rule: rule.clone(),
                destination: find(rule.upstream.as_deref())?,
                metered,
                answered_200: metrics.requests.with_label_values(&[&*label, "200"]),
                request_seconds: metrics.request_seconds.with_label_values(&[&*label]),
                overhead_seconds: metrics.overhead_seconds.with_label_values(&[&*label]),
                label,
            }))
        });
        let routes = routes.collect::<Result<_, Box<str>>>()?;
        let models = prices.models().all().iter();
        let models = models.map(|model| find(model.upstream.as_deref()));
        let models = models.collect::<Result<_, Box<str>>>()?;
        // A listing consists of names and numbers, so serializing it cannot fail.
        let listing = serde_json::to_vec(&prices.models().listing()).unwrap_or_default().into();
        Ok(Self { catalogue, routes, models, listing })
    }

    /// The route at `index` of the price table.
    pub fn route(&self, index: usize) -> Option<&Arc<PricedRoute>> {
        self.routes.get(index)
    }

    /// The upstream of the model at `index` of the table; `None` if the model has none of its own.
    pub(super) fn destination_of_model(&self, index: usize) -> Option<&Arc<Destination>> {
        self.models.get(index)?.as_ref()
    }

    /// The list of models, in OpenAI's shape.
    pub(super) fn listing(&self) -> &Bytes {
        &self.listing
    }
}
