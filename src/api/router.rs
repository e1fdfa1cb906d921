//! The routers: paths and their handlers.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::api::admin::{self as ops, Admin, require_token};
use crate::api::answer::finish;
use crate::api::brand::{self, Brand};
use crate::api::config::STRIPE_WEBHOOK_PATH;
use crate::api::events::{self, Events};
use crate::api::health::{Readiness, healthz, metrics, readyz};
use crate::api::parameters::{Parameters, refuse_unknown};
use crate::api::sandbox::{self, Sandbox};
use crate::api::session::{self, Sessions};
use crate::api::{balance, buy, holds, keys, listings, openapi, transactions, ui, usage, webhook};
use crate::app::App;
use crate::config::Secret;
use crate::metrics::Metrics;
use crate::problem::{Problem, texts};

/// Farebox's own routes on the public port, under `prefix`. Event streams end when `stopping` turns
/// true.
pub fn public(
    app: Arc<App>,
    prefix: &str,
    brand: Arc<Brand>,
    stopping: watch::Receiver<bool>,
) -> Router {
    let description = openapi::describe(prefix);
    let parameters = Parameters::described(&description);
    // The route is public, so the description is rendered only once. It always serializes.
    let description = Bytes::from(description.to_json().unwrap_or_default());
    let sales = app.sales.clone();
    let sessions = Sessions { app: app.clone(), path: prefix.into() };
    let session = get(session::show).post(session::begin).delete(session::end);
    let events = Events::new(app.clone(), stopping);
    let usage = usage::Usage::new(app.clone());
    let own = Router::new()
        .route("/balance", get(balance::balance))
        .route("/check", post(balance::check))
        .route("/prices", get(listings::prices))
        .route("/packs", get(listings::packs))
        .route("/buy", post(buy::buy))
        .route("/transactions", get(transactions::transactions))
        .route("/holds", post(holds::hold))
        .route("/holds/{id}/capture", post(holds::capture))
        .route("/holds/{id}/release", post(holds::release))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}", delete(keys::remove))
        .with_state(app.clone())
        .route("/usage", get(usage::usage).with_state(usage))
        .route("/session", session.with_state(sessions))
        .route("/events", get(events::events).with_state(events))
        .route("/openapi.json", get(openapi::openapi).with_state(description))
        .route("/brand", get(brand::show).with_state(brand.clone()))
        .route("/brand/logo", get(brand::logo).with_state(brand.clone()))
        .route_layer(from_fn_with_state(parameters, refuse_unknown))
        // The account page is exempt. Links to it carry parameters for its scripts, and other sites
        // add parameters of their own, for example to count visits.
        .route("/account", get(ui::account_page).with_state(brand.clone()))
        .route("/ui/{file}", get(ui::shared_file));
    let mut router = Router::new();
    if let Some(sales) = sales {
        let limit = DefaultBodyLimit::max(webhook::MAX_EVENT_BYTES);
        let webhook = post(webhook::stripe).layer(limit).with_state(sales.clone());
        router = router.route(STRIPE_WEBHOOK_PATH, webhook);
        if sales.is_sandbox() {
            let page = sandbox_page(Sandbox { app: app.clone(), brand });
            router = router.nest(&format!("{prefix}/sandbox/checkout"), page);
        }
    }
    let prefix: Arc<str> = prefix.into();
    let router = router.nest(&prefix, own);
    let unknown = move || std::future::ready(unknown_under(&prefix));
    router.fallback(unknown).method_not_allowed_fallback(wrong_method).layer(from_fn(finish))
}

/// The sandbox's checkout page.
fn sandbox_page(state: Sandbox) -> Router {
    Router::new()
        .route("/{session}", get(sandbox::show))
        .route("/{session}/pay", post(sandbox::pay))
        .route("/{session}/cancel", post(sandbox::cancel))
        .with_state(state)
}

