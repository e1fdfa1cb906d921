//! The harness of the tests that run a whole gateway. Each gateway has a ledger in a folder of its
//! own, and ports that the system chooses. Its upstream is a real server on a socket, which logs
//! the requests that it gets.
#![allow(dead_code)]

pub mod ai;
pub mod clock;
pub mod frames;
pub mod h2;
pub mod http;
pub mod message;
pub mod metered;
pub mod packs;
pub mod process;
pub mod random;
pub mod relay;
pub mod servers;
pub mod stripe;
pub mod tls;
pub mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Method};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use farebox::config::Sections;
use farebox::gateway::Gateway;
use farebox::gateway::config;
use farebox::gateway::config::Config;
use farebox::proxy::Resolver;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The secret that signs the tests' tokens.
pub const JWT_SECRET: &str = "a secret of the tests, longer than 32 bytes";

/// The admin token of the tests.
pub const ADMIN_TOKEN: &str = "the-admin-token-of-the-tests";

/// One request, as the upstream received it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A real HTTP server that logs the head of every request it receives.
#[derive(Clone, Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// Serves `router` until the runtime ends.
    pub async fn start(router: Router) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let router = router.layer(from_fn_with_state(log.clone(), record));
        tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        Self { address, log }
    }

    /// Reads every request to its end, and answers it with 200 and a small JSON body.
    pub async fn canned() -> Self {
        let answer = async |request: Request| {
            // Hyper would close the connection if it answered before the body has arrived.
            let mut body = request.into_body().into_data_stream();
            while body.next().await.is_some() {}
            axum::Json(json!({ "ok": true }))
        };
        Self::start(Router::new().fallback(answer)).await
    }

    /// The requests that it has received so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

async fn record(
    State(log): State<Arc<Mutex<Vec<Seen>>>>,
    request: Request,
    next: Next,
) -> Response {
    log.lock().unwrap().push(Seen {
        method: request.method().clone(),
        target: request.uri().to_string(),
        headers: request.headers().clone(),
    });
    next.run(request).await
}

/// A gateway that runs in this process.
pub struct TestGateway {
    pub gateway: Gateway,
    pub folder: TempDir,
    pub client: reqwest::Client,
}

/// A config with ports that the system chooses, HS256 tokens, an upstream named `ai`, and the route
/// `POST /api/ai/generate` of 5 credits. `more` is appended; it consists of TOML tables.
pub fn config_text(upstream: SocketAddr, more: &str) -> String {
    config_with(upstream, "", "", more)
}

/// The same config, with the lines `server` in `[server]` and `ledger` in `[ledger]`.
pub fn config_with(upstream: SocketAddr, server: &str, ledger: &str, more: &str) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_token = "{ADMIN_TOKEN}"
{server}

[ledger]
path = "ledger.db"
{ledger}

[[auth.jwt]]
algorithms = ["HS256"]
secret = "{JWT_SECRET}"

[[upstreams]]
name = "ai"
url = "http://{upstream}"

[[routes]]
path = "/api/ai/generate"
methods = ["POST"]
upstream = "ai"
credits = 5

{more}
"#
    )
}

/// Parses a config as if its file were in `folder`.
pub fn parse(text: &str, folder: &Path) -> Config {
    config::parse(text, &folder.join("gateway.toml"), Sections::ALL, &|_| None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

impl TestGateway {
    /// Starts a gateway with this config, in a new folder.
    pub async fn start(text: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), text).await
    }

    /// Starts a gateway with this config, in a folder that may contain a ledger already.
    pub async fn start_in(folder: TempDir, text: &str) -> Self {
        Self::start_resolving(folder, text, Resolver::system()).await
    }

    /// Like [`Self::start_in`], with a resolver of the test's own.
    pub async fn start_resolving(folder: TempDir, text: &str, resolver: Resolver) -> Self {
        let config = parse(text, folder.path());
        let gateway = Gateway::start_resolving(&config, resolver).await.unwrap();
        let client = http::plain_client().build().unwrap();
        Self { gateway, folder, client }
    }

    /// Starts a gateway in front of `upstream`, with the config of [`config_text`].
    pub async fn before(upstream: &Upstream, more: &str) -> Self {
        Self::start(&config_text(upstream.address, more)).await
    }

    pub fn public(&self) -> SocketAddr {
        self.gateway.addresses().public
    }

    /// The URL of a path on the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public())
    }

    /// The URL of a path on the admin listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.addresses().admin)
    }

    pub fn ledger_path(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    /// Sends a request to the admin listener, and expects success.
    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request =
            self.client.request(method, self.admin_url(path)).bearer_auth(ADMIN_TOKEN);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Grants whole credits to an account.
    pub async fn grant(&self, account: &str, credits: u64) {
        let id = uuid::Uuid::new_v4().to_string();
        let body = json!({ "credits": credits, "id": id, "reason": "test" });
        self.admin(Method::POST, &format!("/admin/accounts/{account}/grants"), Some(body)).await;
    }

    /// Makes an API key.
    pub async fn key(&self, account: &str, service: bool) -> String {
        let body = json!({ "name": "test", "service": service });
        let path = format!("/admin/accounts/{account}/keys");
        let key = self.admin(Method::POST, &path, Some(body)).await;
        key["key"].as_str().unwrap().to_owned()
    }

    /// Sends `POST path` for `account`, with a small JSON body.
    pub async fn post(&self, account: &str, path: &str) -> reqwest::Response {
        let request = self.client.post(self.url(path)).bearer_auth(token(account));
        request.body(r#"{"prompt":"hello"}"#).send().await.unwrap()
    }

    /// The answer of `GET /credits/balance` for `account`.
    pub async fn balance(&self, account: &str) -> Value {
        let request = self.client.get(self.url("/credits/balance")).bearer_auth(token(account));
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Waits until `account` has no holds, and returns its balance in whole credits.
    pub async fn settled_balance(&self, account: &str) -> i64 {
        let mut last = Value::Null;
        let settled = eventually(async || {
            last = self.balance(account).await;
            last["held"] == 0
        });
        assert!(settled.await, "still held: {last}");
        last["balance"].as_i64().unwrap_or_else(|| panic!("no whole credits: {last}"))
    }

    /// Expects that reconciling the ledger finds no difference.
    pub async fn assert_reconciled(&self) {
        let report = self.admin(Method::GET, "/admin/reconcile", None).await;
        assert_eq!(report["clean"], true, "{report}");
    }

    /// Stops the gateway, and expects that every hold was settled.
    pub async fn stop(self) -> TempDir {
        assert!(self.gateway.stop().await);
        self.folder
    }
}

/// A token for `account`, valid for an hour.
pub fn token(account: &str) -> String {
    token_for(account, 3600)
}

/// A token for `account` that expires in `seconds`. If `seconds` is negative, it has expired
/// already.
pub fn token_for(account: &str, seconds: i64) -> String {
    token_signed(JWT_SECRET, account, seconds)
}

/// Like [`token_for`], signed with this secret.
pub fn token_signed(secret: &str, account: &str, seconds: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let exp = now.as_secs().saturating_add_signed(seconds);
    let claims = json!({ "sub": account, "exp": exp });
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// Waits until `condition` holds; false after ten seconds.
pub async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
