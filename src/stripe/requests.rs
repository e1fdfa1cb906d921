//! The requests that Farebox makes of Stripe's API, with their parameters.
//!
//! Each parameter has Stripe's own name, and is left out if it is `None`. The tests check every
//! request against the types of Stripe's SDK.

use std::collections::BTreeMap;

use serde::Serialize;

use super::client::{ApiError, Client};
use super::objects::{Dispute, Identified, List, Price, Product, Refund, Session, WebhookEndpoint};

/// The names and values with which Farebox marks its objects at Stripe.
pub(super) type Metadata = BTreeMap<&'static str, String>;

/// Checkout sessions, customers, refunds and disputes, for purchases and the comparison with Stripe.
impl Client {
    pub(super) async fn create_customer(
        &self,
        customer: &NewCustomer,
        key: &str,
    ) -> Result<Identified, ApiError> {
        self.post(&["customers"], customer, key).await
    }

    pub(super) async fn create_session(
        &self,
        session: &NewSession<'_>,
        key: &str,
    ) -> Result<Session, ApiError> {
        self.post(&["checkout", "sessions"], session, key).await
    }

    pub(super) async fn session(&self, id: &str) -> Result<Session, ApiError> {
        self.get(&["checkout", "sessions", id], &NoParameters {}).await
    }

    /// The completed sessions that were made since `since_secs` (seconds since 1970).
    pub(super) async fn completed_sessions(
        &self,
        since_secs: i64,
    ) -> Result<Vec<Session>, ApiError> {
        let filter = Since { created: Range { gte: since_secs }, status: Some("complete") };
        self.list(&["checkout", "sessions"], &filter, |session: &Session| &session.id).await
    }

    /// The refunds that were made since `since_secs`.
    pub(super) async fn refunds(&self, since_secs: i64) -> Result<Vec<Refund>, ApiError> {
        let filter = Since { created: Range { gte: since_secs }, status: None };
        self.list(&["refunds"], &filter, |refund: &Refund| &refund.id).await
    }

    /// The disputes that were opened since `since_secs`.
    pub(super) async fn disputes(&self, since_secs: i64) -> Result<Vec<Dispute>, ApiError> {
        let filter = Since { created: Range { gte: since_secs }, status: None };
        self.list(&["disputes"], &filter, |dispute: &Dispute| &dispute.id).await
    }
}

/// Prices, products and webhook endpoints, for `farebox packs sync`.
impl Client {
    pub(super) async fn price(&self, id: &str) -> Result<Price, ApiError> {
        self.get(&["prices", id], &NoParameters {}).await
    }

    /// The active price that has this lookup key. Stripe allows at most one.
    pub(super) async fn price_by_lookup_key(
        &self,
        lookup_key: &str,
    ) -> Result<Option<Price>, ApiError> {
        let query = PriceQuery { lookup_keys: [lookup_key], active: true, limit: 1 };
        let found: List<Price> = self.get(&["prices"], &query).await?;
        Ok(found.data.into_iter().next())
    }

    pub(super) async fn create_price(
        &self,
        price: &NewPrice<'_>,
        key: &str,
    ) -> Result<Identified, ApiError> {
        self.post(&["prices"], price, key).await
    }

    /// Gives `lookup_key` to a price, and takes it from the price that had it.
    pub(super) async fn move_lookup_key(
        &self,
        price: &str,
        lookup_key: &str,
        key: &str,
    ) -> Result<Identified, ApiError> {
        let change = PriceChange { lookup_key, transfer_lookup_key: true };
        self.post(&["prices", price], &change, key).await
    }

    pub(super) async fn product(&self, id: &str) -> Result<Product, ApiError> {
        self.get(&["products", id], &NoParameters {}).await
    }

    pub(super) async fn rename_product(
        &self,
        id: &str,
        name: &str,
        key: &str,
    ) -> Result<Identified, ApiError> {
        self.post(&["products", id], &ProductChange { name }, key).await
    }

    pub(super) async fn webhook_endpoints(&self) -> Result<Vec<WebhookEndpoint>, ApiError> {
        self.list(&["webhook_endpoints"], &NoParameters {}, |endpoint: &WebhookEndpoint| {
            &endpoint.id
        })
        .await
    }

