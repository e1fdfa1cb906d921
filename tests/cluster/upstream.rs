//! The upstream of a cluster: it logs every request that it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, header};
use tokio::sync::Semaphore;

use crate::metered::Used;
use crate::support::metered::CHAT;

/// A request that reached the upstream, and was answered with 200.
#[derive(Clone, Debug)]
pub struct Served {
    pub request_id: String,
    pub account: String,
    /// Which client of the load made it.
    pub client: usize,
    pub at: Instant,
    /// The usage that its answer reports, or must report; `None` if its price is fixed.
    pub used: Option<Used>,
}

/// A real HTTP server. `x-client` names the caller, and `x-delay-ms` is the time that the answer takes. A chat gets
/// an answer like OpenAI's, of the length that its headers ask for ([`Used`]).
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Served>>>,
    /// A stream with `x-wait-after` takes a permit after that number of events.
    pub may_go_on: Arc<Semaphore>,
}

impl Upstream {
    /// Serves until the runtime ends.
    pub async fn start() -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (log, may_go_on) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let upstream = Self { address, log, may_go_on };
        let router = Router::new().fallback(serve).with_state(upstream.clone());
        tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        upstream
    }

    /// The requests that it has been sent so far.
    pub fn served(&self) -> Vec<Served> {
        self.log.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.log.lock().unwrap().len()
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name).map(|value| value.to_str().unwrap().parse().unwrap())
}

async fn serve(State(upstream): State<Upstream>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
    let used = (head.uri.path() == CHAT).then(|| Used::of(|name| number(&head.headers, name)));
    upstream.log.lock().unwrap().push(Served {
        request_id: header("x-request-id").unwrap().to_owned(),
        account: header("x-farebox-account").unwrap().to_owned(),
        client: number(&head.headers, "x-client").map_or(usize::MAX, |client| client as usize),
        at: Instant::now(),
        used,
    });
    // Hyper closes a connection whose request it answered before the body had arrived.
    let _ = axum::body::to_bytes(body, 64 * 1024).await;
    let delay = Duration::from_millis(number(&head.headers, "x-delay-ms").unwrap_or(0));
    match used {
        Some(used) if used.chunks > 0 => {
            let pause = delay / (used.chunks as u32 + 1);
            let waits_at = number(&head.headers, "x-wait-after").map(|events| events as usize);
            let events = futures_util::stream::unfold(
                used.events().into_iter().enumerate(),
                move |mut left| {
                    let may_go_on = upstream.may_go_on.clone();
                    async move {
                        let (at, event) = left.next()?;
                        tokio::time::sleep(pause).await;
                        if waits_at == Some(at) {
                            may_go_on.acquire().await.unwrap().forget();
                        }
                        Some((Ok::<_, std::convert::Infallible>(event), left))
                    }
                },
            );
            ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events))
                .into_response()
        }
        used => {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            used.map_or("fine".into_response(), |used| axum::Json(used.answer()).into_response())
        }
    }
}
