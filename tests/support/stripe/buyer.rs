//! Actions of buyers, sellers and banks, and the events that Stripe sends about them, in Stripe's
//! order.

use serde_json::{Value, json};

use super::books::{Books, change};
use super::event::{self, Event};

/// How a buyer pays for a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payment {
    /// Whether the payment is a debit or transfer that takes days: the session then completes
    /// unpaid.
    pub later: bool,
    /// The amount that a promotion code subtracts, in minor units.
    pub discount: i64,
    /// The amount that automatic tax adds, in minor units.
    pub tax: i64,
}

fn text(object: &Value, name: &str) -> String {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned()
}

/// The buyer completes the session.
pub fn pay(books: &mut Books, session: &str, payment: Payment) -> Vec<Event> {
    let mut session = books.get(session);
    assert_eq!(session["status"], "open", "{session}");
    let id = text(&session, "id");
    let amount = session["amount_subtotal"].as_i64().unwrap() - payment.discount + payment.tax;
    let mut events = Vec::new();
    if session["customer_creation"] == "always" {
        let customer = books.make("customer", json!({ "email": "buyer@example.com" }));
        session["customer"] = customer["id"].clone();
        events.push(event::of(books, "customer.created", customer));
    }
    let common = json!({ "amount": amount, "currency": session["currency"],
        "customer": session["customer"], "metadata": books.intent_metadata[&id] });
    let mut intent = books.make("payment_intent", common.clone());
    let state = if payment.later { "processing" } else { "succeeded" };
    let received = if payment.later { 0 } else { amount };
    change(
        &mut intent,
        json!({ "amount_received": received, "canceled_at": null, "last_payment_error": null,
            "processing": null, "status": state, "next_action": null }),
    );
    let mut charge = books.make("charge", common);
    change(
        &mut charge,
        json!({ "payment_intent": intent["id"], "amount_captured": received,
            "captured": !payment.later, "paid": !payment.later, "description": null,
            "status": if payment.later { "pending" } else { "succeeded" } }),
    );
    intent["latest_charge"] = charge["id"].clone();
    books.put(intent.clone());
    books.put(charge.clone());
    change(
        &mut session,
        json!({
            "amount_total": amount,
            "total_details": { "amount_discount": payment.discount, "amount_shipping": 0,
                "amount_tax": payment.tax },
            "customer_details": { "email": "buyer@example.com", "name": "A Buyer",
                "address": { "country": "FR" }, "phone": null, "tax_exempt": "none", "tax_ids": [] },
            "payment_intent": intent["id"],
            "payment_status": if payment.later { "unpaid" } else { "paid" },
            "status": "complete",
            "url": null,
        }),
    );
    books.put(session.clone());
    if payment.later {
        events.push(event::of(books, "payment_intent.processing", intent));
        events.push(event::of(books, "charge.pending", charge));
    } else {
        events.push(event::of(books, "charge.succeeded", charge));
        events.push(event::of(books, "payment_intent.succeeded", intent));
    }
    events.push(event::of(books, "checkout.session.completed", session));
    events
}

/// A debit or transfer that was under way succeeds or fails.
pub fn settle(books: &mut Books, session: &str, success: bool) -> Vec<Event> {
    let mut session = books.get(session);
    let mut intent = books.get(&text(&session, "payment_intent"));
    let mut charge = books.get(&text(&intent, "latest_charge"));
    assert_eq!(intent["status"], "processing", "{intent}");
    let amount = intent["amount"].clone();
    if success {
        change(&mut intent, json!({ "status": "succeeded", "amount_received": amount }));
        change(
            &mut charge,
            json!({ "status": "succeeded", "paid": true, "captured": true,
                "amount_captured": amount }),
        );
        session["payment_status"] = "paid".into();
    } else {
        change(&mut intent, json!({ "status": "requires_payment_method" }));
        change(&mut charge, json!({ "status": "failed", "failure_code": "insufficient_funds" }));
    }
    for object in [&intent, &charge, &session] {
        books.put(object.clone());
    }
    let names = if success {
        ["charge.succeeded", "payment_intent.succeeded", "checkout.session.async_payment_succeeded"]
    } else {
        ["charge.failed", "payment_intent.payment_failed", "checkout.session.async_payment_failed"]
    };
    [charge, intent, session]
        .into_iter()
        .zip(names)
        .map(|(object, name)| event::of(books, name, object))
        .collect()
}

/// The session expires.
pub fn expire(books: &mut Books, session: &str) -> Vec<Event> {
    let mut session = books.get(session);
    change(&mut session, json!({ "status": "expired", "url": null }));
    books.put(session.clone());
    vec![event::of(books, "checkout.session.expired", session)]
}

/// The charge of a session that was paid.
pub fn charge_of(books: &Books, session: &str) -> Value {
    let intent = books.get(&text(&books.get(session), "payment_intent"));
    books.get(&text(&intent, "latest_charge"))
}

