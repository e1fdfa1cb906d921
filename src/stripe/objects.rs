//! Stripe's objects, reduced to the members that Farebox reads. They are the same in events of any
//! API version and in answers. Other members are not parsed, so a change in them cannot break
//! anything.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A signed event. Its object is parsed later, once the kind of event is known.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<'a> {
    pub id: Arc<str>,
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    #[serde(borrow)]
    pub data: EventData<'a>,
}

/// The members that identify one of Stripe's thin events, of which pings are a kind. A thin event
/// names an object but does not contain it.
#[derive(Debug, Deserialize)]
pub(super) struct Thin {
    object: Arc<str>,
    #[serde(rename = "type")]
    pub kind: Arc<str>,
}

impl Thin {
    /// Reads `text` as a thin event; `None` for anything else.
    pub fn of(text: &str) -> Option<Self> {
        let thin: Self = serde_json::from_str(text).ok()?;
        (&*thin.object == "v2.core.event").then_some(thin)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct EventData<'a> {
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// A checkout session.
#[derive(Debug, Deserialize)]
pub(super) struct Session {
    pub id: Arc<str>,
    #[serde(default)]
    pub url: Option<String>,
    /// `open`, `complete` or `expired`.
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub payment_status: Option<String>,
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<Arc<str>>,
    #[serde(default)]
    pub amount_subtotal: Option<u64>,
    #[serde(default)]
    pub amount_total: Option<u64>,
    #[serde(default)]
    pub currency: Option<Arc<str>>,
    #[serde(default)]
    pub metadata: Option<HashMap<String, String>>,
}

/// A refund.
#[derive(Debug, Deserialize)]
pub(super) struct Refund {
    pub id: Arc<str>,
    pub amount: u64,
    pub currency: Arc<str>,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default, deserialize_with = "id_of")]
    pub charge: Option<Arc<str>>,
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<Arc<str>>,
}

/// A charge, for the amount that was refunded.
#[derive(Debug, Deserialize)]
pub(super) struct Charge {
    pub id: Arc<str>,
    #[serde(default)]
    pub amount_refunded: u64,
    #[serde(default)]
    pub currency: Option<Arc<str>>,
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<Arc<str>>,
    /// Older API versions list the refunds here.
    #[serde(default)]
    pub refunds: Option<List<Refund>>,
}

/// A dispute.
#[derive(Debug, Deserialize)]
pub(super) struct Dispute {
    pub id: Arc<str>,
    pub amount: u64,
    pub currency: Arc<str>,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default, deserialize_with = "id_of")]
    pub charge: Option<Arc<str>>,
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<Arc<str>>,
    /// The money that was withdrawn for the dispute, and the money that came back.
    #[serde(default)]
    pub balance_transactions: Option<Vec<BalanceTransaction>>,
}

/// A movement on the seller's balance, for a dispute.
#[derive(Debug, Deserialize)]
pub(super) struct BalanceTransaction {
    /// The amount in minor units of the seller's balance, without the fee. Negative if money was
    /// withdrawn.
    pub amount: i64,
    pub currency: Arc<str>,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

/// Any object, of which only the id is read.
#[derive(Debug, Deserialize)]
pub(super) struct Identified {
    pub id: Arc<str>,
}

/// A price.
#[derive(Debug, Deserialize)]
pub(super) struct Price {
    pub id: Arc<str>,
    pub currency: String,
    #[serde(default)]
    pub unit_amount: Option<u64>,
    #[serde(default)]
    pub lookup_key: Option<String>,
    #[serde(default, deserialize_with = "id_of")]
    pub product: Option<Arc<str>>,
}

/// A product, for its name.
#[derive(Debug, Deserialize)]
pub(super) struct Product {
    pub name: String,
}

/// A webhook endpoint. Only the answer to the request that made it contains its secret.
#[derive(Deserialize)]
pub(super) struct WebhookEndpoint {
    pub id: Arc<str>,
    pub url: String,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub enabled_events: Vec<String>,
    #[serde(default)]
    pub secret: Option<String>,
}

/// An id, in a member where Stripe sends either the id or the whole object ("expanded").
pub(super) fn id_of<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Arc<str>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Expandable {
        Id(Arc<str>),
        Object(Identified),
    }
    Ok(Option::deserialize(deserializer)?.map(|found| match found {
        Expandable::Id(id) => id,
        Expandable::Object(object) => object.id,
    }))
}
