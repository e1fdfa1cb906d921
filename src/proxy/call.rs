//! One call. There is a type for each state that it goes through: arrived, admitted, forwarded.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, Method};
use pingora_error::{BError, Error, ErrorSource, ErrorType, Result};
use prometheus::{IntCounterVec, IntGauge};

use super::body::Sent;
use super::client::Client;
use super::client_address::ClientAddress;
use super::cors::Cors;
use super::live::{Destination, Outcome, PricedRoute};
use super::metered::Metered;
use super::retries::Repeatable;
use crate::account::AccountId;
use crate::ledger::{CallId, Hold, HoldId};
use crate::metrics::NO_ROUTE;
use crate::price::CanonicalPath;
use crate::problem::{Language, Shape};

/// Calls are counted under this status if their client left before any status was sent.
pub(super) const CLIENT_LEFT: u16 = 499;

/// Calls are counted under this status if they were dropped before any status was sent.
const CUT_OFF: u16 = 503;

/// A call whose head was read.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The call's unused id. Placing a hold uses it up, so a call has one hold at most.
    pub unheld: CallId,
    pub about: About,
    pub figures: Figures,
}

/// The facts of a call that its answers need.
#[derive(Debug)]
pub(super) struct About {
    /// The id of the request and of its hold.
    pub id: HoldId,
    pub client: Option<ClientAddress>,
    pub language: Language,
    /// The request's `origin` header, if that origin may read the answer.
    pub origin: Option<HeaderValue>,
}

/// A call that was identified, priced and held. Its hold is a guard: if the call is dropped, the
/// hold is released.
#[derive(Debug)]
pub(super) struct Admitted {
    pub account: AccountId,
    /// The rule that prices the call, from the config as it was when the call began. A reload does
    /// not change it.
    pub route: Arc<PricedRoute>,
    /// `None` if the call is free.
    pub hold: Option<Hold>,
    /// The state of a metered call; `None` if the call has a fixed price or is free.
    pub metered: Option<Box<Metered>>,
    /// The state for retries; `None` if no retry can get the answer of this call.
    pub repeatable: Option<Box<Repeatable>>,
    /// The path that is sent upstream: the path that was priced, with the model's name replaced if
    /// the upstream knows the model by another name.
    pub path: CanonicalPath,
    /// The query that follows the path, with its `?`.
    pub query: String,
    /// The headers that the `connection` header names. They are not forwarded.
    pub nominated: Vec<HeaderName>,
}

/// A call that was handed over to an upstream's connection.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub route: Arc<PricedRoute>,
    pub method: Method,
    pub hold: Option<Hold>,
    /// The state of a metered call; `None` if the call has a fixed price or is free.
    pub metered: Option<Box<Metered>>,
    /// The state for retries; `None` if no retry can get the answer of this call.
    pub repeatable: Option<Box<Repeatable>>,
    /// How much of the request has been handed over.
    pub sent: Sent,
    /// The upstream's final status. 101 counts as one.
    pub status: Option<u16>,
    /// Whether the answer's body has ended.
    pub is_whole: bool,
}

impl Admitted {
    /// The upstream that the call goes to.
    ///
    /// # Errors
    /// The route has no upstream. The config's check rules this out.
    pub fn destination(&self) -> Result<&Destination> {
        destination(&self.route, self.metered.as_deref())
    }
}

impl Forwarded {
    /// The upstream that the call goes to.
    ///
    /// # Errors
    /// The same as those of [`Admitted::destination`].
    pub fn destination(&self) -> Result<&Destination> {
        destination(&self.route, self.metered.as_deref())
    }

    /// Counts the outcome of the attempt that sent the request, if the upstream is responsible for
    /// it. Returns that outcome.
    pub fn count_attempt(&self, error: Option<&BError>) -> Option<Outcome> {
        use ErrorType::{ReadTimedout, WriteTimedout};
        let is_answered = self.status.map(Outcome::of_status);
        let outcome = match error {
            None => is_answered,
            Some(error) if error.esource() != &ErrorSource::Upstream => is_answered,
            Some(error) if *error.etype() == ReadTimedout && !self.sent.has_ended() => is_answered,
            Some(error) if matches!(error.etype(), ReadTimedout | WriteTimedout) => {
                Some(Outcome::Timeout)
            }
            Some(_) => Some(Outcome::Closed),
        };
        if let (Some(outcome), Ok(destination)) = (outcome, self.destination()) {
            destination.attempts.count(outcome);
        }
        outcome
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
    /// A call of `client`, whose head has just been read.
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
    /// The facts of a call whose head could not be read.
    pub fn unread() -> Self {
        let id = CallId::new().into();
        Self { id, client: None, language: Language::English, origin: None }
    }
}

/// The measurements of one call. They are recorded in the metrics once, when this is dropped.
#[derive(Debug)]
pub(super) struct Figures {
    /// The metric `farebox_requests_total`.
    requests: IntCounterVec,
    started: Instant,
    /// The route under which the call is counted, once it is known.
    pub route: Option<Arc<PricedRoute>>,
    /// The time at which the call was handed over to the upstream's connection.
    pub forwarded: Option<Instant>,
    /// The time at which the answer's body ended.
    pub ended: Option<Instant>,
    /// The status that the client was sent.
    pub status: Option<u16>,
    /// The shape of the JSON in which the client gets problems.
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

/// Records the call. A call without a status was cut off: by a stop whose waiting time had run out,
/// or by a panic.
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

/// Counts the calls that are being served.
#[derive(Clone, Debug)]
pub struct CallsInFlight(IntGauge);

#[derive(Debug)]
struct InFlight(IntGauge);

impl CallsInFlight {
    /// Creates a counter that keeps its count in `gauge`.
    pub fn new(gauge: IntGauge) -> Self {
        Self(gauge)
    }

    /// The number of calls that are being served now.
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
