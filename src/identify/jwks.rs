//! The keys that an issuer publishes (JWKS, RFC 7517), refreshed in the background.

use std::error::Error;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::{debug, warn};

use crate::config::Mistake;
use crate::identify::key_set::{KeySet, NotKeys};
use crate::identify::key_source::is_loopback;

/// Within this time, the calls of one client can cause only one fetch, however many `kid`s and
/// signatures the client invents.
pub(super) const MIN_REFETCH: Duration = Duration::from_secs(30);

/// The most fetches that the calls of all clients can cause in [`MIN_REFETCH`]. There are several, so
/// that a client that invents tokens does not delay the fetch of a rotated key for the others.
const MAX_REFETCHES: usize = 5;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 256 * 1024;

/// One issuer's published keys. A fetch that fails leaves the keys as they were.
pub(super) struct Jwks {
    /// The place in the config, for the log.
    name: String,
    url: Url,
    client: Client,
    refresh: Duration,
    keys: ArcSwapOption<KeySet>,
    /// The lock is held while a fetch runs, so that only one runs at a time.
    refetches: Arc<Mutex<Refetches>>,
}

/// The clients that caused a fetch in the last [`MIN_REFETCH`], each with the time of its fetch: at
/// most [`MAX_REFETCHES`].
#[derive(Default)]
struct Refetches(Vec<(Option<IpAddr>, Duration)>);

impl Refetches {
    /// Returns true if `client` may cause a fetch at `now`, and then records it.
    fn allow(&mut self, client: Option<IpAddr>, now: Duration) -> bool {
        self.0.retain(|(_, at)| now.abs_diff(*at) < MIN_REFETCH);
        let is_allowed =
            self.0.len() < MAX_REFETCHES && self.0.iter().all(|(other, _)| *other != client);
        if is_allowed {
            self.0.push((client, now));
        }
        is_allowed
    }
}

/// A client's address. For IPv6 it is the address of the network, since one machine has all of the
/// network's 2^64 addresses.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
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
    /// Creates the JWKS of an issuer; nothing is fetched yet. `name` is the place in the config.
    ///
    /// # Errors
    /// The system offers no TLS for fetching.
    pub(super) fn new(name: String, url: Url, refresh: Duration) -> Result<Arc<Self>, Mistake> {
        let mut client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .redirect(redirect::Policy::none());
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            let message = format!("the HTTP client for this address cannot be created: {error}");
            Mistake::new(format!("{name}.jwks_url"), message, "install the CA certificates")
        })?;
        let keys = ArcSwapOption::empty();
        Ok(Arc::new(Self { name, url, client, refresh, keys, refetches: Arc::default() }))
    }

    /// The current keys; `None` until a fetch has succeeded.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// See [`KeySet::generation`]; 0 while there are no keys.
    pub(super) fn generation(&self) -> u64 {
        self.keys.load().as_ref().map_or(0, |keys| keys.generation())
    }

    /// Fetches for ever: at once if there are no keys yet, then every `refresh`, sooner after a
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

    /// Fetches once, for no particular call. Returns false if the fetch failed.
    pub(super) async fn refresh(&self) -> bool {
        let _turn = self.refetches.lock().await;
        self.fetch_and_keep().await
    }

    /// Fetches once for a call from `client` at `now` (since the epoch), if the client may cause a
    /// fetch. A call that arrives while a fetch is running waits for it and uses its result.
    /// Returns false if the keys have not changed.
    pub(super) async fn refetch(self: &Arc<Self>, client: Option<IpAddr>, now: Duration) -> bool {
        let before = self.keys();
        let is_new = || match (&before, &self.keys()) {
            (Some(before), Some(keys)) => !Arc::ptr_eq(before, keys),
            (before, keys) => before.is_some() != keys.is_some(),
        };
        let mut turn: OwnedMutexGuard<_> = Arc::clone(&self.refetches).lock_owned().await;
        if is_new() {
            return true;
        }
        if !turn.allow(client.map(network_of), now) {
            return false;
        }
        let jwks = Arc::clone(self);
        // The fetch is a task of its own, so that it goes on for the others even if this client
        // leaves.
        let fetch = tokio::spawn(async move {
            jwks.fetch_and_keep().await;
            drop(turn);
        });
        if fetch.await.is_err() {
            debug!(jwks = self.name, "fetch cut short");
        }
        is_new()
    }

    /// Fetches and stores the keys. Call this with `refetches` locked, so that fetches do not
    /// overtake each other.
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

/// The innermost source of an error: a refused connection, a name that does not resolve.
fn innermost(mut error: &dyn Error) -> &dyn Error {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// `pause`, made longer or shorter by up to a tenth, so that many gateways do not all ask their
/// issuer at the same moment.
fn jittered(pause: Duration) -> Duration {
    // If there is no randomness, every pause is the shortest, which is still correct.
    let share = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
    pause.mul_f64(0.9 + 0.2 * share)
}
