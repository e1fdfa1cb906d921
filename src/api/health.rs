//! The routes for probes and scrapers, which need no token.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use prometheus::IntGauge;

use crate::metrics::Metrics;

/// Whether the gateway wants new calls: it has started completely, it is not stopping, and the
/// Redis that it reaches is not a wrong one. Probes read the gauges `farebox_ready` and
/// `farebox_ledger_other_redis` themselves, so that probes and metrics always agree.
#[derive(Clone, Debug)]
pub struct Readiness {
    ready: IntGauge,
    other_redis: IntGauge,
}

impl Readiness {
    /// The readiness of a gateway that is not ready yet.
    pub fn new(metrics: &Metrics) -> Self {
        Self { ready: metrics.ready.clone(), other_redis: metrics.ledger_other_redis.clone() }
    }

    /// Sets whether the gateway has started and is not stopping.
    pub fn set(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// The value that [`Self::set`] set last.
    pub fn get(&self) -> bool {
        self.ready.get() == 1
    }
}

/// Answers 200 while the process lives. The answer does not depend on other services, so that no
/// supervisor restarts the gateway because of their outage.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(readiness): State<Readiness>) -> Response {
    let unready = match (readiness.get(), readiness.other_redis.get() == 1) {
        (true, false) => return "ready\n".into_response(),
        (true, true) => "it reaches another Redis than the ledger's\n",
        (false, _) => "stopping, or not started\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, unready).into_response()
}

pub(super) async fn metrics(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
