//! Stripe's events, as the raw bytes that Stripe sends and signs.

use serde_json::{Value, json};

use super::books::Books;
use super::{WEBHOOK_SECRET, books, signature};

/// The API versions in which the tests write events. Each of Stripe's endpoints has its own
/// version, from the time when the endpoint was made.
pub const VERSIONS: [&str; 4] =
    ["2020-08-27", "2024-06-20", "2026-10-28.endive", "2031-01-01.zebra"];

/// The version that most tests use.
pub const VERSION: &str = VERSIONS[1];

/// The last version in which a charge lists its refunds.
const LISTS_REFUNDS_UNTIL: &str = "2022-11-15";

/// From this date on the versions are made up: Stripe has none of them.
const UNKNOWN_FROM: &str = "2030";

#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    /// The event's type, such as `refund.created`.
    pub kind: String,
    value: Value,
}

/// A new event about this object in its present state.
pub fn of(books: &mut Books, kind: &str, object: Value) -> Event {
    let changes = json!({ "type": kind, "data": { "object": object }, "pending_webhooks": 1,
        "api_version": VERSION });
    let value = books.make("event", changes);
    Event { id: value["id"].as_str().unwrap().to_owned(), kind: kind.to_owned(), value }
}

impl Event {
    /// Sets the members that had other values before.
    pub(super) fn was(&mut self, before: Value) {
        self.value["data"]["previous_attributes"] = before;
    }

    /// The object that the event is about.
    pub fn object(&self) -> &Value {
        &self.value["data"]["object"]
    }

    /// Stripe's request to the webhook at `url`, whose endpoint has this API version, signed now.
    pub fn request(
        &self,
        client: &reqwest::Client,
        url: String,
        version: &str,
    ) -> reqwest::RequestBuilder {
        let body = self.body(version);
        let header = signature::header(&body, WEBHOOK_SECRET, books::now());
        let request = client.post(url).header("stripe-signature", header);
        request.header("content-type", "application/json; charset=utf-8").body(body)
    }

    /// The bytes that Stripe sends to an endpoint of this API version.
    pub fn body(&self, version: &str) -> String {
        let mut event = self.value.clone();
        event["api_version"] = version.into();
        let object = &mut event["data"]["object"];
        if version >= LISTS_REFUNDS_UNTIL && object["object"] == "charge" {
            object.as_object_mut().unwrap().remove("refunds");
        }
        if version >= UNKNOWN_FROM {
            strange(&mut event);
        }
        serde_json::to_string_pretty(&event).unwrap()
    }

    /// The same event about another object, such as one that another program with the same account
    /// made.
    pub fn about(&self, object: Value) -> Self {
        let mut event = self.clone();
        event.value["data"]["object"] = object;
        event.id = format!("evt_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]);
        event.value["id"] = event.id.clone().into();
        event
    }
}

/// Turns an event into one of an imagined later version: some members are new, others are gone or
/// have another form. The members that describe a sale have not changed since 2020, and stay.
fn strange(event: &mut Value) {
    event["context"] = json!({ "workspace": ["wrk_1"] });
    let object = event["data"]["object"].as_object_mut().unwrap();
    let moved = [
        "automatic_tax",
        "billing_details",
        "customer_details",
        "evidence",
        "locale",
        "outcome",
        "payment_method_details",
        "payment_method_types",
        "total_details",
        "ui_mode",
    ];
    for name in moved {
        if let Some(member) = object.get_mut(name) {
            *member = json!([{ "kind": "unheard_of" }]);
        }
    }
    object.retain(|_, member| !member.is_null());
    object.insert("zebra".to_owned(), json!({ "stripes": 40.5 }));
}
