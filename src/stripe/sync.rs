//! `farebox packs sync`: the products, prices and webhook at Stripe that gateway.toml asks for, made
//! or brought up to date. Repeatable; nothing is found by name, so nothing of others is touched.

use std::collections::{BTreeSet, HashMap};

use stripe_misc::webhook_endpoint::{
    CreateWebhookEndpoint, CreateWebhookEndpointEnabledEvents, ListWebhookEndpoint,
    UpdateWebhookEndpoint, UpdateWebhookEndpointEnabledEvents,
};
use stripe_product::price::{
    CreatePrice, CreatePriceProductData, ListPrice, RetrievePrice, UpdatePrice,
};
use stripe_product::product::{RetrieveProduct, UpdateProduct};

use super::buy::currency;
use super::client::{ApiError, Client, PAGE};
use super::objects::{Identified, List, Price, Product, WebhookEndpoint};
use super::read::{EVENTS, metadata_key};
use crate::config::Secret;
use crate::price::PackConfig;

/// What was done for a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncReport {
    /// The pack's id.
    pub pack: String,
    /// What to write as its `stripe_price`.
    pub price: String,
    /// What was done.
    pub done: String,
}

/// Has a product and a price for every pack.
///
/// # Errors
/// Where Stripe refuses; run again once that is mended.
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
        // Both in one request: neither is ever there without the other.
        let mut product = CreatePriceProductData::new(pack.name());
        product.metadata = Some(pack_metadata(pack));
        let price = create_price(client, new_price(pack, &key).product_data(product)).await?;
        return report(price, "made".to_owned());
    };
    if let Some(product) = &price.product {
        let named: Product = client.get(&RetrieveProduct::new(&**product)).await?;
        if named.name != pack.name() {
            let update = UpdateProduct::new(&**product).name(pack.name());
            let _: Identified = client.post(&update, &fresh_key()).await?;
        }
        if !asks_for(&price, pack) {
            // A price at Stripe never changes: a new one takes the old one's key. Sessions that are
            // open go on with the old one.
            let new = create_price(client, new_price(pack, &key).product(&**product)).await?;
            return report(new, format!("made anew, because {} asks another amount", price.id));
        }
    }
    if price.lookup_key.as_deref() == Some(key.as_str()) {
        return report(price.id.to_string(), "up to date".to_owned());
    }
    let update = UpdatePrice::new(&*price.id).lookup_key(&key).transfer_lookup_key(true);
    let _: Identified = client.post(&update, &fresh_key()).await?;
    report(price.id.to_string(), "adopted".to_owned())
}

/// The price that the config names, or the one that an earlier sync made.
async fn find_price(
    client: &Client,
    pack: &PackConfig,
    key: &str,
) -> Result<Option<Price>, ApiError> {
    if let Some(id) = &pack.stripe_price {
        return client.get(&RetrievePrice::new(id.as_str())).await.map(Some);
    }
    let list = ListPrice::new().lookup_keys(vec![key.to_owned()]).active(true).limit(1);
    let found: List<Price> = client.get(&list).await?;
    Ok(found.data.into_iter().next())
}

fn new_price(pack: &PackConfig, key: &str) -> CreatePrice {
    CreatePrice::new(currency(pack))
        .unit_amount(i64::try_from(pack.price.minor()).unwrap_or(i64::MAX))
        .lookup_key(key)
        .transfer_lookup_key(true)
        .metadata(pack_metadata(pack))
}

async fn create_price(client: &Client, price: CreatePrice) -> Result<String, ApiError> {
    let made: Identified = client.post(&price, &fresh_key()).await?;
    Ok(made.id.to_string())
}

fn asks_for(price: &Price, pack: &PackConfig) -> bool {
    price.unit_amount == Some(pack.price.minor())
        && price.currency.eq_ignore_ascii_case(pack.price.currency().code())
}

fn lookup_key(pack: &PackConfig) -> String {
    format!("farebox_{}", pack.id)
}

fn pack_metadata(pack: &PackConfig) -> HashMap<String, String> {
    HashMap::from([(metadata_key::PACK.to_owned(), pack.id.clone())])
}

/// A key for one act. Stripe repeats a failure to the same key, and what this makes is found again
/// by its lookup key or address, so that the next run needs none of the last one's.
fn fresh_key() -> String {
    format!("farebox-{}", uuid::Uuid::new_v4())
}

/// What was done for the webhook.
#[derive(Debug)]
pub struct SyncedWebhook {
    /// Stripe's id of it.
    pub id: String,
    /// What was done.
    pub done: &'static str,
    /// Its secret, the one time that Stripe tells it: when it is made.
    pub secret: Option<Secret>,
}

/// Has a webhook endpoint at `url` that is sent the events that Farebox needs. Others that it is
/// sent already stay.
///
/// # Errors
/// Where Stripe refuses.
pub async fn sync_webhook(client: &Client, url: &str) -> Result<SyncedWebhook, ApiError> {
    let page = |after: Option<&str>| {
        let list = ListWebhookEndpoint::new().limit(PAGE);
        match after {
            Some(id) => list.starting_after(id),
            None => list,
        }
    };
    let endpoints: Vec<WebhookEndpoint> =
        client.list(page, |endpoint: &WebhookEndpoint| &endpoint.id).await?;
    let Some(endpoint) = endpoints.into_iter().find(|endpoint| endpoint.url == url) else {
        let events = EVENTS.map(|event| match event.parse() {
            Ok(event) => event,
            Err(never) => match never {},
        });
        let events: Vec<CreateWebhookEndpointEnabledEvents> = events.into();
        let create = CreateWebhookEndpoint::new(events, url).description("Farebox");
        let made: WebhookEndpoint = client.post(&create, &fresh_key()).await?;
        let secret = made.secret.map(Secret::new);
        return Ok(SyncedWebhook { id: made.id.to_string(), done: "made", secret });
    };
    let id = endpoint.id.to_string();
    let sent: BTreeSet<&str> = endpoint.enabled_events.iter().map(String::as_str).collect();
    let complete = sent.contains("*") || EVENTS.iter().all(|event| sent.contains(event));
    if complete && endpoint.status.as_deref() != Some("disabled") {
        return Ok(SyncedWebhook { id, done: "up to date", secret: None });
    }
    let mut update = UpdateWebhookEndpoint::new(&*endpoint.id).disabled(false);
    if !complete {
        let others = sent.into_iter().filter(|event| !EVENTS.contains(event));
        let events = EVENTS.into_iter().chain(others).map(|event| match event.parse() {
            Ok(event) => event,
            Err(never) => match never {},
        });
        update = update.enabled_events(events.collect::<Vec<UpdateWebhookEndpointEnabledEvents>>());
    }
    let _: Identified = client.post(&update, &fresh_key()).await?;
    Ok(SyncedWebhook { id, done: "updated", secret: None })
}
