//! The OpenAPI description of Farebox's own routes. Clients can be generated from it.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _};

use crate::api::config::STRIPE_WEBHOOK_PATH;
use crate::api::{
    balance, brand, buy, events, holds, keys, listings, session, transactions, ui, usage, webhook,
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Farebox", description = "Prepaid credits for AI endpoints."),
    paths(
        balance::balance, balance::check, listings::prices, listings::packs, brand::show, brand::logo, buy::buy,
        transactions::transactions, usage::usage, events::events, session::begin, session::show,
        session::end, keys::list, keys::create, keys::remove, holds::hold, holds::capture, holds::release,
        webhook::stripe, ui::serve::account_page, ui::serve::shared_file, openapi
    ),
    modifiers(&Credentials),
    security(("bearer" = []), ("api_key" = []))
)]
struct Description;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let key = ApiKey::Header(ApiKeyValue::new("x-api-key"));
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(key));
    }
}

/// Describes the routes, with `prefix` before their paths. The webhook's path has no prefix.
pub(super) fn describe(prefix: &str) -> OpenApi {
    let mut description = Description::openapi();
    let paths = std::mem::take(&mut description.paths.paths);
    description.paths.paths = (paths.into_iter())
        .map(|(path, item)| match path.as_str() {
            STRIPE_WEBHOOK_PATH => (path, item),
            _ => (format!("{prefix}{path}"), item),
        })
        .collect();
    description
}

/// The OpenAPI description.
#[utoipa::path(get, path = "/openapi.json", tag = "openapi", responses(
    (status = 200, content_type = "application/json", description = "OpenAPI 3.1")), security(()))]
pub(super) async fn openapi(State(description): State<Bytes>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], description)
}
