//! The routes for probes and scrapers, which need no token.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use prometheus::IntGauge;

use crate::metrics::Metrics;

/// Whether the gateway accepts new calls: its config and migrations are done, and it is not
/// stopping. The value is stored in the gauge `farebox_ready`, so that probe and metric cannot
/// differ.
#[derive(Clone, Debug)]
pub struct Readiness(IntGauge);

impl Readiness {
    /// The readiness of a gateway that is not ready yet.
    pub fn new(metrics: &Metrics) -> Self {
        Self(metrics.ready.clone())
    }

    /// Sets the value.
    pub fn set(&self, ready: bool) {
        self.0.set(i64::from(ready));
    }

    /// The value that was set last.
    pub fn get(&self) -> bool {
        self.0.get() == 1
    }
}

/// Answers 200 while the process lives. It does not depend on other services, so their outage makes
/// no supervisor restart the gateway.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(readiness): State<Readiness>) -> Response {
    if readiness.get() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping, or not started\n").into_response()
    }
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
