//! The description of Farebox's own routes, by which clients are generated.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, Server};
use utoipa::{Modify, OpenApi as _};

use super::{balance, buy, holds, listings, transactions};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Farebox", description = "Prepaid credits for AI endpoints."),
    paths(
        balance::balance, balance::check, listings::prices, listings::packs, buy::buy,
        transactions::transactions, holds::hold, holds::capture, holds::release
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

/// The description, with the routes under `prefix`.
pub(super) fn describe(prefix: &str) -> OpenApi {
    let mut description = Description::openapi();
    description.servers = Some(vec![Server::new(prefix)]);
    description
}

pub(super) async fn openapi(State(description): State<Arc<OpenApi>>) -> Json<OpenApi> {
    Json(OpenApi::clone(&description))
}
