//! Calls the admin routes for commands. A command talks to the admin listener of the running
//! gateway. If no gateway runs, the command opens the ledger itself, under the same lock, and calls
//! the same routes in process. The cluster ledger can be opened by several processes, so commands
//! always open it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Method, Request, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::api::{self, Readiness};
use crate::cli::{CliError, ConfigFile};
use crate::config::{Secret, Sections};
use crate::gateway::config::Config;
use crate::gateway::{StartError, open_app, open_ledger, open_sales};
use crate::identify::AuthConfig;
use crate::ledger::{BackendKind, LedgerError, Pipeline};
use crate::metrics::Metrics;

/// The longest time that a running gateway may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The longest time for the answer to a health check.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// The longest time for an answer if the gateway must first read many pages from Stripe.
const STRIPE_LIMIT: Duration = Duration::from_secs(1800);

/// The largest response of a route that is called in process, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The characters that are not escaped in a segment of a path (RFC 3986, 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The admin routes, either of a running gateway or in this process.
pub(super) enum AdminClient {
    /// A running gateway has the ledger open.
    Running {
        client: reqwest::Client,
        address: SocketAddr,
        token: Secret,
        limit: Duration,
        /// The file that the token was read from.
        config: PathBuf,
    },
    /// This process has the ledger open.
    Here {
        router: Router,
        token: Secret,
        pipeline: Pipeline,
        /// The folder of an empty ledger that was made for this command only.
        _scratch: Option<Scratch>,
    },
}

/// The name of a member that [`AdminClient::send`] adds to a response which repeats an earlier one.
/// The value of this member is true.
pub(super) const REPEATED: &str = "repeated";

/// A folder that is removed with its files when the value is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, CliError> {
        let path = std::env::temp_dir().join(format!("farebox-dry-run-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).map_err(|error| CliError::File { path: path.clone(), error })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, an empty ledger is left in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Escapes a text for use as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

impl AdminClient {
    /// Opens the config's ledger, or finds the gateway that has it open.
    pub async fn connect(file: &ConfigFile) -> Result<Self, CliError> {
        Self::connect_with(file, Sections::LEDGER, false).await
    }

    /// Like [`Self::connect`], for a command that imports rows. A dry run creates no ledger. If
    /// there is none, the rows are checked against an empty ledger that is removed afterwards.
    pub async fn connect_to_import(file: &ConfigFile, dry_run: bool) -> Result<Self, CliError> {
        Self::connect_with(file, Sections::LEDGER, dry_run).await
    }

    /// Like [`Self::connect`], for a command that may open an account and therefore must know the
    /// sign-up grant.
    pub async fn connect_to_open(file: &ConfigFile) -> Result<Self, CliError> {
        Self::connect_with(file, Sections::LEDGER | Sections::CREDITS, false).await
    }

    /// Like [`Self::connect`], for a command that calls Stripe.
    pub async fn connect_to_stripe(file: &ConfigFile) -> Result<Self, CliError> {
        let sections = Sections::LEDGER | Sections::STRIPE;
        let client = Self::connect_with(file, sections, false).await?;
        Ok(client.within(STRIPE_LIMIT))
    }

    async fn connect_with(
        file: &ConfigFile,
        sections: Sections,
        dry_run: bool,
    ) -> Result<Self, CliError> {
        let Config { ledger: mut config, stripe, credits, .. } = file.load(sections)?;
        // This process must not take the place of a running gateway that has this name.
        config.gateway_name = None;
        config.is_command = true;
        let mut scratch = None;
        if dry_run && config.backend == BackendKind::Embedded && !config.path.exists() {
            let folder = Scratch::make()?;
            config.path = folder.0.join("ledger.db");
            scratch = Some(folder);
        }
        let metrics = Metrics::new().map_err(|error| CliError::Failed(error.to_string()))?;
        match open_ledger(&config, metrics.clone()).await {
            Ok((ledger, pipeline)) => {
                let auth = AuthConfig::default();
                let sales = open_sales(stripe, &ledger, &metrics, "").await;
                let sales = sales.map_err(StartError::from)?;
                let app = open_app(ledger, metrics, &auth, credits, "", sales).await?;
                let token = Secret::new(uuid::Uuid::new_v4().to_string());
                let readiness = Readiness::new(&app.metrics);
                let router = api::admin(app, token.clone(), readiness);
                Ok(Self::Here { router, token, pipeline, _scratch: scratch })
            }
            Err(LedgerError::Locked { .. }) => Self::reach(file).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the running gateway and waits for its health check. If the gateway does not answer the
    /// check, no command is sent, because the gateway might run it later.
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
        let (token, config) = (server.admin_token, file.path().to_owned());
        Ok(Self::Running { client, address, token, limit: ANSWER_LIMIT, config })
    }

    /// Sets the longest time that a running gateway may take to answer.
    pub fn within(mut self, longer: Duration) -> Self {
        if let Self::Running { limit, .. } = &mut self {
            *limit = longer;
        }
        self
    }

    /// Connects, sends one request, and closes the connection.
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

    /// Sends a request and returns the response.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        self.send(method, path, body.map(Value::to_string), &again(body)).await
    }

    /// Like [`Self::ask`], with the body as text. `again` is the advice that is given if the
    /// outcome is unknown.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        again: &str,
    ) -> Result<Value, CliError> {
        let (status, is_repeated, answer) = match self {
            Self::Running { client, address, token, limit, config } => {
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
                if response.status() == StatusCode::UNAUTHORIZED {
                    return Err(CliError::Failed(format!(
                        "the `admin_token` in {} is not the token of the running gateway at \
                         http://{address}; nothing was changed. Run this command with the gateway's own \
                         FAREBOX_ADMIN_TOKEN (UNAUTHENTICATED)",
                        config.display()
                    )));
                }
                let is_repeated = response.headers().contains_key(api::REPLAYED);
                let (status, answer) = (response.status(), response.bytes().await);
                (status, is_repeated, answer.map_err(no_answer)?)
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
                let is_repeated = response.headers().contains_key(api::REPLAYED);
                let (status, body) = (response.status(), response.into_body());
                (status, is_repeated, to_bytes(body, MAX_ANSWER_BYTES).await.map_err(failed)?)
            }
        };
        let mut answer = read(status, &answer)?;
        if let Value::Object(answer) = &mut answer
            && is_repeated
        {
            answer.insert(REPEATED.to_owned(), true.into());
        }
        Ok(answer)
    }

    /// Writes the operations that are not written yet, if this process has the ledger open.
    pub async fn close(self) -> Result<(), CliError> {
        match self {
            Self::Running { .. } => Ok(()),
            Self::Here { router, pipeline, _scratch, .. } => {
                drop(router);
                if pipeline.stop().await {
                    Ok(())
                } else {
                    Err(CliError::Failed(
                        "the ledger's last operations could not be written; repeat the command"
                            .to_owned(),
                    ))
                }
            }
        }
    }
}

/// The advice for a request whose outcome is unknown.
fn again(body: Option<&Value>) -> String {
    match body.and_then(|body| body["id"].as_str()) {
        Some(id) => format!("repeat the command with --id {id}, which counts once"),
        None => "look, and repeat the command".to_owned(),
    }
}

fn read(status: StatusCode, answer: &[u8]) -> Result<Value, CliError> {
    let value = if answer.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(answer).map_err(|error| {
            CliError::Failed(format!("the gateway's response is not JSON: {error}"))
        })?
    };
    if status.is_success() {
        return Ok(value);
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Err(CliError::Refused { code: text("code"), detail: text("detail") })
}
