//! The steps of a call up to its hold: identify → price → hold. `forward.rs` has the steps after it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::body::{self, expects_continue};
use super::body_memory::BodyMemory;
use super::call::{About, Admitted, Arrived, CLIENT_LEFT, CallsInFlight, Figures};
use super::client::Client;
use super::connect::Connector;
use super::live::{Live, PricedRoute};
use super::metered::{self, Admission};
use super::options::GateOptions;
use super::refused::Refused;
use super::retries::Repeatable;
use super::target::{self, Target};
use super::{hop, own, reply};
use crate::account::AccountId;
use crate::api::STRIPE_WEBHOOK_PATH;
use crate::app::{App, refuse_quote};
use crate::credits::Credits;
use crate::ledger::CallId;
use crate::price::RoutePrice;
use crate::problem::{Problem, texts};

/// Serves every call of the public listener.
pub struct Gate {
    pub(super) app: Arc<App>,
    live: Arc<ArcSwap<Live>>,
    own: Router,
    pub(super) options: GateOptions,
    in_flight: CallsInFlight,
    pub(super) memory: Arc<BodyMemory>,
    pub(super) connector: Connector,
}

/// The most bytes that a request to `/check` may have in addition to the body that it asks about.
const CHECK_ENVELOPE: usize = 64 * 1024;

/// A call whose account and route are known.
pub(super) struct Called {
    pub account: AccountId,
    pub route: Arc<PricedRoute>,
    /// The fixed price; 0 if the route has none.
    pub credits: Credits,
    /// The config, for a call that is metered or that Farebox answers itself; `None` for other
    /// calls.
    live: Option<Arc<Live>>,
    pub target: Target,
    /// The state for retries; `None` if this call is no retry, and no retry can get its answer.
    repeatable: Option<Box<Repeatable>>,
}

/// The fate of the client's connection after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The answer is complete. The session decides whether the connection stays open.
    GoesOn,
    /// The connection must be closed: the answer is not complete, or the client has left.
    Closes,
}

impl Gate {
    /// Creates a gate. It forwards calls to `live`'s upstreams, and passes calls of Farebox's own
    /// routes to `own`.
    pub fn new(
        app: Arc<App>,
        live: Arc<ArcSwap<Live>>,
        own: Router,
        options: GateOptions,
        in_flight: CallsInFlight,
    ) -> Self {
        let memory = BodyMemory::new(options.body_memory);
        let connector = Connector::new(options.upstream_idle);
        Self { app, live, own, options, in_flight, memory, connector }
    }

    /// Closes idle connections to upstreams whose time is up. Runs until the future is dropped.
    pub(super) async fn keep_swept(&self) {
        self.connector.keep_swept().await;
    }

    /// Serves one request, whose head has been read.
    pub(super) async fn serve(&self, client: &mut Client) -> After {
        client.begin_call();
        let (cors, requests) = (&self.options.cors, &self.app.metrics.requests);
        let arrived = Arrived::new(client, cors, &self.in_flight, requests);
        let Arrived { unheld, about, mut figures } = arrived;
        let ended = self.pass(client, unheld, &about, &mut figures).await;
        if ended.is_err() {
            client.close_afterwards();
            figures.status = figures.status.or(Some(CLIENT_LEFT));
            // The part of the answer that was written is still sent. An error means that the client
            // is gone.
            let _ = client.flush().await;
            client.break_off();
            return After::Closes;
        }
        match client.flush().await {
            Ok(()) => After::GoesOn,
            Err(_) => After::Closes,
        }
    }

    /// Answers a request whose head could not be read.
    pub(super) async fn refuse_head(&self, client: &mut Client) {
        let about = About::unread();
        let problem = Problem::unreadable_head();
        if reply::unread(client, &about, &self.options.cors, &problem).is_ok() {
            let _ = client.flush().await;
        }
        let status = problem.status.as_u16().to_string();
        let labels = [crate::metrics::NO_ROUTE, &status];
        self.app.metrics.requests.with_label_values(&labels).inc();
    }

