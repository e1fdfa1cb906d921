//! Checks the admin listener's bearer token, and logs every use of it.

use std::net::SocketAddr;

use axum::Extension;
use axum::extract::{ConnectInfo, MatchedPath, OriginalUri, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::api::admin::Admin;
use crate::problem::{Problem, texts};

/// The ledger's id of the operation that a request made. Handlers add it to their response's
/// extensions, from which the log takes it.
#[derive(Clone, Debug)]
pub(crate) struct Change(pub Box<str>);

impl Change {
    /// The response extension for the operation `id`.
    pub fn of(id: &str) -> Extension<Self> {
        Extension(Self(id.into()))
    }
}

/// Passes on requests that carry the token. Logs every request that may change something.
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

/// The client's address, for the log.
fn client(request: &Request) -> Option<String> {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
    client.map(|ConnectInfo(client)| client.ip().to_canonical().to_string())
}

/// Refuses a request with a wrong token, after a delay.
async fn refuse(admin: &Admin, from: Option<String>) -> Response {
    admin.app.metrics.admin_wrong_tokens.inc();
    let Ok(_waits) = admin.guesses.waiting.try_acquire() else {
        return Problem::too_many_requests(texts::TOO_MANY_WRONG_TOKENS).into_response();
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
    Problem::unauthenticated(texts::NO_ADMIN_TOKEN).into_response()
}
