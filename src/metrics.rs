//! Every metric, declared once. Metrics about credits count whole credits. No account is ever a label.

use std::collections::BTreeMap;

use prometheus::core::Collector as _;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

const OUTCOMES: [&str; 4] = ["captured", "released", "expired", "refused"];
const SOURCES: [&str; 4] = ["admin", "signup", "stripe", "import"];

/// The route label of requests that match no price rule: those for Farebox's own routes, and calls that
/// were refused before a rule was looked up.
pub const NO_ROUTE: &str = "none";

/// The route label of holds that were made through the API without a route.
pub const API_ROUTE: &str = "api";

/// The model label of metered calls on routes that have prices of their own.
pub const NO_MODEL: &str = "none";

/// The outcomes of an attempt to get an answer from an upstream: an answer that is not an error; no
/// connection; a silence that was too long; a connection that broke; an error of the client; an
/// error of the upstream.
pub const UPSTREAM_OUTCOMES: [&str; 6] =
    ["ok", "connect", "timeout", "closed", "status_4xx", "status_5xx"];

/// The status codes of priced calls: those of Farebox's own answers, and those of a failing
/// upstream.
const CODES: [&str; 15] = [
    "200", "400", "402", "403", "404", "408", "409", "413", "422", "429", "499", "500", "502",
    "503", "504",
];

/// The status codes of Farebox's own routes.
const OWN_CODES: [&str; 17] = [
    "200", "201", "303", "400", "401", "402", "403", "404", "405", "408", "409", "413", "422",
    "429", "499", "500", "503",
];

/// The outcomes of those Stripe events whose type is known.
const EVENT_OUTCOMES: [&str; 7] =
    ["applied", "foreign", "ignored", "failed", "received", "duplicate", "unavailable"];

/// The type label for all of Stripe's events whose type Farebox does not read.
pub const OTHER_EVENTS: &str = "other";

const ROUTES_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
const SHORT_SECONDS: [f64; 12] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
const SIZES: [f64; 11] = [1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024.];

/// Builds one metric: `declare!(type, name, help)`, followed by its labels and its buckets if the
/// type has them.
macro_rules! declare {
    (Histogram, $name:literal, $help:literal, $buckets:expr) => {
        Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec()))
    };
    (HistogramVec, $name:literal, $help:literal, $labels:expr, $buckets:expr) => {
        HistogramVec::new(HistogramOpts::new($name, $help).buckets($buckets.to_vec()), $labels)
    };
    ($kind:ident, $name:literal, $help:literal) => {
        $kind::with_opts(Opts::new($name, $help))
    };
    ($kind:ident, $name:literal, $help:literal, $labels:expr) => {
        $kind::new(Opts::new($name, $help), $labels)
    };
}

/// Turns the table of metrics into [`Metrics`] and its constructor.
macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $kind:ident($name:literal, $help:literal $(, $more:expr)*);)+) => {
        /// Handles to every metric of one gateway. Cheap to clone; all clones share the same counts.
        #[derive(Clone, Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = concat!("`", $name, "`: ", $help, ".")] $(#[$doc])* pub $field: $kind,)+
        }

        impl Metrics {
            /// Declares every metric in a registry of its own.
            fn declare() -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                $(
                    let $field = declare!($kind, $name, $help $(, $more)*)?;
                    registry.register(Box::new($field.clone()))?;
                )+
                Ok(Self { registry, $($field,)+ })
            }
        }
    };
}