    /// The ladder of steps that a call goes through. An error means that the answer is not
    /// complete.
    async fn pass(
        &self,
        client: &mut Client,
        unheld: CallId,
        about: &About,
        figures: &mut Figures,
    ) -> Result<()> {
        hop::drop_unnamed_upgrade(client.head_mut());
        let read = match client.head().method {
            // After a CONNECT, the bytes that follow are not a body (RFC 9110, 9.3.6).
            Method::CONNECT => Err(Problem::method_not_allowed()),
            _ => target::read(client, self.options.max_header_bytes),
        };
        let target = match read {
            Ok(target) => target,
            Err(problem) => {
                // The end of this request is not known, so no further request can be read from this
                // connection.
                client.close_afterwards();
                return self.refuse(client, about, figures, &problem);
            }
        };
        let head = client.head();
        if self.options.cors.is_preflight(&head.method, &head.headers) {
            let head = self.options.cors.preflight(&head.headers)?;
            figures.status = Some(head.status.as_u16());
            return reply::send(client, about, &self.options.cors, head, &[]);
        }
        // Pingora looks only at the first `connection` header.
        if hop::asks_to_close(&client.head().headers) {
            client.close_afterwards();
        }
        if self.is_own(target.path.as_str()) {
            let cors = &self.options.cors;
            let wait = own::Wait {
                time: self.options.own_body_timeout,
                stop: self.options.stop.clone(),
                longest: self.longest_own_body(target.path.as_str()),
                memory: &self.memory,
            };
            let answered = own::answer(client, about, &self.own, cors, &target, wait);
            figures.status = Some(Box::pin(answered).await?);
            return Ok(());
        }
        let mut called = match self.find(client, about, figures, target).await {
            Ok(called) => called,
            Err(problem) => return self.refuse(client, about, figures, &problem),
        };
        if let Some(live) = called.live {
            let Called { account, route, target, repeatable, .. } = called;
            if route.metered.is_none() {
                return self.list_models(client, about, figures, &live);
            }
            let (memory, silence) = (&self.memory, self.options.body_timeout);
            let app = &*self.app;
            let admission =
                Admission { app, live, route, account, target, repeatable, memory, silence };
            return Box::pin(self.pass_metered(client, unheld, about, figures, admission)).await;
        }
        if let Some(repeatable) = called.repeatable.take() {
            let passed = self.pass_repeatable(client, unheld, about, figures, called, repeatable);
            return Box::pin(passed).await;
        }
        let mut call = match self.admit(client, unheld, called).await {
            Ok(call) => call,
            Err(problem) => return self.refuse(client, about, figures, &problem),
        };
        let (memory, silence) = (&self.memory, self.options.body_timeout);
        match body::read_small(client, memory, &call.account, silence).await {
            Ok((mut body, sent)) => {
                self.forward(client, about, figures, &mut call, &mut body, sent).await
            }
            Err(unread) => {
                // Nothing was forwarded, so the hold is released.
                drop(call);
                Box::pin(self.turn_away(client, about, figures, unread.into())).await
            }
        }
    }

    /// Answers a call that is not forwarded.
    pub(super) async fn turn_away(
        &self,
        client: &mut Client,
        about: &About,
        figures: &mut Figures,
        refused: Refused,
    ) -> Result<()> {
        match refused {
            Refused::Told(problem) => self.refuse(client, about, figures, &problem),
            Refused::Last(problem) => {
                // The rest of the body may still arrive, so no other request can be read from this
                // connection.
                client.close_afterwards();
                self.refuse(client, about, figures, &problem)
            }
            Refused::Left(error) => Err(error),
            Refused::Answered(replay) => self.replay(client, about, figures, *replay).await,
        }
    }

    /// Serves a metered call, from its body to its end.
    async fn pass_metered(
        &self,
        client: &mut Client,
        unheld: CallId,
        about: &About,
        figures: &mut Figures,
        admission: Admission<'_>,
    ) -> Result<()> {
        match metered::admit(client, unheld, admission).await {
            Ok((mut call, mut body, sent)) => {
                self.forward(client, about, figures, &mut call, &mut body, sent).await
            }
            Err(refused) => self.turn_away(client, about, figures, refused).await,
        }
    }

    /// Answers with the list of models.
    fn list_models(
        &self,
        client: &mut Client,
        about: &About,
        figures: &mut Figures,
        live: &Live,
    ) -> Result<()> {
        let listing = live.listing();
        let mut head = ResponseHeader::build(StatusCode::OK, Some(4))?;
        head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
        head.insert_header(header::CONTENT_LENGTH, listing.len())?;
        figures.status = Some(StatusCode::OK.as_u16());
        let waits = expects_continue(client.head());
        client.close_before_request_ends(waits);
        let body: &[u8] = if client.asks_for_head() { &[] } else { listing };
        reply::send(client, about, &self.options.cors, head, body)
    }

