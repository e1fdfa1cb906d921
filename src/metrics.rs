//! Every metric, declared once. Credit metrics count whole credits; no account is ever a label.

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Handles to every metric of one gateway. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// `farebox_requests_total{route,code}`; 499 for a client that left before an answer, 503 also
    /// for a call that a stop cut off before one.
    pub requests: IntCounterVec,
    /// `farebox_request_seconds{route}`: the whole call.
    pub request_seconds: HistogramVec,
    /// `farebox_overhead_seconds{route}`: the call without the upstream's part.
    pub overhead_seconds: HistogramVec,
    /// `farebox_holds_total{route,outcome}`: captured, released, expired, refused.
    pub holds: IntCounterVec,
    /// `farebox_credits_captured_total{route}`
    pub credits_captured: CounterVec,
    /// `farebox_credits_released_total{route}`
    pub credits_released: CounterVec,
    /// `farebox_credits_granted_total{source}`: admin, signup, stripe, import.
    pub credits_granted: CounterVec,
    /// `farebox_ledger_batch_size`: operations a batch.
    pub ledger_batch_size: Histogram,
    /// `farebox_ledger_commit_seconds`
    pub ledger_commit_seconds: Histogram,
    /// `farebox_ledger_sync_lag_seconds`: how old the oldest acknowledged, unwritten operation is.
    pub ledger_sync_lag_seconds: Gauge,
    /// `farebox_ledger_epoch`: which life of Redis's data this is; 0 in the embedded ledger.
    pub ledger_epoch: IntGauge,
    /// `farebox_ledger_recoveries_total`: how often this gateway brought the ledger back after Redis
    /// had lost data.
    pub ledger_recoveries: IntCounter,
    /// `farebox_ledger_outbox_batches`: batches in Redis that wait for Postgres.
    pub ledger_outbox: IntGauge,
    /// `farebox_ledger_redis_memory_bytes`
    pub ledger_redis_memory: IntGauge,
    /// `farebox_ledger_up`: 0 while the ledger cannot write.
    pub ledger_up: IntGauge,
    /// `farebox_route_cost_minor{route,currency}`: the operator's own cost of one call.
    pub route_cost_minor: GaugeVec,
    /// `farebox_credit_price_minor{currency}`: what one credit sells for.
    pub credit_price_minor: GaugeVec,
    /// `farebox_upstream_requests_total{upstream,outcome}`: attempts to have an upstream answer, by
    /// [how they ended](UPSTREAM_OUTCOMES).
    pub upstream_requests: IntCounterVec,
    /// `farebox_ready`: what `/readyz` says.
    pub ready: IntGauge,
    /// `farebox_calls_in_flight`
    pub calls_in_flight: IntGauge,
    /// `farebox_connections`
    pub connections: IntGauge,
    /// `farebox_admin_wrong_tokens_total`: requests to the admin listener with a wrong token.
    pub admin_wrong_tokens: IntCounter,
    /// `farebox_pack_views_total`
    pub pack_views: IntCounter,
    /// `farebox_checkouts_total{pack}`: buyers sent to pay.
    pub checkouts: IntCounterVec,
    /// `farebox_purchases_total{pack}`: packs paid for.
    pub purchases: IntCounterVec,
    /// `farebox_buyers`: distinct accounts that ever bought.
    pub buyers: IntGauge,
    /// `farebox_revenue_minor_total{currency}`: what was paid, in minor units.
    pub revenue_minor: IntCounterVec,
    /// `farebox_stripe_webhooks_total{type,outcome}`: applied, foreign, ignored, failed, received
    /// (kept, not yet taken up), duplicate, unsigned, unreadable, unavailable.
    pub stripe_webhooks: IntCounterVec,
}

const OUTCOMES: [&str; 4] = ["captured", "released", "expired", "refused"];
const SOURCES: [&str; 4] = ["admin", "signup", "stripe", "import"];

/// The route label of what no price rule led to: own routes, and calls that were refused before.
pub const NO_ROUTE: &str = "none";

