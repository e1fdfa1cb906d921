//! The keys that an issuer publishes (JWKS, RFC 7517), kept fresh.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::{debug, warn};

use super::key_set::{KeySet, NotKeys};
use super::key_source::is_loopback;
use crate::config::Mistake;

/// Calls may cause one fetch in this time, however many unknown `kid`s they invent.
pub(super) const MIN_REFETCH: Duration = Duration::from_secs(30);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1024;

/// One issuer's published keys. A fetch that fails leaves the keys as they were.
pub(super) struct Jwks {
    /// Where it stands in the config, for the log.
    name: String,
    url: Url,
    client: Client,
    refresh: Duration,
    keys: ArcSwapOption<KeySet>,
    /// Held while a fetch runs, so that there is one at a time; when calls last caused one.
    last_refetch: Arc<Mutex<Option<Duration>>>,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer: {0}")]
    Http(#[from] reqwest::Error),
    #[error("answered {0}; redirects are not followed")]
    Status(StatusCode),
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    NotKeys(#[from] NotKeys),
}

impl Jwks {
    /// Fetches nothing yet; `name` is where it stands in the config.
    ///
    /// # Errors
    /// When the system offers no TLS to fetch with.
    pub(super) fn new(name: String, url: Url, refresh: Duration) -> Result<Arc<Self>, Mistake> {
        let mut client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .redirect(redirect::Policy::none());
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            let message = format!("no client can be made to fetch it: {error}");
            Mistake::new(format!("{name}.jwks_url"), message, "install the CA certificates")
        })?;
        let keys = ArcSwapOption::empty();
        Ok(Arc::new(Self { name, url, client, refresh, keys, last_refetch: Arc::default() }))
    }

    /// The keys at hand; `None` until a fetch has succeeded.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// See [`KeySet::generation`]; 0 while there are no keys.
    pub(super) fn generation(&self) -> u64 {
        self.keys.load().as_ref().map_or(0, |keys| keys.generation())
    }

    /// Fetches for ever: now if there are no keys yet, then every `refresh`, sooner after a
    /// failure.
    pub(super) async fn keep_fresh(&self) {
        let mut pause = if self.keys().is_none() { Duration::ZERO } else { jittered(self.refresh) };
        let mut retry = Duration::from_secs(1);
        loop {
            tokio::time::sleep(pause).await;
            if self.refresh().await {
                retry = Duration::from_secs(1);
                pause = jittered(self.refresh);
            } else {
                pause = jittered(retry).min(self.refresh);
                retry = (retry * 2).min(MIN_REFETCH);
            }
        }
    }

    /// One fetch, on our own account. False when it failed.
    pub(super) async fn refresh(&self) -> bool {
        let _turn = self.last_refetch.lock().await;
        self.fetch_and_keep().await
    }

    /// One fetch on a call's account at `now` (since the epoch), unless calls caused one in the
    /// last [`MIN_REFETCH`]. A call that comes while one runs waits for its end.
    pub(super) async fn refetch(self: &Arc<Self>, now: Duration) {
        let mut turn: OwnedMutexGuard<_> = Arc::clone(&self.last_refetch).lock_owned().await;
        if turn.is_some_and(|last: Duration| now.abs_diff(last) < MIN_REFETCH) {
            return;
        }
        *turn = Some(now);
        let jwks = Arc::clone(self);
        // A task of its own: a client that leaves must not take everyone's fetch with it.
        let fetch = tokio::spawn(async move {
            jwks.fetch_and_keep().await;
            drop(turn);
        });
        if fetch.await.is_err() {
            debug!(jwks = self.name, "fetch cut short");
        }
    }

    /// Only while `last_refetch` is held: a later fetch must not be undone by an earlier one.
    async fn fetch_and_keep(&self) -> bool {
        let before = self.keys();
        match self.fetch(before.as_deref()).await {
            Ok(keys) => {
                debug!(jwks = self.name, keys = keys.len(), "fetched the issuer's keys");
                self.keys.store(Some(Arc::new(keys)));
                true
            }
            Err(error) => {
                let kept = before.map_or(0, |keys| keys.len());
                let cause = innermost(&error);
                warn!(
                    target: "farebox::anybody",
                    jwks = self.name,
                    kept,
                    %error,
                    %cause,
                    "could not fetch the issuer's keys"
                );
                false
            }
        }
    }

    async fn fetch(&self, before: Option<&KeySet>) -> Result<KeySet, FetchError> {
        let request = self.client.get(self.url.clone());
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(KeySet::parse(&body, before)?)
    }
}

/// What is at the bottom of it: a refused connection, a name that does not resolve.
fn innermost(mut error: &dyn Error) -> &dyn Error {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Within a tenth of `pause`, so that a fleet does not ask its issuer all at once.
fn jittered(pause: Duration) -> Duration {
    // Without randomness every pause is the shortest: still correct.
    let share = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    pause.mul_f64(0.9 + 0.2 * share)
}
