//! The admin listener's bearer token, and the trace that its use leaves.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{ConnectInfo, MatchedPath, OriginalUri, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header;
use tokio::sync::Semaphore;

use super::Admin;
use crate::problem::{Problem, Text};

/// How long the first wrong token waits for its answer; each further one waits twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// The longest wait for an answer to a wrong token.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// How many doublings lead there.
const MOST_DOUBLINGS: u32 = 5;

/// A minute without a wrong token, and the next one counts as the first.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// How many wrong tokens may wait at a time; fewer than the listener has connections, so that they
/// keep neither operators nor probes out.
const MOST_WAITING: usize = 8;

/// The operation that a request made: the id under which the ledger has it. Handlers put it into
/// their answer's extensions for the log.
#[derive(Clone, Debug)]
pub(crate) struct Change(pub Box<str>);

impl Change {
    /// The part of an answer that names the operation `id`.
    pub fn of(id: &str) -> Extension<Self> {
        Extension(Self(id.into()))
    }
}

/// Slows down a caller who tries one token after the other. The right token never waits.
#[derive(Debug)]
pub(crate) struct Guesses {
    started: Instant,
    /// How many wrong tokens came shortly after each other.
    wrong: AtomicU32,
    /// When the newest came, in milliseconds since `started`.
    newest_ms: AtomicU64,
    waiting: Semaphore,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            wrong: AtomicU32::new(0),
            newest_ms: AtomicU64::new(0),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }
}

impl Guesses {
    /// Counts a wrong token that came `since_start`; how long its answer has to wait.
    fn count(&self, since_start: Duration) -> Duration {
        let now_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        let before_ms = self.newest_ms.swap(now_ms, Ordering::Relaxed);
        if u128::from(now_ms.saturating_sub(before_ms)) > FORGOTTEN_AFTER.as_millis() {
            self.wrong.store(0, Ordering::Relaxed);
        }
        let earlier = self.wrong.fetch_add(1, Ordering::Relaxed).min(MOST_DOUBLINGS);
        FIRST_DELAY.saturating_mul(1 << earlier).min(LONGEST_DELAY)
    }
}

/// Lets a request pass that carries the token, and logs each change that it asks for.
pub(crate) async fn require_token(
    State(admin): State<Admin>,
    OriginalUri(original): OriginalUri,
    request: Request,
    next: Next,
) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = sent.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    let Some(token) = token else { return unauthenticated() };
    if !admin.token.matches(token) {
        return refuse(&admin, client(&request)).await;
    }
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let method = request.method().clone();
    let path = original.path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let from = client(&request);
    let answer = next.run(request).await;
    tracing::info!(
        what = %format_args!("{method} {}", route.as_deref().unwrap_or(&path)),
        path,
        id = answer.extensions().get::<Change>().map(|change| &*change.0),
        status = answer.status().as_u16(),
        from,
        "admin request"
    );
    answer
}

/// Where a request comes from, for the log.
fn client(request: &Request) -> Option<String> {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
    client.map(|ConnectInfo(client)| client.ip().to_canonical().to_string())
}

/// Answers a wrong token, after a while.
async fn refuse(admin: &Admin, from: Option<String>) -> Response {
    admin.app.metrics.admin_wrong_tokens.inc();
    let Ok(_waits) = admin.guesses.waiting.try_acquire() else {
        return Problem::too_many_requests(Text::new(
            "Too many requests came with a wrong token. Check `[server] admin_token`, and try again later.",
            "Trop de requêtes avec un mauvais jeton. Vérifiez `[server] admin_token` et réessayez plus tard.",
        ))
        .into_response();
    };
    let delay = admin.guesses.count(admin.guesses.started.elapsed());
    tracing::warn!(
        target: "farebox::anybody",
        from,
        "a request to the admin listener came with a wrong token"
    );
    tokio::time::sleep(delay).await;
    unauthenticated()
}

fn unauthenticated() -> Response {
    Problem::unauthenticated(Text::new(
        "The admin routes need `Authorization: Bearer` with the token of `[server] admin_token`.",
        "Les routes d'administration demandent `Authorization: Bearer` avec le jeton de `[server] admin_token`.",
    ))
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_token_waits_longer_until_a_quiet_minute() {
        let guesses = Guesses::default();
        let mut before = Duration::ZERO;
        for _ in 0..=MOST_DOUBLINGS {
            let delay = guesses.count(Duration::from_secs(1));
            assert!(delay > before, "{delay:?} after {before:?}");
            before = delay;
        }
        assert_eq!(before, LONGEST_DELAY);
        assert_eq!(guesses.count(FORGOTTEN_AFTER), LONGEST_DELAY);
        assert_eq!(guesses.count(FORGOTTEN_AFTER * 3), FIRST_DELAY);
    }
}