/// The route label of holds that are made through the API and name no route.
pub const API_ROUTE: &str = "api";

/// How an attempt to have an upstream answer can end: with an answer that is no error; no connection
/// could be opened; the upstream was silent for too long; it broke off; it answered with an error.
pub const UPSTREAM_OUTCOMES: [&str; 6] =
    ["ok", "connect", "timeout", "closed", "status_4xx", "status_5xx"];

/// The codes that Farebox answers a priced call with, and those of an upstream that fails.
const CODES: [&str; 15] = [
    "200", "400", "402", "403", "404", "408", "409", "413", "422", "429", "499", "500", "502",
    "503", "504",
];

/// The codes of Farebox's own answers.
const OWN_CODES: [&str; 17] = [
    "200", "201", "303", "400", "401", "402", "403", "404", "405", "408", "409", "413", "422",
    "429", "499", "500", "503",
];

/// The ends that an event of a known type can have.
const EVENT_OUTCOMES: [&str; 7] =
    ["applied", "foreign", "ignored", "failed", "received", "duplicate", "unavailable"];

/// The type label of events that are not among those that Farebox reads.
pub const OTHER_EVENTS: &str = "other";

const ROUTES_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
const SHORT_SECONDS: [f64; 12] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
const SIZES: [f64; 11] = [1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024.];

impl Metrics {
    /// Declares every metric in a registry of its own.
    ///
    /// # Errors
    /// Only if two metrics had the same name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let count = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let sum = |name: &str, help: &str, labels: &[&str]| {
            let metric = CounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let spread = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let amount = |name: &str, help: &str, labels: &[&str]| {
            let metric = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let single = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let metric = Histogram::with_opts(options)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let sync_lag = Gauge::new(
            "farebox_ledger_sync_lag_seconds",
            "Age of the oldest operation that was acknowledged and is not yet durable",
        )?;
        registry.register(Box::new(sync_lag.clone()))?;
        let pack_views =
            IntCounter::new("farebox_pack_views_total", "Times the list of packs was asked for")?;
        registry.register(Box::new(pack_views.clone()))?;
        let recoveries = IntCounter::new(
            "farebox_ledger_recoveries_total",
            "Times this gateway brought the ledger back after Redis had lost data",
        )?;
        registry.register(Box::new(recoveries.clone()))?;
        let wrong_tokens = IntCounter::new(
            "farebox_admin_wrong_tokens_total",
            "Requests to the admin listener with a wrong token",
        )?;
        registry.register(Box::new(wrong_tokens.clone()))?;
        let metrics = Self {
            requests: count(
                "farebox_requests_total",
                "Answered requests by route and status code",
                &["route", "code"],
            )?,
            request_seconds: spread(
                "farebox_request_seconds",
                "Whole calls, from the request's head to the answer's end",
                &["route"],
                &ROUTES_SECONDS,
            )?,
            overhead_seconds: spread(
                "farebox_overhead_seconds",
                "What the gateway added to a call: without the upstream's part",
                &["route"],
                &SHORT_SECONDS,
            )?,
            holds: count(
                "farebox_holds_total",
                "Holds by how they ended: captured, released, expired, refused",
                &["route", "outcome"],
            )?,
            credits_captured: sum("farebox_credits_captured_total", "Credits charged", &["route"])?,
            credits_released: sum(
                "farebox_credits_released_total",
                "Credits set aside and given back",
                &["route"],
            )?,
            credits_granted: sum("farebox_credits_granted_total", "Credits added", &["source"])?,
            ledger_batch_size: single(
                "farebox_ledger_batch_size",
                "Operations decided together",
                &SIZES,
            )?,
            ledger_commit_seconds: single(
                "farebox_ledger_commit_seconds",
                "Time to make a batch durable",
                &SHORT_SECONDS,
            )?,
            ledger_sync_lag_seconds: sync_lag,
            ledger_epoch: gauge("farebox_ledger_epoch", "Which life of Redis's data this is")?,
            ledger_recoveries: recoveries,
            ledger_outbox: gauge(
                "farebox_ledger_outbox_batches",
                "Batches in Redis that wait for Postgres",
            )?,
            ledger_redis_memory: gauge(
                "farebox_ledger_redis_memory_bytes",
                "Memory that Redis says it uses",
            )?,
            ledger_up: gauge("farebox_ledger_up", "1 while the ledger can write")?,
            route_cost_minor: amount(
                "farebox_route_cost_minor",
                "What one call costs the operator, in minor units of the currency",
                &["route", "currency"],
            )?,
            credit_price_minor: amount(
                "farebox_credit_price_minor",
                "What one credit sells for in the smallest pack, in minor units of the currency",
                &["currency"],
            )?,
            upstream_requests: count(
                "farebox_upstream_requests_total",
                "Attempts to have an upstream answer, by how they ended",
                &["upstream", "outcome"],
            )?,
            ready: gauge("farebox_ready", "1 while the gateway wants new calls")?,
            calls_in_flight: gauge("farebox_calls_in_flight", "Calls being served")?,
            connections: gauge("farebox_connections", "Open connections on the public listener")?,
            admin_wrong_tokens: wrong_tokens,
            pack_views,
            checkouts: count("farebox_checkouts_total", "Buyers sent to pay", &["pack"])?,
            purchases: count("farebox_purchases_total", "Packs paid for", &["pack"])?,
            buyers: gauge("farebox_buyers", "Distinct customers that ever bought")?,
            revenue_minor: count(
                "farebox_revenue_minor_total",
                "What was paid, in minor units of the currency",
                &["currency"],
            )?,
            stripe_webhooks: count(
                "farebox_stripe_webhooks_total",
                "Events from Stripe by what became of them",
                &["type", "outcome"],
            )?,
            registry,
        };
        for code in OWN_CODES {
            metrics.requests.with_label_values(&[NO_ROUTE, code]);
        }
        metrics.begin_holds(API_ROUTE);
        for source in SOURCES {
            metrics.credits_granted.with_label_values(&[source]);
        }
        Ok(metrics)
    }