    fn is_own(&self, path: &str) -> bool {
        let under = |parent: &str| {
            path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        under(&self.options.prefix) || path == STRIPE_WEBHOOK_PATH
    }

    /// The limit on the body of a request to one of Farebox's own routes, in bytes; 0 for the usual
    /// limit. `/check` needs a higher limit, because it takes the body of a metered call.
    fn longest_own_body(&self, path: &str) -> usize {
        if path.strip_prefix(&self.options.prefix) != Some("/check") {
            return 0;
        }
        self.app.largest_metered_body().saturating_add(CHECK_ENVELOPE)
    }

    /// Identifies the caller, and finds the price of the call.
    async fn find(
        &self,
        client: &Client,
        about: &About,
        figures: &mut Figures,
        target: Target,
    ) -> Result<Called, Problem> {
        let head = client.head();
        let ip = about.client.as_ref().map(|client| client.ip);
        let identified = self.app.identify(&head.headers, ip).await;
        let live = self.live.load();
        let quote = live.catalogue.prices.quote(&head.method, &target.path);
        // Every rule of the table has a route, so this error does not occur.
        let route = |index| live.route(index).ok_or_else(Problem::no_price_rule);
        if identified.is_err()
            && let Ok(quote) = &quote
        {
            figures.shape = route(quote.route.index)?.shape();
        }
        let identity = identified?;
        let quote = quote.map_err(refuse_quote)?;
        let route = route(quote.route.index)?.clone();
        figures.shape = route.shape();
        let asks_for_websocket = client.asks_for_upgrade() && hop::is_websocket(&head.headers);
        if asks_for_websocket && !route.rule.websocket {
            return Err(Problem::bad_request(texts::NO_WEBSOCKET));
        }
        figures.route = Some(route.clone());
        let is_own = matches!(route.rule.price, RoutePrice::Answer(_));
        let live = (route.metered.is_some() || is_own).then(|| Arc::clone(&live));
        let credits = quote.credits.unwrap_or_default();
        let is_priced = route.metered.is_some() || !credits.is_zero();
        let repeatable = match self.options.retries.as_ref().filter(|_| is_priced) {
            Some(retries) => retries.begin(client, &identity, &target, &self.memory)?,
            None => None,
        };
        Ok(Called { account: identity.account, route, credits, live, target, repeatable })
    }

    /// Holds the credits of a call with a fixed price. A call that is refused here never reaches an
    /// upstream.
    async fn admit(
        &self,
        client: &Client,
        unheld: CallId,
        called: Called,
    ) -> Result<Admitted, Problem> {
        let Called { account, route, credits, target, .. } = called;
        if let Some(limit) = metered::limit(&client.head().headers)?
            && credits > limit
        {
            return Err(Box::pin(self.refuse_price(&account, credits, limit)).await);
        }
        let hold = if credits.is_zero() {
            None
        } else {
            let label = route.label.clone();
            let held = self.app.ledger.hold(unheld, account.clone(), credits, label).await;
            Some(held.map_err(|refusal| self.app.refuse_call(refusal, credits))?)
        };
        let Target { path, query, nominated } = target;
        let (metered, repeatable) = (None, None);
        Ok(Admitted { account, route, hold, metered, repeatable, path, query, nominated })
    }

    /// The problem for a call whose price is above the client's own limit. If the account is
    /// frozen, the problem says that instead.
    async fn refuse_price(&self, account: &AccountId, price: Credits, limit: Credits) -> Problem {
        match self.app.ledger.balance(account).await {
            Ok(Some(balance)) if balance.frozen => Problem::account_frozen(),
            Ok(_) => Problem::price_over_limit(price, limit),
            Err(_) => Problem::ledger_unavailable(),
        }
    }

    /// Answers with `problem`.
    pub(super) fn refuse(
        &self,
        client: &mut Client,
        about: &About,
        figures: &mut Figures,
        problem: &Problem,
    ) -> Result<()> {
        figures.status = Some(problem.status.as_u16());
        // The rest of the request's body is read, so that the client sees the answer and can use
        // its connection again. But a client that waits for a 100 may never send the body: its
        // connection is closed.
        let waits = expects_continue(client.head());
        client.close_before_request_ends(waits);
        reply::problem(client, about, figures.shape, &self.options.cors, problem)
    }
}