/// The seller refunds `amount` of a charge.
pub fn refund_charge(books: &mut Books, mut charge: Value, amount: i64) -> (Value, Vec<Event>) {
    let refund = books.make(
        "refund",
        json!({ "amount": amount, "charge": charge["id"], "currency": charge["currency"],
            "payment_intent": charge["payment_intent"], "status": "succeeded",
            "reason": "requested_by_customer" }),
    );
    let before = charge["amount_refunded"].as_i64().unwrap();
    let refunded = before + amount;
    assert!(refunded <= charge["amount"].as_i64().unwrap(), "too much is refunded: {charge}");
    charge["amount_refunded"] = refunded.into();
    charge["refunded"] = (refunded == charge["amount"].as_i64().unwrap()).into();
    books.put(charge.clone());
    let created = event::of(books, "refund.created", refund.clone());
    // API versions before 2022-11-15 list the refunds here; `Event::body` removes the list for
    // later versions.
    let refunds = books.having("refund", "charge", &charge["id"]);
    charge["refunds"]["data"] = refunds.into();
    let mut changed = event::of(books, "charge.refunded", charge);
    changed.was(json!({ "amount_refunded": before, "refunded": false }));
    // Stripe sends this when the bank has given the refund a reference number.
    let mut updated = event::of(books, "refund.updated", refund.clone());
    updated.was(json!({ "destination_details": { "card": { "reference_status": "pending" } } }));
    (refund, vec![created, changed, updated])
}

/// The bank returns a refund, so the seller has the money again.
pub fn fail_refund(books: &mut Books, refund: &str) -> Vec<Event> {
    let mut refund = books.get(refund);
    change(
        &mut refund,
        json!({ "status": "failed", "failure_reason": "expired_or_canceled_card" }),
    );
    books.put(refund.clone());
    let mut charge = books.get(&text(&refund, "charge"));
    let left = charge["amount_refunded"].as_i64().unwrap() - refund["amount"].as_i64().unwrap();
    change(&mut charge, json!({ "amount_refunded": left, "refunded": false }));
    books.put(charge);
    ["refund.updated", "charge.refund.updated", "refund.failed"]
        .into_iter()
        .map(|name| event::of(books, name, refund.clone()))
        .collect()
}

/// The bank takes `amount` back, or only inquires about it.
pub fn dispute(
    books: &mut Books,
    session: &str,
    amount: i64,
    inquiry: bool,
) -> (Value, Vec<Event>) {
    let mut charge = charge_of(books, session);
    charge["disputed"] = true.into();
    books.put(charge.clone());
    let mut dispute = books.make(
        "dispute",
        json!({ "amount": amount, "charge": charge["id"], "currency": charge["currency"],
            "payment_intent": charge["payment_intent"], "reason": "fraudulent",
            "is_charge_refundable": inquiry,
            "status": if inquiry { "warning_needs_response" } else { "needs_response" } }),
    );
    let mut events = vec![event::of(books, "charge.dispute.created", dispute.clone())];
    if !inquiry {
        dispute["balance_transactions"] = json!([move_of(books, &dispute, -amount, "dispute")]);
        books.put(dispute.clone());
        events.push(event::of(books, "charge.dispute.funds_withdrawn", dispute.clone()));
    }
    (dispute, events)
}

fn move_of(books: &mut Books, dispute: &Value, amount: i64, category: &str) -> Value {
    books.make(
        "balance_transaction",
        json!({ "amount": amount, "currency": dispute["currency"], "fee": 2000,
            "net": amount - 2000, "source": dispute["id"], "type": "adjustment",
            "reporting_category": category, "description": "Chargeback" }),
    )
}

/// A dispute is lost, but the bank gives `amount` of it back. Stripe's dashboard calls this
/// partially won.
pub fn win_part(books: &mut Books, dispute: &str, amount: i64) -> Vec<Event> {
    let mut events = close(books, dispute, "lost");
    let mut dispute = books.get(dispute);
    let back = move_of(books, &dispute, amount, "dispute_reversal");
    dispute["balance_transactions"].as_array_mut().unwrap().push(back);
    books.put(dispute.clone());
    events.push(event::of(books, "charge.dispute.funds_reinstated", dispute));
    events
}

/// The bank closes a dispute as `won`, `lost` or, after an inquiry, `warning_closed`.
pub fn close(books: &mut Books, dispute: &str, outcome: &str) -> Vec<Event> {
    let mut dispute = books.get(dispute);
    dispute["status"] = outcome.into();
    if outcome == "won" {
        let amount = dispute["amount"].as_i64().unwrap();
        let back = move_of(books, &dispute, amount, "dispute_reversal");
        dispute["balance_transactions"].as_array_mut().unwrap().push(back);
    }
    books.put(dispute.clone());
    let mut events = vec![event::of(books, "charge.dispute.closed", dispute.clone())];
    if outcome == "won" {
        events.push(event::of(books, "charge.dispute.funds_reinstated", dispute));
    }
    events
}