    // A counter that appears with its first event hides that event: Prometheus sees no increase.
    // So every series whose labels are known exists before the first event, at 0. Series that exist
    // already keep their value.

    /// Has the series of a priced route exist.
    pub fn begin_route(&self, route: &str) {
        self.begin_holds(route);
        for code in CODES {
            self.requests.with_label_values(&[route, code]);
        }
    }

    /// Has the series of a pack, and of the currency that it is sold in (`eur`), exist.
    pub fn begin_pack(&self, pack: &str, currency: &str) {
        self.checkouts.with_label_values(&[pack]);
        self.purchases.with_label_values(&[pack]);
        self.revenue_minor.with_label_values(&[currency]);
    }

    /// Has the series of Stripe's events of these types exist, and of all others.
    pub fn begin_webhooks(&self, types: &[&str]) {
        for kind in types.iter().chain(&[OTHER_EVENTS]) {
            for outcome in EVENT_OUTCOMES {
                self.stripe_webhooks.with_label_values(&[kind, outcome]);
            }
        }
        for outcome in ["unsigned", "unreadable"] {
            self.stripe_webhooks.with_label_values(&[OTHER_EVENTS, outcome]);
        }
    }

    fn begin_holds(&self, route: &str) {
        for outcome in OUTCOMES {
            self.holds.with_label_values(&[route, outcome]);
        }
        self.credits_captured.with_label_values(&[route]);
        self.credits_released.with_label_values(&[route]);
    }

    /// The metrics as Prometheus scrapes them.
    ///
    /// # Errors
    /// If a metric cannot be encoded as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_and_no_account_label() {
        let metrics = Metrics::new().unwrap();
        metrics.requests.with_label_values(&["/v1/x", "200"]).inc();
        metrics.holds.with_label_values(&["/v1/x", "captured"]).inc();
        let text = metrics.render().unwrap();
        assert!(text.contains("farebox_requests_total{code=\"200\",route=\"/v1/x\"} 1"), "{text}");
        assert!(!text.contains("account"), "{text}");
    }
}