/// The query parameters of the admin routes. A route that is not listed has no parameters.
const ADMIN_PARAMETERS: [(&str, &[&str]); 8] = [
    ("/admin/accounts", &["limit", "cursor", "search"]),
    ("/admin/accounts/{account}/transactions", &["limit", "cursor", "from", "to"]),
    ("/admin/crashed", &["limit", "cursor"]),
    ("/admin/entries", &["limit"]),
    ("/admin/holds", &["older_than", "limit"]),
    ("/admin/models", &["hours"]),
    ("/admin/overview", &["hours"]),
    ("/admin/stripe/events", &["state", "limit", "cursor"]),
];

/// The admin listener's routes: those for operators, and those for probes.
pub fn admin(app: Arc<App>, token: Secret, readiness: Readiness) -> Router {
    let metrics = app.metrics.clone();
    let admin = Admin { app, token, guesses: Arc::default() };
    let guarded = Router::new()
        .route("/accounts", get(ops::accounts::list))
        .route("/accounts/{account}", get(ops::accounts::show))
        .route("/accounts/{account}/grants", post(ops::accounts::grant))
        .route("/accounts/{account}/adjustments", post(ops::accounts::adjust))
        .route("/accounts/{account}/transactions", get(ops::accounts::transactions))
        .route("/accounts/{account}/keys", post(ops::keys::create).get(ops::keys::list))
        .route("/accounts/{account}/thaw", post(ops::stripe::thaw))
        .route("/crashed", get(ops::crashed::list))
        .route("/entries", get(ops::entries::newest))
        .route("/holds", get(ops::holds::list))
        .route("/models", get(ops::models::models))
        .route("/overview", get(ops::overview::overview))
        .route("/stripe/events", get(ops::stripe::events))
        .route("/stripe/events/{id}/replay", post(ops::stripe::replay))
        .route("/stripe/reconcile", post(ops::stripe::reconcile))
        .route("/captures/{request_id}/refund", post(ops::accounts::refund))
        .route("/keys/import", post(ops::import::keys))
        .route("/import", post(ops::import::accounts))
        .route("/keys/{id}", delete(ops::keys::revoke))
        .route("/reconcile", get(ops::ledger::reconcile))
        .route("/fold", post(ops::ledger::fold))
        .route_layer(from_fn_with_state(Parameters::listed(&ADMIN_PARAMETERS), refuse_unknown))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(admin.clone(), require_token))
        .with_state(admin);
    // The files of the page are public, because they contain no data. The operator types the token
    // into the page.
    let page = Router::new()
        .route("/admin/ui", get(ui::admin_page))
        .route("/admin/ui/{file}", get(ui::file));
    wrap(Router::new().nest("/admin", guarded).merge(page).merge(probes(metrics, readiness)))
}

/// Only health and metrics, for a listener that probes and scrapers can reach.
pub fn health(metrics: Metrics, readiness: Readiness) -> Router {
    wrap(probes(metrics, readiness))
}

/// The admin listener's routes while the gateway starts. `admin` is set once the ledger is open.
/// Until then only the probes are answered, and every other path gets 503.
pub fn starting(metrics: Metrics, readiness: Readiness, admin: Arc<OnceLock<Router>>) -> Router {
    let unopened = || std::future::ready(Problem::ledger_unavailable());
    let opening = probes(metrics, readiness).fallback(unopened).layer(from_fn(finish));
    Router::new()
        .fallback(move |request: Request| admin.get().unwrap_or(&opening).clone().oneshot(request))
}

fn probes(recorded: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics).with_state(recorded))
}

fn wrap(router: Router) -> Router {
    router.fallback(unknown).method_not_allowed_fallback(wrong_method).layer(from_fn(finish))
}

async fn unknown() -> Problem {
    Problem::not_found(texts::NOTHING_HERE)
}

fn unknown_under(prefix: &str) -> Problem {
    Problem::not_found(texts::nothing_under(prefix))
}

async fn wrong_method() -> Problem {
    Problem::method_not_allowed()
}
