//! `GET /events`: an account's balance as it changes, as server-sent events.
//!
//! Calls do not announce that they change a balance. Instead, the `Balance` operation of the ledger
//! polls each watched account, once for all streams of that account.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRef, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use http::{HeaderName, StatusCode};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::account::AccountId;
use crate::api::balance::BalanceBody;
use crate::api::caller::KnownCaller;
use crate::app::App;
use crate::identify::Credentials;
use crate::ledger::{Balance, Ledger};
use crate::problem::{Problem, texts};

/// The most streams of one account on a gateway. The tabs of one browser share a stream.
const MAX_STREAMS: usize = 20;

/// The interval of polling a watched account, and of checking a stream's credential.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// The interval grows by this time for each watched account, so that the ledger is polled at most
/// ten thousand times a second.
const LONGER_PER_ACCOUNT: Duration = Duration::from_micros(100);

/// If no event was sent for this long, a comment line is sent, so that proxies do not close the
/// stream as idle.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Tells nginx not to buffer the stream.
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

/// The state of the handler.
#[derive(Clone)]
pub(super) struct Events {
    app: Arc<App>,
    watched: Arc<Watched>,
    stopping: watch::Receiver<bool>,
}

impl Events {
    /// Creates the state. The streams end when `stopping` turns true.
    pub fn new(app: Arc<App>, stopping: watch::Receiver<bool>) -> Self {
        let accounts = Mutex::new(HashMap::new());
        let watched = Arc::new(Watched { ledger: app.ledger.clone(), accounts });
        Self { app, watched, stopping }
    }
}

impl FromRef<Events> for Arc<App> {
    fn from_ref(events: &Events) -> Self {
        events.app.clone()
    }
}

/// Sends the caller's balance now and after each change, in events named `balance`. Their data is
/// that of `GET /balance`. The stream ends when the credential does.
#[utoipa::path(get, path = "/events", responses(
    (status = 200, content_type = "text/event-stream", body = BalanceBody), (status = 401),
    (status = 429), (status = 503)))]
pub(super) async fn events(
    State(Events { app, watched, stopping }): State<Events>,
    KnownCaller { identity, credentials }: KnownCaller,
) -> Result<Response, Problem> {
    let account = identity.account;
    let balances = watched.subscribe(&account).ok_or_else(too_many)?;
    let first = app.ledger.balance(&account).await.map_err(|_| Problem::ledger_unavailable())?;
    let mut tick = interval(POLL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first = Some(first.unwrap_or_default());
    let stream =
        Stream { app, credentials, account, balances, stopping, tick, next: first, sent: None };
    let events = Sse::new(unfold(stream, Stream::next));
    let events = events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([UNBUFFERED], events).into_response())
}

/// The watched accounts, each with a task that polls it.
struct Watched {
    ledger: Ledger,
    accounts: Mutex<HashMap<AccountId, watch::Sender<Option<Balance>>>>,
}

impl Watched {
    /// Returns the account's balance as it changes; `None` if the account already has too many
    /// streams.
    fn subscribe(
        self: &Arc<Self>,
        account: &AccountId,
    ) -> Option<watch::Receiver<Option<Balance>>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = accounts.get(account) {
            return (sender.receiver_count() < MAX_STREAMS).then(|| sender.subscribe());
        }
        let (sender, receiver) = watch::channel(None);
        accounts.insert(account.clone(), sender.clone());
        tokio::spawn(self.clone().poll(account.clone(), sender));
        Some(receiver)
    }

    /// Polls an account for as long as a stream watches it.
    async fn poll(self: Arc<Self>, account: AccountId, sender: watch::Sender<Option<Balance>>) {
        loop {
            tokio::select! {
                () = sender.closed() => {
                    if self.forget(&account, &sender) {
                        return;
                    }
                }
                () = sleep(self.pause()) => {}
            }
            // If the ledger does not answer, the last balance stays.
            if let Ok(balance) = self.ledger.balance(&account).await {
                let balance = Some(balance.unwrap_or_default());
                sender.send_if_modified(|last| std::mem::replace(last, balance) != balance);
            }
        }
    }

    /// Removes an account that no stream watches. False if a stream has subscribed in the meantime.
    fn forget(&self, account: &AccountId, sender: &watch::Sender<Option<Balance>>) -> bool {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = sender.receiver_count() == 0;
        if alone {
            accounts.remove(account);
        }
        alone
    }

    fn pause(&self) -> Duration {
        let watched = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).len();
        POLL_EVERY
            .max(LONGER_PER_ACCOUNT.saturating_mul(u32::try_from(watched).unwrap_or(u32::MAX)))
    }
}

/// One stream.
struct Stream {
    app: Arc<App>,
    credentials: Credentials,
    account: AccountId,
    balances: watch::Receiver<Option<Balance>>,
    stopping: watch::Receiver<bool>,
    tick: Interval,
    /// The newest balance. `sent` is the one that was sent last.
    next: Option<Balance>,
    sent: Option<Balance>,
}

impl Stream {
    /// The next event; `None` once the gateway stops or the credential is no longer valid.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        while self.next.is_none() || self.next == self.sent {
            tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => return None,
                _ = self.tick.tick() => {
                    if !self.is_still_allowed().await {
                        return None;
                    }
                }
                changed = self.balances.changed() => {
                    changed.ok()?;
                    self.next = *self.balances.borrow_and_update();
                }
            }
        }
        self.sent = self.next;
        let body = BalanceBody::of(&self.app, self.account.clone(), self.sent.unwrap_or_default());
        // This body always serializes: it has only texts and numbers.
        let event = Event::default().event("balance").json_data(body).unwrap_or_default();
        Some((Ok(event), self))
    }

    /// Whether the credential is still valid: it has not expired and was not revoked. If Farebox
    /// itself fails to check it, the stream goes on.
    async fn is_still_allowed(&self) -> bool {
        // The client's address only limits how often an issuer is asked for unknown keys. It is not
        // needed here, because this token's key was known when the stream began.
        match self.app.identify(self.credentials.headers(), None).await {
            Ok(identity) => identity.account == self.account,
            Err(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Returns once `stopping` is true, or its sender is gone.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn too_many() -> Problem {
    Problem::too_many_requests(texts::too_many_streams(MAX_STREAMS))
}
