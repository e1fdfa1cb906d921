//! What the phases know of one call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use prometheus::{IntCounterVec, IntGauge};

use super::addresses::Attempts;
use super::body::Sent;
use super::live::{Live, PricedRoute};
use crate::account::AccountId;
use crate::ledger::{CallId, Hold, HoldId};
use crate::price::CanonicalPath;
use crate::problem::Language;

/// One call, from its head to its settlement. Its hold is a guard: if the call is dropped at any
/// moment, the hold is released.
#[derive(Debug)]
pub struct Call {
    /// The request id, and the id of the hold.
    pub id: HoldId,
    /// The right to that hold, until it is asked for.
    pub unheld: Option<CallId>,
    pub started: Instant,
    pub language: Language,
    /// The config that this call runs on, whatever a reload brings meanwhile.
    pub live: Option<Arc<Live>>,
    /// Which of its routes.
    pub route: Option<usize>,
    pub account: Option<AccountId>,
    pub hold: Option<Hold>,
    /// The path that was priced.
    pub path: Option<CanonicalPath>,
    /// The query that goes with it, with its `?`.
    pub query: String,
    /// The status of an answer that Farebox gave itself.
    pub refused: Option<u16>,
    pub client: Option<IpAddr>,
    /// The `origin` header, where it is one that may read the answer.
    pub origin: Option<http::HeaderValue>,
    pub progress: Progress,
    /// Which addresses of the upstream were tried.
    pub attempts: Attempts,
    /// Whether it stands in the figures.
    pub is_counted: bool,
    /// `farebox_requests_total`
    pub requests: IntCounterVec,
    _in_flight: InFlight,
}

/// How far a call has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// When it was handed to the upstream's connection.
    pub forwarded: Option<Instant>,
    /// How much of the request has been handed over since.
    pub sent: Sent,
    /// The upstream's final status; 101 is one.
    pub status: Option<u16>,
    /// When the answer's body ended.
    pub ended: Option<Instant>,
}

impl Call {
    pub fn begin(in_flight: &CallsInFlight, requests: &IntCounterVec) -> Self {
        let unheld = CallId::new();
        Self {
            id: unheld.hold_id().clone(),
            unheld: Some(unheld),
            started: Instant::now(),
            language: Language::English,
            live: None,
            route: None,
            account: None,
            hold: None,
            path: None,
            query: String::new(),
            refused: None,
            client: None,
            origin: None,
            progress: Progress::default(),
            attempts: Attempts::default(),
            is_counted: false,
            requests: requests.clone(),
            _in_flight: in_flight.enter(),
        }
    }

    /// The rule that prices the call, once it is known.
    pub fn route(&self) -> Option<&PricedRoute> {
        self.live.as_ref()?.route(self.route?)
    }
}

/// How many calls are being served.
#[derive(Clone, Debug)]
pub struct CallsInFlight(IntGauge);

#[derive(Debug)]
struct InFlight(IntGauge);

impl CallsInFlight {
    /// Counts in `gauge`.
    pub fn new(gauge: IntGauge) -> Self {
        Self(gauge)
    }

    /// How many there are now.
    pub fn count(&self) -> i64 {
        self.0.get()
    }

    fn enter(&self) -> InFlight {
        self.0.inc();
        InFlight(self.0.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
