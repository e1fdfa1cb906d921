//! Trims an event before it is stored: keeps the members that `read.rs` needs, and drops the buyer's
//! personal data.
//!
//! Stripe's events contain the buyer's name, address, email, phone and card. An event that is stored stays in the
//! ledger and in its backups, so everything that is not needed is dropped first. The migrations that trimmed older
//! events (`migrations/sqlite/0005_purchases.sql` and `migrations/postgres/0009_purchases.sql`) leave the same
//! members.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::objects::{Envelope, id_of};
use super::read::is_read;

/// The trimmed event, as JSON. `read` gives the same result for it as for the whole event.
pub(super) fn trim(event: &Envelope<'_>) -> String {
    let object = is_read(&event.kind).then(|| serde_json::from_str(event.data.object.get()));
    // If the object cannot be parsed now, it could not be read later either.
    let object = object.and_then(Result::ok).unwrap_or_default();
    let data = Data { object };
    let event = Event { id: &event.id, kind: &event.kind, data };
    // Serializing cannot fail: all members are texts, or were JSON before.
    serde_json::to_string(&event).unwrap_or_default()
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    object: Object<'a>,
}

/// Every member of a session, refund, charge or dispute that `read.rs` needs. Amounts and words
/// stay as Stripe wrote them, so that a later version can replay an event that this version cannot
/// read.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Object<'a> {
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    amount: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    amount_refunded: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    amount_subtotal: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    amount_total: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    currency: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    status: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    payment_status: Option<&'a RawValue>,
    #[serde(deserialize_with = "id_of", skip_serializing_if = "Option::is_none")]
    payment_intent: Option<Arc<str>>,
    #[serde(deserialize_with = "id_of", skip_serializing_if = "Option::is_none")]
    charge: Option<Arc<str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    refunds: Option<List<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    balance_transactions: Option<Vec<Moved<'a>>>,
}

/// The metadata that Farebox wrote itself: see `metadata_key`.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    farebox: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    account: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    pack: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    credits: Option<&'a RawValue>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct List<'a> {
    #[serde(borrow)]
    data: Vec<Refund<'a>>,
}

/// A refund that a charge lists.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Refund<'a> {
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    amount: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    currency: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    status: Option<&'a RawValue>,
    #[serde(deserialize_with = "id_of", skip_serializing_if = "Option::is_none")]
    payment_intent: Option<Arc<str>>,
    #[serde(deserialize_with = "id_of", skip_serializing_if = "Option::is_none")]
    charge: Option<Arc<str>>,
}

/// A balance transaction of a dispute.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Moved<'a> {
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    amount: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "scalar", skip_serializing_if = "Option::is_none")]
    currency: Option<&'a RawValue>,
}

/// A text or a number as Stripe wrote it. If an object or a list stands in its place, it is
/// dropped.
fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    let raw = Option::<&'de RawValue>::deserialize(deserializer)?;
    Ok(raw.filter(|raw| !raw.get().starts_with(['{', '['])))
}

#[cfg(test)]
mod tests {
    use super::super::read::{EVENTS, read};
    use super::*;
    use serde_json::{Value, json};

    const LEDGER: &str = "ledger-1";

    /// Objects that have all members that are read, in each form in which Stripe sends them,
    /// together with data about a buyer.
    fn objects() -> Vec<Value> {
        let buyer = json!({ "name": "Jane Buyer", "email": "jane@example.org",
            "phone": "+33 6 12", "address": { "line1": "12 Rue du Secret" } });
        let refund = json!({ "id": "re_1", "amount": 100, "currency": "eur", "status": "failed",
            "charge": { "id": "ch_1", "billing_details": buyer }, "payment_intent": "pi_1",
            "metadata": { "note": "Jane Buyer" } });
        let moved = |amount: i64| json!({ "amount": amount, "currency": "usd", "description": "Jane Buyer" });
        vec![
            json!({ "id": "cs_1", "payment_status": "paid", "amount_total": 7900,
                "amount_subtotal": 7900, "currency": "eur", "customer_details": buyer,
                "payment_intent": { "id": "pi_1", "receipt_email": "jane@example.org" },
                "metadata": { "farebox": LEDGER, "account": "alice", "pack": "pack-500",
                    "credits": "500", "name": "Jane Buyer" } }),
            json!({ "id": "ch_1", "payment_intent": null, "amount_refunded": 100, "currency": "eur",
                "billing_details": buyer, "refunds": { "data": [refund, refund] } }),
            refund,
            json!({ "id": "dp_1", "amount": 7900, "currency": "eur", "status": "lost",
                "charge": "ch_1", "payment_intent": "pi_1", "evidence": buyer,
                "balance_transactions": [moved(-9000), moved(4500)] }),
            json!({ "id": { "name": "Jane Buyer" }, "amount": 1, "currency": "eur" }),
            json!([buyer]),
            json!("Jane Buyer"),
            Value::Null,
        ]
    }

    #[test]
    fn a_trimmed_event_reads_as_the_whole_one_and_has_nothing_of_the_buyer() {
        let older = ["charge.refund.updated", "charge.dispute.of_tomorrow", "customer.created"];
        for kind in EVENTS.into_iter().chain(older) {
            for object in objects() {
                let whole = json!({ "id": "evt_1", "type": kind, "account": "Jane Buyer",
                    "data": { "object": object, "previous_attributes": { "name": "Jane" } } });
                let whole = whole.to_string();
                let event: Envelope<'_> = serde_json::from_str(&whole).unwrap();
                let trimmed = trim(&event);
                for word in ["Jane", "jane", "Secret", "+33"] {
                    assert!(!trimmed.contains(word), "{kind}: {trimmed}");
                }
                let again: Envelope<'_> = serde_json::from_str(&trimmed).unwrap();
                assert_eq!((&again.id, &again.kind), (&event.id, &event.kind));
                match read(&event, LEDGER) {
                    Ok(reading) => assert_eq!(read(&again, LEDGER).unwrap(), reading, "{kind}"),
                    Err(_) => assert!(read(&again, LEDGER).is_err(), "{kind}: {trimmed}"),
                }
                assert_eq!(trim(&again), trimmed, "{kind}: trimmed twice");
            }
        }
    }

    #[test]
    fn a_broken_escape_in_the_buyer_s_name_is_in_nobody_s_way() {
        let whole = r#"{"id":"evt_1","type":"refund.created","data":{"object":{"id":"re_1",
            "amount":100,"currency":"eur","destination":{"name":"Jane \ud83d"}}}}"#;
        let event: Envelope<'_> = serde_json::from_str(whole).unwrap();
        let trimmed = trim(&event);
        assert_eq!(
            trimmed,
            r#"{"id":"evt_1","type":"refund.created","data":{"object":{"id":"re_1","amount":100,"currency":"eur"}}}"#
        );
    }
}
