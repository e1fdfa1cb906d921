//! A retry is charged once: idempotency keys, and the retries of the official SDKs.

mod bodies;
mod crash;
mod keys;
mod leaving;
mod many;
mod sdk;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use tokio::sync::Semaphore;

use crate::support::http::Answer;
use crate::support::{TestGateway, Upstream, config_text, token};

/// The path of the tests' calls, 5 credits each.
pub const PATH: &str = "/x/generate";

/// An upstream that reads each request whole, waits until it may answer, and then says which call it was.
#[derive(Clone)]
pub struct Counting {
    pub upstream: Upstream,
    calls: Arc<AtomicUsize>,
    /// Each answer takes a permit.
    pub permits: Arc<Semaphore>,
    /// The statuses of the next answers; then 200.
    pub statuses: Arc<Mutex<VecDeque<u16>>>,
}

impl Counting {
    /// An upstream that answers at once.
    pub async fn quick() -> Self {
        let counting = Self::slow().await;
        counting.permits.add_permits(Semaphore::MAX_PERMITS);
        counting
    }

    /// An upstream that answers as often as it gets permits.
    pub async fn slow() -> Self {
        let (calls, permits) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let statuses = Arc::new(Mutex::new(VecDeque::new()));
        let (count, may, next) = (calls.clone(), permits.clone(), statuses.clone());
        let answer = move |request: Request| {
            let (count, may, next) = (count.clone(), may.clone(), next.clone());
            async move {
                let is_stream = request.uri().query() == Some("stream");
                let body = axum::body::to_bytes(request.into_body(), 64 << 20).await.unwrap();
                let call = count.fetch_add(1, Ordering::SeqCst) + 1;
                may.acquire().await.unwrap().forget();
                let status = next.lock().unwrap().pop_front().unwrap_or(200);
                let text = format!("the secret words of call {call} for {} bytes", body.len());
                let answer = Response::builder()
                    .status(status)
                    .header("content-type", "text/x-words; charset=utf-8")
                    .header("set-cookie", "a=1")
                    .header("set-cookie", "b=2")
                    .header("x-call", call.to_string());
                let body = if is_stream {
                    let parts = text.into_bytes().chunks(7).map(<[u8]>::to_vec).collect::<Vec<_>>();
                    let parts = parts.into_iter().map(Ok::<_, std::io::Error>);
                    Body::from_stream(futures_util::stream::iter(parts))
                } else if status == 204 {
                    Body::empty()
                } else {
                    Body::from(text)
                };
                answer.body(body).unwrap()
            }
        };
        let upstream = Upstream::start(Router::new().fallback(answer)).await;
        Self { upstream, calls, permits, statuses }
    }

    /// How many requests have arrived whole.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Lets one answer go.
    pub fn answer_one(&self) {
        self.permits.add_permits(1);
    }
}

/// The route of the tests' calls.
pub const ROUTE: &str = "[[routes]]\npath = \"/x/{*rest}\"\nupstream = \"ai\"\ncredits = 5\n";

/// A gateway in front of `counting` with more tables, and alice with 100 credits.
pub async fn gateway(counting: &Counting, more: &str) -> TestGateway {
    let text = config_text(counting.upstream.address, &[ROUTE, more].concat());
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    gateway
}

/// A POST of alice with this key.
pub fn keyed(
    gateway: &TestGateway,
    key: &str,
    body: impl Into<reqwest::Body>,
) -> reqwest::RequestBuilder {
    let request = gateway.client.post(gateway.url(PATH)).bearer_auth(token("alice"));
    request.header("idempotency-key", key).body(body)
}

/// The whole answer to a POST of alice with this key.
pub async fn ask(gateway: &TestGateway, key: &str, body: &'static str) -> Answer {
    Answer::of(keyed(gateway, key, body)).await
}

/// Expects that `again` is the answer `first`, replayed.
#[track_caller]
pub fn assert_replays(first: &Answer, again: &Answer) {
    assert_eq!(again.header("idempotent-replayed"), "true", "{} {}", again.status, again.text);
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("x-credits-cost"), first.header("x-credits-cost"));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    for name in ["content-type", "set-cookie", "x-call"] {
        let all =
            |answer: &Answer| -> Vec<_> { answer.headers.get_all(name).iter().cloned().collect() };
        assert_eq!(all(again), all(first), "{name}");
    }
}
