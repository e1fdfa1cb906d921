//! The price table and the packs. Both are public: people read prices before they have an account.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, header};

use crate::app::App;

const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

/// The price table: the routes, then the models. A route has `path`, and either `credits` (a fixed price) or `price`
/// (a price by usage). `price` is `"models"` if the request's model sets the price; otherwise it contains the route's
/// own prices. A model has `model` and `prices`. Prices are in credits, for a million tokens, or for one image,
/// second, character, search or request. A model's `above` has other prices for calls with more input, and its `when`
/// has other prices for requests with certain members.
#[utoipa::path(get, path = "/prices", responses(
    (status = 200, description = "Every route and every model, with its price in credits")), security(()))]
pub(super) async fn prices(State(app): State<Arc<App>>) -> Response {
    let prices = app.catalogue.load().prices_json.clone();
    ([JSON], prices.get().to_owned()).into_response()
}

/// The packs for sale; `price.amount` is in minor units.
#[utoipa::path(get, path = "/packs", responses(
    (status = 200, description = "The packs for sale")), security(()))]
pub(super) async fn packs(State(app): State<Arc<App>>) -> Response {
    app.metrics.pack_views.inc();
    let packs = app.catalogue.load().packs_json.clone();
    ([JSON], packs.get().to_owned()).into_response()
}