    pub(super) async fn create_webhook_endpoint(
        &self,
        endpoint: &NewWebhookEndpoint<'_>,
        key: &str,
    ) -> Result<WebhookEndpoint, ApiError> {
        self.post(&["webhook_endpoints"], endpoint, key).await
    }

    pub(super) async fn change_webhook_endpoint(
        &self,
        id: &str,
        change: &WebhookEndpointChange<'_>,
        key: &str,
    ) -> Result<Identified, ApiError> {
        self.post(&["webhook_endpoints", id], change, key).await
    }
}

#[derive(Serialize)]
struct NoParameters {}

#[derive(Serialize)]
struct Since {
    created: Range,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
}

#[derive(Serialize)]
struct Range {
    gte: i64,
}

/// `POST /v1/customers`.
#[derive(Debug, Serialize)]
pub(super) struct NewCustomer {
    pub metadata: Metadata,
}

/// `POST /v1/checkout/sessions`.
#[derive(Debug, Serialize)]
pub(super) struct NewSession<'a> {
    /// `payment`.
    pub mode: &'static str,
    /// The customer's id.
    pub customer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_reference_id: Option<&'a str>,
    pub line_items: [LineItem<'a>; 1],
    /// The language of the page; `auto` follows the browser.
    pub locale: &'a str,
    pub success_url: &'a str,
    pub cancel_url: &'a str,
    pub metadata: Metadata,
    pub payment_intent_data: PaymentIntentData,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automatic_tax: Option<Enabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_update: Option<CustomerUpdate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoice_creation: Option<Enabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_promotion_codes: Option<bool>,
}

/// One item of a purchase. Its price is one that Stripe has, or one that is made for this session.
#[derive(Debug, Serialize)]
pub(super) struct LineItem<'a> {
    pub quantity: u32,
    #[serde(flatten)]
    pub price: LinePrice<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LinePrice<'a> {
    /// The id of a price.
    Price(&'a str),
    PriceData {
        currency: String,
        /// In minor units.
        unit_amount: u64,
        product_data: NewProduct<'a>,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct NewProduct<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

#[derive(Debug, Serialize)]
pub(super) struct PaymentIntentData {
    pub metadata: Metadata,
}

/// An option of the checkout page that is switched on.
#[derive(Debug, Serialize)]
pub(super) struct Enabled {
    enabled: bool,
}

impl Enabled {
    /// `Some` if `on` is true; `None` leaves the option out of the request.
    pub fn when(on: bool) -> Option<Self> {
        on.then_some(Self { enabled: true })
    }
}

/// The details of the customer that the page may change.
#[derive(Debug, Serialize)]
pub(super) struct CustomerUpdate {
    /// `auto` or `never`.
    pub address: &'static str,
    /// `auto` or `never`.
    pub name: &'static str,
}

#[derive(Serialize)]
struct PriceQuery<'a> {
    lookup_keys: [&'a str; 1],
    active: bool,
    limit: u8,
}

/// `POST /v1/prices`.
#[derive(Debug, Serialize)]
pub(super) struct NewPrice<'a> {
    pub currency: String,
    /// In minor units.
    pub unit_amount: u64,
    pub lookup_key: &'a str,
    /// Takes the lookup key from the price that has it.
    pub transfer_lookup_key: bool,
    pub metadata: Metadata,
    #[serde(flatten)]
    pub product: PriceProduct<'a>,
}

/// The product of a new price: one that Stripe has, or one that is made in the same request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PriceProduct<'a> {
    /// The product's id.
    Product(&'a str),
    ProductData(NewProduct<'a>),
}

#[derive(Serialize)]
struct PriceChange<'a> {
    lookup_key: &'a str,
    transfer_lookup_key: bool,
}

#[derive(Serialize)]
struct ProductChange<'a> {
    name: &'a str,
}

/// `POST /v1/webhook_endpoints`.
#[derive(Debug, Serialize)]
pub(super) struct NewWebhookEndpoint<'a> {
    pub url: &'a str,
    pub enabled_events: &'a [&'a str],
    pub description: &'a str,
}

/// `POST /v1/webhook_endpoints/{id}`.
#[derive(Debug, Serialize)]
pub(super) struct WebhookEndpointChange<'a> {
    pub disabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled_events: Option<Vec<&'a str>>,
}