metrics! {
    /// Code 499 counts clients that left before an answer. Code 503 also counts calls that a stop cut
    /// off before their answer.
    requests: IntCounterVec(
        "farebox_requests_total", "Answered requests by route and status code", &["route", "code"]);
    request_seconds: HistogramVec(
        "farebox_request_seconds", "Whole calls, from the request's head to the answer's end",
        &["route"], ROUTES_SECONDS);
    overhead_seconds: HistogramVec(
        "farebox_overhead_seconds", "What the gateway added to a call: without the upstream's part",
        &["route"], SHORT_SECONDS);
    holds: IntCounterVec(
        "farebox_holds_total", "Holds by how they ended: captured, released, expired, refused",
        &["route", "outcome"]);
    credits_captured: CounterVec("farebox_credits_captured_total", "Credits charged", &["route"]);
    credits_released: CounterVec(
        "farebox_credits_released_total", "Credits set aside and given back", &["route"]);
    /// Charges above the hold of metered calls, whether they became a debt or were given up.
    overrun_credits: CounterVec(
        "farebox_overrun_credits_total", "Credits that metered calls used above their holds",
        &["route"]);
    replays: IntCounterVec(
        "farebox_replays_total", "Retries that got the answer which was paid for", &["route"]);
    /// Sources: admin, signup, stripe, import.
    credits_granted: CounterVec("farebox_credits_granted_total", "Credits added", &["source"]);
    ledger_batch_size: Histogram(
        "farebox_ledger_batch_size", "Operations decided together", SIZES);
    ledger_commit_seconds: Histogram(
        "farebox_ledger_commit_seconds", "Time to make a batch durable", SHORT_SECONDS);
    ledger_sync_lag_seconds: Gauge(
        "farebox_ledger_sync_lag_seconds",
        "Age of the oldest operation that is not in the ledger's tables yet");
    /// Always 0 on the embedded ledger.
    ledger_epoch: IntGauge("farebox_ledger_epoch", "The number of the cluster ledger's epoch");
    ledger_recoveries: IntCounter(
        "farebox_ledger_recoveries_total",
        "Recoveries of the ledger by this gateway, after Redis had lost data");
    ledger_outbox: IntGauge(
        "farebox_ledger_outbox_batches", "Batches in Redis that wait for Postgres");
    ledger_redis_memory: IntGauge(
        "farebox_ledger_redis_memory_bytes", "Memory that Redis says it uses");
    ledger_up: IntGauge("farebox_ledger_up", "1 while the ledger can write");
    ledger_clock_skew_seconds: Gauge(
        "farebox_ledger_clock_skew_seconds",
        "How far this machine's clock is ahead of Redis's; negative where it is behind");
    ledger_other_redis: IntGauge(
        "farebox_ledger_other_redis",
        "1 while this gateway reaches another Redis than the ledger's: it is not ready then");
    route_cost_minor: GaugeVec(
        "farebox_route_cost_minor",
        "What one call costs the operator, in minor units of the currency", &["route", "currency"]);
    credit_price_minor: GaugeVec(
        "farebox_credit_price_minor",
        "What one credit sells for in the smallest pack, in minor units of the currency",
        &["currency"]);
    /// The model label is the `match` of the model's price, or [`NO_MODEL`] if the route has prices of its own.
    tokens: IntCounterVec(
        "farebox_tokens_total", "Usage of metered calls, by kind", &["route", "model", "kind"]);
    usage_missing: IntCounterVec(
        "farebox_usage_missing_total", "Charged answers whose usage could not be known", &["route"]);
    unpriced_usage: IntCounterVec(
        "farebox_unpriced_usage_total", "Usage of a kind that has no price, by kind",
        &["model", "kind"]);
    /// Attempts to get an answer from an upstream, by [outcome](UPSTREAM_OUTCOMES).
    upstream_requests: IntCounterVec("farebox_upstream_requests_total",
        "Attempts to get an answer from an upstream, by outcome", &["upstream", "outcome"]);
    ready: IntGauge("farebox_ready", "1 while the gateway wants new calls");
    calls_in_flight: IntGauge("farebox_calls_in_flight", "Calls being served");
    tls_files_unusable: IntGauge(
        "farebox_tls_files_unusable",
        "1 while the changed TLS files cannot be used, so that the earlier certificate stays in use");
    connections: IntGauge("farebox_connections", "Open connections on the public listener");
    admin_wrong_tokens: IntCounter(
        "farebox_admin_wrong_tokens_total", "Requests to the admin listener with a wrong token");
    pack_views: IntCounter(
        "farebox_pack_views_total", "Times the list of packs was asked for");
    checkouts: IntCounterVec("farebox_checkouts_total", "Checkout sessions opened", &["pack"]);
    purchases: IntCounterVec("farebox_purchases_total", "Packs paid for", &["pack"]);
    buyers: IntGauge("farebox_buyers", "Distinct customers that ever bought");
    revenue_minor: IntCounterVec(
        "farebox_revenue_minor_total", "The sum of payments, in minor units of the currency",
        &["currency"]);
    /// Outcomes: applied, foreign, ignored, failed, received (stored, not applied yet), duplicate,
    /// unsigned, unreadable, unavailable.
    stripe_webhooks: IntCounterVec(
        "farebox_stripe_webhooks_total", "Events from Stripe by outcome", &["type", "outcome"]);
}

