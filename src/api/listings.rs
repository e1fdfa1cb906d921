//! The price table and the packs. Both are public: people read prices before they have an account.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, header};

use crate::app::App;

const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

/// The price table: the routes, then the models. A route has `path` and either `credits`, its price, or
/// `price`, a price by usage: `"models"` for that of the request's model, or prices of the route itself. A
/// model has `model` and `prices`, in credits: of a million tokens, or of one image, second, character, search
/// or request. Its `above` and `when` replace prices: for calls with more input, and for requests with
/// certain members.
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
