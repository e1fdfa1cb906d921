//! `farebox packs sync`: makes or updates the products, prices and webhook at Stripe that gateway.toml asks for.
//!
//! It can run again at any time. It finds its own objects by lookup key and address, never by name, so it does not
//! touch the objects of other programs.

use std::collections::BTreeSet;

use super::buy::currency;
use super::client::{ApiError, Client};
use super::objects::Price;
use super::read::{EVENTS, metadata_key};
use super::requests::{
    Metadata, NewPrice, NewProduct, NewWebhookEndpoint, PriceProduct, WebhookEndpointChange,
};
use crate::config::Secret;
use crate::price::PackConfig;

/// The result for one pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// The pack's id.
    pub pack: String,
    /// The price's id, for `stripe_price` in gateway.toml.
    pub price: String,
    /// The action that was taken, in words.
    pub done: String,
}

/// Makes or updates a product and a price for every pack.
///
/// # Errors
/// A request to Stripe failed. The packs before the failure are done, and a second run does the rest.
pub async fn sync_packs(
    client: &Client,
    packs: &[PackConfig],
) -> Result<Vec<SyncReport>, ApiError> {
    let mut reports = Vec::with_capacity(packs.len());
    for pack in packs {
        reports.push(sync_pack(client, pack).await?);
    }
    Ok(reports)
}

async fn sync_pack(client: &Client, pack: &PackConfig) -> Result<SyncReport, ApiError> {
    let report =
        |price: String, done: String| Ok(SyncReport { pack: pack.id.clone(), price, done });
    let key = lookup_key(pack);
    let Some(price) = find_price(client, pack, &key).await? else {
        // One request makes product and price, so there is never one without the other.
        let product = NewProduct { name: pack.name(), metadata: Some(pack_metadata(pack)) };
        let product = PriceProduct::ProductData(product);
        let made = client.create_price(&new_price(pack, &key, product), &fresh_key()).await?;
        return report(made.id.to_string(), "made".to_owned());
    };
    if let Some(product) = &price.product {
        let named = client.product(product).await?;
        if named.name != pack.name() {
            client.rename_product(product, pack.name(), &fresh_key()).await?;
        }
        if !asks_for(&price, pack) {
            // The amount of a price at Stripe cannot change, so a new price takes over the lookup key.
            // Open sessions keep the old price.
            let product = PriceProduct::Product(product);
            let new = client.create_price(&new_price(pack, &key, product), &fresh_key()).await?;
            let done = format!("made anew, because {} asks another amount", price.id);
            return report(new.id.to_string(), done);
        }
    }
    if price.lookup_key.as_deref() == Some(key.as_str()) {
        return report(price.id.to_string(), "up to date".to_owned());
    }
    client.move_lookup_key(&price.id, &key, &fresh_key()).await?;
    report(price.id.to_string(), "adopted".to_owned())
}

/// The price that the config names, or the one that an earlier sync made.
async fn find_price(
    client: &Client,
    pack: &PackConfig,
    key: &str,
) -> Result<Option<Price>, ApiError> {
    match &pack.stripe_price {
        Some(id) => client.price(id).await.map(Some),
        None => client.price_by_lookup_key(key).await,
    }
}

fn new_price<'a>(
    pack: &PackConfig,
    lookup_key: &'a str,
    product: PriceProduct<'a>,
) -> NewPrice<'a> {
    NewPrice {
        currency: currency(pack),
        unit_amount: pack.price.minor(),
        lookup_key,
        transfer_lookup_key: true,
        metadata: pack_metadata(pack),
        product,
    }
}

fn asks_for(price: &Price, pack: &PackConfig) -> bool {
    price.unit_amount == Some(pack.price.minor())
        && price.currency.eq_ignore_ascii_case(pack.price.currency().code())
}

fn lookup_key(pack: &PackConfig) -> String {
    format!("farebox_{}", pack.id)
}

fn pack_metadata(pack: &PackConfig) -> Metadata {
    [(metadata_key::PACK, pack.id.clone())].into()
}

/// A new idempotency key, for one request of this run. It is random, because Stripe would repeat a
/// failure for the same key. A later run finds the objects of this one by their lookup key or
/// address.
fn fresh_key() -> String {
    format!("farebox-{}", uuid::Uuid::new_v4())
}

/// The result for the webhook.
#[derive(Debug)]
pub struct SyncedWebhook {
    /// Stripe's id of the endpoint.
    pub id: String,
    /// The action that was taken, in words.
    pub done: &'static str,
    /// The signing secret, if the endpoint was just made. Stripe tells it only then.
    pub secret: Option<Secret>,
}

/// Makes or updates a webhook endpoint at `url`, so that Stripe sends it the events that Farebox
/// needs. If other events are selected for the endpoint, they stay selected.
///
/// # Errors
/// A request to Stripe failed.
pub async fn sync_webhook(client: &Client, url: &str) -> Result<SyncedWebhook, ApiError> {
    let endpoints = client.webhook_endpoints().await?;
    let Some(endpoint) = endpoints.into_iter().find(|endpoint| endpoint.url == url) else {
        let new = NewWebhookEndpoint { url, enabled_events: &EVENTS, description: "Farebox" };
        let made = client.create_webhook_endpoint(&new, &fresh_key()).await?;
        let secret = made.secret.map(Secret::new);
        return Ok(SyncedWebhook { id: made.id.to_string(), done: "made", secret });
    };
    let id = endpoint.id.to_string();
    let sent: BTreeSet<&str> = endpoint.enabled_events.iter().map(String::as_str).collect();
    let is_complete = sent.contains("*") || EVENTS.iter().all(|event| sent.contains(event));
    if is_complete && endpoint.status.as_deref() != Some("disabled") {
        return Ok(SyncedWebhook { id, done: "up to date", secret: None });
    }
    let others = sent.into_iter().filter(|event| !EVENTS.contains(event));
    let change = WebhookEndpointChange {
        disabled: false,
        enabled_events: (!is_complete).then(|| EVENTS.into_iter().chain(others).collect()),
    };
    client.change_webhook_endpoint(&id, &change, &fresh_key()).await?;
    Ok(SyncedWebhook { id, done: "updated", secret: None })
}