impl Metrics {
    /// Creates the metrics, and the series of Farebox's own routes.
    ///
    /// # Errors
    /// Two metrics have the same name. A test makes sure that they have not.
    pub fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self::declare()?;
        for code in OWN_CODES {
            metrics.requests.with_label_values(&[NO_ROUTE, code]);
        }
        metrics.begin_holds(API_ROUTE);
        for source in SOURCES {
            metrics.credits_granted.with_label_values(&[source]);
        }
        Ok(metrics)
    }

    // Prometheus sees no increase when a counter appears together with its first event, so that event
    // would be hidden. Therefore every series whose labels are known is created before its first event,
    // at 0. A series that exists already keeps its value.

    /// Creates the series of a priced route.
    pub fn begin_route(&self, route: &str) {
        self.begin_holds(route);
        self.replays.with_label_values(&[route]);
        for code in CODES {
            self.requests.with_label_values(&[route, code]);
        }
    }

    /// Creates the series of a pack and of its currency (`eur`).
    pub fn begin_pack(&self, pack: &str, currency: &str) {
        self.checkouts.with_label_values(&[pack]);
        self.purchases.with_label_values(&[pack]);
        self.revenue_minor.with_label_values(&[currency]);
    }

    /// Creates the series of these types of Stripe's events, and of all other types together.
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
        self.overrun_credits.with_label_values(&[route]);
    }

    /// Sets the costs of routes, each under its route and currency, and removes all others. A scrape
    /// meanwhile finds no series missing that was there before and stays.
    pub fn show_route_costs(&self, costs: &BTreeMap<[String; 2], f64>) {
        show_only(&self.route_cost_minor, ["route", "currency"], costs);
    }

    /// Sets the price of a credit under its currency, and removes all others, as
    /// [`Self::show_route_costs`] does.
    pub fn show_credit_price(&self, price: &BTreeMap<[String; 1], f64>) {
        show_only(&self.credit_price_minor, ["currency"], price);
    }

    /// The metrics in Prometheus's text format.
    ///
    /// # Errors
    /// A metric cannot be encoded as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Sets the series of `gauges` to these values by their labels, and removes every other series.
fn show_only<const N: usize>(
    gauges: &GaugeVec,
    names: [&str; N],
    values: &BTreeMap<[String; N], f64>,
) {
    for (labels, value) in values {
        gauges.with_label_values(&labels.each_ref().map(String::as_str)).set(*value);
    }
    for family in gauges.collect() {
        for series in family.get_metric() {
            let label = |name: &str| {
                let labels = series.get_label().iter();
                let mut values = labels.filter(|label| label.name() == name);
                values.next().map(|label| label.value().to_owned()).unwrap_or_default()
            };
            let labels = names.map(label);
            if !values.contains_key(&labels) {
                // It fails only if the series is gone already.
                let _ = gauges.remove_label_values(&labels.each_ref().map(String::as_str));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_that_stay_are_there_at_every_scrape_while_prices_change() {
        let metrics = Metrics::new().unwrap();
        let costs = |routes: &[(&str, f64)]| -> BTreeMap<[String; 2], f64> {
            let costs = routes.iter().map(|(route, cost)| (*route, *cost));
            costs.map(|(route, cost)| ([route.to_owned(), "eur".to_owned()], cost)).collect()
        };
        let mut tables = [costs(&[("/z", 4.0), ("/b", 1.0)]), costs(&[("/z", 5.0), ("/c", 1.0)])];
        // Many series, so that a scrape falls between two of them.
        for table in &mut tables {
            table.extend((0..300).map(|n| ([format!("/m{n}"), "eur".to_owned()], 1.0)));
        }
        metrics.show_route_costs(&tables[0]);
        let scraped = metrics.clone();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let scrapes = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let text = scraped.render().unwrap();
                    let cost = "farebox_route_cost_minor{currency=\"eur\",route=\"/z\"}";
                    assert!(text.contains(cost), "{text}");
                }
            });
            for turn in 0..1000 {
                metrics.show_route_costs(&tables[turn % 2]);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            scrapes.join().unwrap();
        });
        metrics.show_route_costs(&costs(&[("/z", 5.0), ("/c", 1.0)]));
        let text = metrics.render().unwrap();
        let costs = text.lines().filter(|line| line.starts_with("farebox_route_cost_minor{"));
        let costs: Vec<_> = costs.map(|line| line.split("route=").nth(1).unwrap()).collect();
        assert_eq!(costs, ["\"/c\"} 1", "\"/z\"} 5"], "what left the table is gone");
        metrics.show_credit_price(&BTreeMap::from([(["eur".to_owned()], 19.0)]));
        metrics.show_credit_price(&BTreeMap::from([(["usd".to_owned()], 21.0)]));
        let text = metrics.render().unwrap();
        let prices = text.lines().filter(|line| line.starts_with("farebox_credit_price_minor{"));
        assert_eq!(prices.collect::<Vec<_>>(), ["farebox_credit_price_minor{currency=\"usd\"} 21"]);
    }

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
