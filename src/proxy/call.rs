//! One call, a type for each state that it is in: arrived, admitted, forwarded.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method};
use pingora_error::{Error, ErrorType, Result};
use prometheus::{IntCounterVec, IntGauge};

use super::body::Sent;
use super::client::Client;
use super::cors::Cors;
use super::live::{Destination, PricedRoute};
use super::metered::Metered;
use crate::account::AccountId;
use crate::ledger::{CallId, Hold, HoldId};
use crate::metrics::NO_ROUTE;
use crate::price::CanonicalPath;
use crate::problem::{Language, Shape};

/// Counted for a client that left before it was sent a status.
pub(super) const CLIENT_LEFT: u16 = 499;

/// Counted for a call that was dropped before its client was sent a status.
const CUT_OFF: u16 = 503;

/// A call whose head was read.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The right to the call's hold.
    pub unheld: CallId,
    pub about: About,
    pub figures: Figures,
}

/// The facts of a call that its answers need.
#[derive(Debug)]
pub(super) struct About {
    /// The request id, and the id of the hold.
    pub id: HoldId,
    pub client: Option<IpAddr>,
    pub language: Language,
    /// The `origin` header, where it is one that may read the answer.
    pub origin: Option<HeaderValue>,
}

/// A call that was identified, priced and held. Its hold is a guard: if the call is dropped at any
/// moment, the hold is released.
#[derive(Debug)]
pub(super) struct Admitted {
    pub account: AccountId,
    /// The rule that prices the call, from the config at the time the call began. A reload does not change it.
    pub route: Arc<PricedRoute>,
    /// `None` where the call is free.
    pub hold: Option<Hold>,
    /// How the call is priced by its usage, where it is.
    pub metered: Option<Box<Metered>>,
    /// The path that goes upstream: the one that was priced, with the model's other name in it.
    pub path: CanonicalPath,
    /// The query that goes with it, with its `?`.
    pub query: String,
    /// Headers that the `connection` header names, and that go no further.
    pub nominated: Vec<HeaderName>,
}

/// A call that was handed to an upstream's connection.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub route: Arc<PricedRoute>,
    pub method: Method,
    pub hold: Option<Hold>,
    /// How the call is priced by its usage, where it is.
    pub metered: Option<Box<Metered>>,
    /// How much of the request has been handed over.
    pub sent: Sent,
    /// The upstream's final status; 101 is one.
    pub status: Option<u16>,
    /// The answer's body has ended.
    pub is_whole: bool,
}

impl Admitted {
    /// Where the call goes.
    ///
    /// # Errors
    /// Where there is no such place, which the config's check rules out.
    pub fn destination(&self) -> Result<&Destination> {
        destination(&self.route, self.metered.as_deref())
    }
}

impl Forwarded {
    /// Where the call goes, as [`Admitted::destination`].
    ///
    /// # Errors
    /// As there.
    pub fn destination(&self) -> Result<&Destination> {
        destination(&self.route, self.metered.as_deref())
    }
}

fn destination<'a>(
    route: &'a PricedRoute,
    metered: Option<&'a Metered>,
) -> Result<&'a Destination> {
    let of_model = metered.and_then(|metered| metered.terms.destination.as_deref());
    let destination = of_model.or(route.destination.as_deref());
    destination.ok_or_else(|| Error::explain(ErrorType::InternalError, "a route without upstream"))
}

impl Arrived {
    /// A call of `client`, whose head was read just now.
    pub fn new(
        client: &Client,
        cors: &Cors,
        in_flight: &CallsInFlight,
        requests: &IntCounterVec,
    ) -> Self {
        let unheld = CallId::new();
        let headers = &client.head().headers;
        let about = About {
            id: unheld.hold_id().clone(),
            client: client.address(),
            language: Language::of(headers),
            origin: cors.allowed(headers),
        };
        Self { unheld, about, figures: Figures::begin(in_flight, requests) }
    }
}

impl About {
    /// The facts of a request whose head could not be read.
    pub fn unread() -> Self {
        let id = CallId::new().into();
        Self { id, client: None, language: Language::English, origin: None }
    }
}

/// The figures of one call. They are counted once: when this is dropped.
#[derive(Debug)]
pub(super) struct Figures {
    /// `farebox_requests_total`
    requests: IntCounterVec,
    started: Instant,
    /// The route that the call is counted under, once it is known.
    pub route: Option<Arc<PricedRoute>>,
    /// When the call was handed to the upstream's connection.
    pub forwarded: Option<Instant>,
    /// When the answer's body ended.
    pub ended: Option<Instant>,
    /// The status that the client was sent.
    pub status: Option<u16>,
    /// The shape of the problems that the client is told.
    pub shape: Shape,
    _in_flight: InFlight,
}

impl Figures {
    fn begin(in_flight: &CallsInFlight, requests: &IntCounterVec) -> Self {
        Self {
            requests: requests.clone(),
            started: Instant::now(),
            route: None,
            forwarded: None,
            ended: None,
            status: None,
            shape: Shape::default(),
            _in_flight: in_flight.enter(),
        }
    }
}

/// A call that ends without a status was cut off: by a stop that waited long enough, or by a panic.
impl Drop for Figures {
    fn drop(&mut self) {
        let status = self.status.unwrap_or(CUT_OFF);
        let now = Instant::now();
        let Some(route) = &self.route else {
            self.requests.with_label_values(&[NO_ROUTE, &status.to_string()]).inc();
            return;
        };
        if status == 200 {
            route.answered_200.inc();
        } else {
            self.requests.with_label_values(&[&*route.label, &status.to_string()]).inc();
        }
        let whole = now.saturating_duration_since(self.started);
        route.request_seconds.observe(whole.as_secs_f64());
        let before = self.forwarded.unwrap_or(now).saturating_duration_since(self.started);
        let after = now.saturating_duration_since(self.ended.unwrap_or(now));
        route.overhead_seconds.observe((before + after).as_secs_f64());
    }
}

/// How many calls are being served.
#[derive(Clone, Debug)]
pub struct CallsInFlight(IntGauge);

#[derive(Debug)]
struct InFlight(IntGauge);

impl CallsInFlight {
    /// Creates a counter that keeps its count in `gauge`.
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
