//! Account commands speak to the running gateway's admin listener; where none runs, they open
//! the ledger themselves, under the same lock, and ask the same admin routes in process. On the
//! cluster ledger they always do: it is shared.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Method, Request, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{CliError, ConfigFile};
use crate::api::{self, Readiness};
use crate::config::{Config, Secret, Sections};
use crate::gateway::{StartError, open_ledger, open_sales, open_shop};
use crate::identify::AuthConfig;
use crate::ledger::{LedgerError, Pipeline};
use crate::metrics::Metrics;

/// How long a running gateway may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to say that it lives.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take where it asks Stripe for page after page.
const STRIPE_LIMIT: Duration = Duration::from_secs(1800);

/// The largest answer that is read in process.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// What stays as it is in a path's segment (RFC 3986, 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The admin routes, wherever they are.
pub(super) enum AdminClient {
    /// A gateway has the ledger.
    Running { client: reqwest::Client, address: SocketAddr, token: Secret, limit: Duration },
    /// This process has it.
    Here { router: Router, token: Secret, pipeline: Pipeline },
}

/// One segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

impl AdminClient {
    /// Opens the ledger of the config, or finds the gateway that has it.
    pub async fn connect(file: &ConfigFile) -> Result<Self, CliError> {
        Self::connect_with(file, Sections::LEDGER).await
    }

    /// The same for a command by which accounts may come to exist: it knows the sign-up grant.
    pub async fn connect_to_open(file: &ConfigFile) -> Result<Self, CliError> {
        Self::connect_with(file, Sections::LEDGER | Sections::CREDITS).await
    }

    /// The same for a command that speaks to Stripe.
    pub async fn connect_to_stripe(file: &ConfigFile) -> Result<Self, CliError> {
        let client = Self::connect_with(file, Sections::LEDGER | Sections::STRIPE).await?;
        Ok(client.within(STRIPE_LIMIT))
    }

    async fn connect_with(file: &ConfigFile, sections: Sections) -> Result<Self, CliError> {
        let Config { ledger: mut config, stripe, credits, .. } = file.load(sections)?;
        // A gateway of this name may be serving; this process is another one.
        config.gateway_name = None;
        let metrics = Metrics::new().map_err(|error| CliError::Failed(error.to_string()))?;
        match open_ledger(&config, metrics.clone()).await {
            Ok((ledger, pipeline)) => {
                let auth = AuthConfig::default();
                let sales = open_sales(stripe, &ledger, &metrics, "").await;
                let sales = sales.map_err(StartError::from)?;
                let shop = open_shop(ledger, metrics, &auth, credits, "", sales).await?;
                let token = Secret::new(uuid::Uuid::new_v4().to_string());
                let readiness = Readiness::new(&shop.metrics);
                let router = api::admin(shop, token.clone(), readiness);
                Ok(Self::Here { router, token, pipeline })
            }
            Err(LedgerError::Locked { .. }) => Self::reach(file).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The running gateway, once it has answered: what it never hears, it does not do later.
    async fn reach(file: &ConfigFile) -> Result<Self, CliError> {
        let server = file.load(Sections::SERVER)?.server;
        let server = server.ok_or_else(|| CliError::Failed("no [server]".to_owned()))?;
        let mut address = server.admin;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.map_err(|error| CliError::Failed(error.to_string()))?;
        let probe = client.get(format!("http://{address}/healthz")).timeout(PROBE_LIMIT).send();
        probe.await.map_err(|error| CliError::NoAnswer { address, error })?;
        Ok(Self::Running { client, address, token: server.admin_token, limit: ANSWER_LIMIT })
    }

    /// Has a running gateway answer within `longer`, for what takes its time.
    pub fn within(mut self, longer: Duration) -> Self {
        if let Self::Running { limit, .. } = &mut self {
            *limit = longer;
        }
        self
    }

    /// Connects, asks one thing, and closes.
    pub async fn ask_once(
        file: &ConfigFile,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let admin = Self::connect(file).await?;
        let answer = admin.ask(method, path, body).await;
        admin.close().await?;
        answer
    }

    /// Asks, and reads the answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        self.send(method, path, body.map(Value::to_string), &again(body)).await
    }

    /// The same with a body that is text already. `again` says what to do where it is not known whether
    /// it was done.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        again: &str,
    ) -> Result<Value, CliError> {
        let (status, answer) = match self {
            Self::Running { client, address, token, limit } => {
                let no_answer = |error: reqwest::Error| match error.is_connect() {
                    true => CliError::NoAnswer { address: *address, error },
                    false => {
                        let again = again.to_owned();
                        CliError::NotKnown { address: *address, error, again }
                    }
                };
                let url = format!("http://{address}{path}");
                let mut request =
                    client.request(method, url).bearer_auth(token.expose()).timeout(*limit);
                if let Some(body) = body {
                    request = request.body(body);
                }
                let response = request.send().await.map_err(no_answer)?;
                (response.status(), response.bytes().await.map_err(no_answer)?)
            }
            Self::Here { router, token, .. } => {
                let failed = |error: axum::Error| CliError::Failed(error.to_string());
                let body = body.map_or_else(Body::empty, Body::from);
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header(header::AUTHORIZATION, format!("Bearer {}", token.expose()))
                    .body(body)
                    .map_err(|error| CliError::Failed(error.to_string()))?;
                let response = match router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let status = response.status();
                (status, to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.map_err(failed)?)
            }
        };
        read(status, &answer)
    }

    /// Writes what waits, where this process has the ledger.
    pub async fn close(self) -> Result<(), CliError> {
        match self {
            Self::Running { .. } => Ok(()),
            Self::Here { router, pipeline, .. } => {
                drop(router);
                if pipeline.stop().await {
                    Ok(())
                } else {
                    Err(CliError::Failed("the ledger could not be written to its end".to_owned()))
                }
            }
        }
    }
}

/// What to do where it is not known whether something was done.
fn again(body: Option<&Value>) -> String {
    match body.and_then(|body| body["id"].as_str()) {
        Some(id) => format!("ask again with --id {id}, which counts once"),
        None => "look, and ask again".to_owned(),
    }
}

fn read(status: StatusCode, answer: &[u8]) -> Result<Value, CliError> {
    let value = if answer.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(answer)
            .map_err(|error| CliError::Failed(format!("an answer that is no JSON: {error}")))?
    };
    if status.is_success() {
        return Ok(value);
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Err(CliError::Refused { code: text("code"), detail: text("detail") })
}
