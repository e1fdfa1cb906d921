//! Stripe knows the buyer; the ledger stores nothing about them.

use http::Method;
use serde_json::{Value, json};

use crate::backend::{Backend, on_both_ledgers};
use crate::shop::{PRICE, Shop};
use crate::support::stripe::event::{Event, VERSION, VERSIONS};

on_both_ledgers!(
    a_buyer_s_name_and_address_are_in_no_file_of_the_ledger,
    what_an_earlier_version_kept_of_buyers_is_trimmed_at_the_start,
);

/// Personal data that is in Stripe's events and must not be in the ledger.
const BUYER: [&str; 6] = [
    "Jane Secretbuyer",
    "secret.buyer@example.org",
    "12 Rue du Secret",
    "+33612987654",
    "FR98765432101",
    "4242",
];

/// A purchase, with its refunds and disputes. Each event has the buyer's data.
async fn life_of_a_purchase(shop: &Shop) -> Vec<Event> {
    let stripe = &shop.stripe;
    let session = shop.buy("alice", "pack-500").await;
    let mut events = stripe.pay_later(&session);
    events.extend(stripe.settle(&session, true));
    let (refund, refunded) = stripe.refund(&session, PRICE / 4);
    events.extend(refunded);
    events.extend(stripe.fail_refund(&refund));
    let (dispute, opened) = stripe.dispute(&session, PRICE / 2);
    events.extend(opened);
    events.extend(stripe.win_part(&dispute, PRICE / 4));
    let abandoned = shop.buy("alice", "pack-100").await;
    events.extend(stripe.expire(&abandoned));
    let nobody = json!({ "id": "cus_1", "object": "customer" });
    events.push(stripe.event("customer.created", nobody));
    // An event that cannot be applied.
    events.push(stripe.event("refund.created", json!({ "id": "re_odd", "object": "refund" })));
    events.iter().map(with_buyer).collect()
}

fn with_buyer(event: &Event) -> Event {
    let [name, email, line1, phone, tax, last4] = BUYER;
    let details = json!({ "name": name, "email": email, "phone": phone,
        "address": { "line1": line1, "country": "FR" },
        "tax_ids": [{ "type": "eu_vat", "value": tax }] });
    let mut object = event.object().clone();
    let members = object.as_object_mut().unwrap();
    for member in ["customer_details", "billing_details", "evidence", "shipping_details"] {
        members.insert(member.to_owned(), details.clone());
    }
    members.insert("receipt_email".to_owned(), email.into());
    members.insert("description".to_owned(), format!("{name} \u{20ac} \\ud83d").into());
    members.insert("payment_method_details".to_owned(), json!({ "card": { "last4": last4 } }));
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert("note".to_owned(), name.into());
    }
    if let Some(intent) = object["payment_intent"].as_str().map(str::to_owned) {
        object["payment_intent"] = json!({ "id": intent, "object": "payment_intent",
            "receipt_email": email, "shipping": details });
    }
    event.about(object)
}

/// The state of each event, by its id.
async fn states(shop: &Shop) -> Vec<(String, String)> {
    let answer = shop.gateway.admin(Method::GET, "/admin/stripe/events?limit=200", "").await;
    let listed = answer.expect(200)["events"].as_array().unwrap().clone();
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let mut states: Vec<_> =
        listed.iter().map(|event| (text(event, "id"), text(event, "state"))).collect();
    states.sort();
    states
}

/// Replays every event. Nothing may change that the event had not changed before.
async fn replay_all(shop: &Shop) {
    let (before, lines) = (states(shop).await, shop.kinds("alice").await);
    for (id, state) in &before {
        let path = format!("/admin/stripe/events/{id}/replay");
        let replayed = shop.gateway.admin(Method::POST, &path, "").await.expect(200);
        assert_eq!(replayed["state"], state.as_str(), "{id}");
    }
    assert_eq!(shop.kinds("alice").await, lines);
}

#[track_caller]
fn expect_nothing_of_the_buyer(shop: &Shop) {
    for word in BUYER.iter().filter(|word| word.len() > 4) {
        assert!(!shop.place.has_bytes(shop.folder.path(), word), "{word} is in the ledger");
    }
}

async fn a_buyer_s_name_and_address_are_in_no_file_of_the_ledger(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    shop.place.compress_nothing();
    let events = life_of_a_purchase(&shop).await;
    for (n, event) in events.iter().enumerate() {
        shop.deliver_as(event, VERSIONS[n % VERSIONS.len()]).await.expect(200);
    }
    shop.expect_balance("alice", 375).await;
    let states = states(&shop).await;
    for state in ["applied", "ignored", "failed"] {
        assert!(states.iter().any(|(_, of)| of == state), "{state}: {states:?}");
    }
    expect_nothing_of_the_buyer(&shop);
    replay_all(&shop).await;
    shop.crash();
    replay_all(&shop).await;
    expect_nothing_of_the_buyer(&shop);
    shop.close().await;
}

async fn what_an_earlier_version_kept_of_buyers_is_trimmed_at_the_start(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    shop.place.compress_nothing();
    let events = life_of_a_purchase(&shop).await;
    shop.deliver_all(&events).await;
    shop.expect_balance("alice", 375).await;
    let states_before = states(&shop).await;
    assert!(shop.gateway.terminate().success());
    let folder = shop.folder.path();
    let trimmed = shop.place.payloads(folder).await;
    // The state before this migration: each event is whole, and was written again with each change
    // of its state.
    for (n, event) in events.iter().enumerate() {
        let mut whole = event.body(VERSION).replace('\'', "''");
        if n % 2 == 0 {
            // Half of an emoji, as if Stripe had cut a text in it. Postgres does not accept this as
            // JSON.
            whole = whole.replace("\\\\ud83d", "\\ud83d");
        }
        let set = |table: &str| {
            let id = &event.id;
            format!(
                "UPDATE {table} SET payload = '' WHERE id = '{id}';
                UPDATE {table} SET payload = '{whole}' WHERE id = '{id}';
                UPDATE {table} SET payload = payload || ' ' WHERE id = '{id}'"
            )
        };
        let (sqlite, postgres) = (set("stripe_events"), set("farebox.stripe_events"));
        shop.place.sql(folder, &sqlite, &postgres).await;
    }
    assert!(shop.place.has_bytes(folder, BUYER[0]), "the test sees what is there");
    let sqlite = "DELETE FROM _sqlx_migrations WHERE version = 5; PRAGMA user_version = 0";
    let postgres = "DELETE FROM farebox.migrations WHERE version = 9";
    shop.place.sql(folder, sqlite, postgres).await;
    shop.restart();
    expect_nothing_of_the_buyer(&shop);
    assert_eq!(states(&shop).await, states_before);
    replay_all(&shop).await;
    shop.expect_balance("alice", 375).await;
    assert!(shop.gateway.terminate().success());
    expect_nothing_of_the_buyer(&shop);
    let now = shop.place.payloads(shop.folder.path()).await;
    for (id, payload) in &now {
        assert_eq!(payload, &trimmed[id], "the migration keeps what the gateway keeps");
    }
    shop.restart();
    shop.close().await;
}
