//! The upstream of a cluster: it logs every request that it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};

/// A request that reached the upstream, and was answered with 200.
#[derive(Clone, Debug)]
pub struct Served {
    pub request_id: String,
    pub account: String,
    /// Which client of the load made it.
    pub client: usize,
    pub at: Instant,
}

/// A real HTTP server. `x-client` says who calls, `x-delay-ms` how long the answer takes.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Served>>>,
}

impl Upstream {
    /// Serves until the runtime ends.
    pub async fn start() -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let log = Arc::default();
        let upstream = Self { address, log };
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

async fn serve(State(upstream): State<Upstream>, request: Request) -> &'static str {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
    upstream.log.lock().unwrap().push(Served {
        request_id: header("x-request-id").unwrap().to_owned(),
        account: header("x-farebox-account").unwrap().to_owned(),
        client: header("x-client").map_or(usize::MAX, |client| client.parse().unwrap()),
        at: Instant::now(),
    });
    // Hyper closes a connection whose request it answered before the body had arrived.
    let _ = axum::body::to_bytes(body, 64 * 1024).await;
    let delay = header("x-delay-ms").map_or(0, |delay| delay.parse().unwrap());
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    "fine"
}
