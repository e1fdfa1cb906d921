//! Each event changes a balance once, by the right amount.

use serde_json::json;

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::shop::{PRICE, Shop, config};
use crate::support::stripe::Stripe;
use crate::support::stripe::buyer::Payment;
use crate::support::stripe::event::VERSIONS;
use crate::support::{Upstream, eventually, token};

on_both_ledgers!(
    a_paid_session_grants_its_pack,
    a_duplicate_webhook_mints_nothing,
    nothing_is_granted_before_it_is_paid,
    the_events_of_a_late_payment_are_one_payment_in_any_order,
    events_of_every_api_version_say_the_same,
    what_was_bought_is_granted_though_the_pack_was_changed_since,
    what_was_bought_is_granted_though_the_pack_is_gone,
    an_account_that_was_never_seen_gets_what_was_paid,
    a_sale_of_another_farebox_on_the_same_stripe_account_is_granted_there_alone,
    sales_of_others_on_the_same_stripe_account_grant_nothing,
    events_that_mean_nothing_here_are_accepted_and_counted,
    a_promotion_code_and_tax_change_what_was_paid_and_not_what_was_bought,
    the_webhook_stays_where_it_is_whatever_else_is_routed,
    nobody_fills_the_memory_through_the_webhook,
);

async fn a_paid_session_grants_its_pack(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    shop.call("alice").await.problem(402, "INSUFFICIENT_CREDITS");
    shop.deliver_all(&shop.stripe.pay(&session)).await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    shop.call("alice").await.expect(200);
    let line = shop.gateway.transactions("alice").await.pop().unwrap();
    assert_eq!(line["balance_after"], 500);
    shop.close().await;
}

async fn a_duplicate_webhook_mints_nothing(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    let events = shop.stripe.pay(&session);
    let completed = events.last().unwrap();
    let many = (0..20).map(|_| shop.deliver(completed));
    for answer in futures_util::future::join_all(many).await {
        answer.expect(200);
    }
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    // The same payment in another event: Stripe may send one again under a new id.
    let again = completed.about(completed.object().clone());
    assert_ne!(again.id, completed.id);
    shop.deliver_all([&again, completed]).await;
    shop.crash();
    shop.deliver_all([completed, &again]).await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    shop.close().await;
}

async fn nothing_is_granted_before_it_is_paid(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    shop.deliver_all(&shop.stripe.pay_later(&session)).await;
    let failed = shop.buy("bob", "pack-500").await;
    shop.deliver_all(&shop.stripe.pay_later(&failed)).await;
    let expired = shop.buy("carol", "pack-500").await;
    shop.deliver_all(&shop.stripe.expire(&expired)).await;
    // A purchase after these events shows that they have been handled.
    shop.bought("dave").await;
    for account in ["alice", "bob", "carol"] {
        assert_eq!(shop.balance(account).await, 0, "{account}");
    }
    shop.deliver_all(&shop.stripe.settle(&session, true)).await;
    shop.deliver_all(&shop.stripe.settle(&failed, false)).await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    shop.bought("dave").await;
    for account in ["bob", "carol"] {
        assert_eq!(shop.balance(account).await, 0, "{account}");
    }
    shop.close().await;
}

async fn the_events_of_a_late_payment_are_one_payment_in_any_order(backend: Backend) {
    let shop = Shop::open(backend).await;
    for (account, reversed) in [("alice", false), ("bob", true)] {
        let session = shop.buy(account, "pack-500").await;
        let mut events = vec![shop.stripe.pay_later(&session).pop().unwrap()];
        events.push(shop.stripe.settle(&session, true).pop().unwrap());
        if reversed {
            events.reverse();
        }
        shop.deliver_all(&events).await;
        shop.deliver_all(&events).await;
        shop.expect_lines(account, &[("grant", 500.0)]).await;
    }
    shop.close().await;
}

async fn events_of_every_api_version_say_the_same(backend: Backend) {
    let shop = Shop::open(backend).await;
    for version in VERSIONS {
        let account = format!("buyer-{version}");
        let session = shop.buy(&account, "pack-500").await;
        let mut events = shop.stripe.pay(&session);
        events.extend(shop.stripe.refund(&session, PRICE / 4).1);
        let (dispute, opened) = shop.stripe.dispute(&session, PRICE / 2);
        events.extend(opened);
        events.extend(shop.stripe.win(&dispute));
        for event in &events {
            let answer = shop.deliver_as(event, version).await;
            assert_eq!(answer.status, 200, "{version} {}: {}", event.kind, answer.text);
        }
        shop.expect_balance(&account, 375).await;
    }
    shop.close().await;
}

async fn what_was_bought_is_granted_though_the_pack_was_changed_since(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    // The seller gives less for more, while a buyer is on Stripe's page.
    shop.text = shop.text.replace("credits = 500", "credits = 450");
    shop.text = shop.text.replace("price = \"79.00 EUR\"", "price = \"89.00 EUR\"");
    shop.crash();
    shop.deliver_all(&shop.stripe.pay(&session)).await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    shop.close().await;
}

async fn what_was_bought_is_granted_though_the_pack_is_gone(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-100").await;
    let start = shop.text.find("[[packs]]\nid = \"pack-100\"").unwrap();
    let end = shop.text.find("[[packs]]\nid = \"pack-500\"").unwrap();
    shop.text.replace_range(start..end, "");
    shop.crash();
    shop.try_buy("alice", "pack-100").await;
    shop.deliver_all(&shop.stripe.pay(&session)).await;
    shop.expect_lines("alice", &[("grant", 100.0)]).await;
    shop.close().await;
}

async fn an_account_that_was_never_seen_gets_what_was_paid(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let copy = shop.back_up();
    let session = shop.buy("alice", "pack-500").await;
    // The ledger is the copy of yesterday: neither buyer nor sale is in it.
    shop.crash_back_to(&copy);
    shop.deliver_all(&shop.stripe.pay(&session)).await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    let (_, refunded) = shop.stripe.refund(&session, PRICE);
    shop.deliver_all(&refunded).await;
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -500.0)]).await;
    shop.close().await;
}

async fn a_sale_of_another_farebox_on_the_same_stripe_account_is_granted_there_alone(
    backend: Backend,
) {
    let stripe = Stripe::start().await;
    let ours = Shop::open_at(backend, stripe.clone(), "").await;
    let theirs = Shop::open_at(backend, stripe, "").await;
    let session = theirs.buy("alice", "pack-500").await;
    let mut events = theirs.stripe.pay(&session);
    events.extend(theirs.stripe.refund(&session, PRICE / 2).1);
    // Stripe sends every event to every endpoint of the account.
    for shop in [&ours, &theirs] {
        shop.deliver_all(&events).await;
    }
    theirs.expect_lines("alice", &[("grant", 500.0), ("clawback", -250.0)]).await;
    ours.bought("bob").await;
    assert_eq!(ours.balance("alice").await, 0);
    ours.close().await;
    theirs.close().await;
}

/// A sale by another program with the same Stripe account.
fn foreign_session(stripe: &Stripe, reference: &str) -> String {
    let form = format!(
        "mode=payment&success_url=https://other.example.com/&client_reference_id={reference}\
         &line_items[0][quantity]=1&line_items[0][price_data][currency]=eur\
         &line_items[0][price_data][unit_amount]=7900\
         &line_items[0][price_data][product_data][name]=T-shirt&metadata[order]=42"
    );
    stripe.ask("POST", "/v1/checkout/sessions", &form)["id"].as_str().unwrap().to_owned()
}

async fn sales_of_others_on_the_same_stripe_account_grant_nothing(backend: Backend) {
    let shop = Shop::open(backend).await;
    shop.bought("alice").await;
    let session = foreign_session(&shop.stripe, "alice");
    let mut events = shop.stripe.pay(&session);
    events.extend(shop.stripe.refund(&session, 1000).1);
    let (won, opened) = shop.stripe.dispute(&session, 1000);
    events.extend(opened);
    events.extend(shop.stripe.win(&won));
    let (lost, opened) = shop.stripe.dispute(&session, 1000);
    events.extend(opened);
    events.extend(shop.stripe.lose(&lost));
    let later = foreign_session(&shop.stripe, "alice");
    events.extend(shop.stripe.pay_later(&later));
    events.extend(shop.stripe.settle(&later, true));
    let gone = foreign_session(&shop.stripe, "alice");
    events.extend(shop.stripe.expire(&gone));
    // A charge without any session: an invoice, a terminal.
    let mut charge = shop.stripe.charge_of(&session);
    charge["id"] = "ch_ofATerminal".into();
    charge["payment_intent"] = json!(null);
    events.push(shop.stripe.event("charge.refunded", charge));
    let refund = json!({ "id": "re_ofATerminal", "object": "refund", "amount": 100,
        "charge": "ch_ofATerminal", "currency": "eur", "payment_intent": null, "status": "succeeded" });
    events.push(shop.stripe.event("refund.created", refund));
    for event in &events {
        let answer = shop.deliver(event).await;
        assert_eq!(answer.status, 200, "{}: {}", event.kind, answer.text);
    }
    let counted = eventually(async || {
        let series = shop.metrics("farebox_stripe_webhooks_total{outcome=\"foreign\"").await;
        let of = |kind: &str| series.iter().any(|(name, _)| name.contains(kind));
        of("checkout.session.completed") && of("refund.created") && of("charge.dispute.created")
    });
    assert!(counted.await, "{:?}", shop.metrics("farebox_stripe_webhooks_total").await);
    shop.bought("bob").await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    shop.call("alice").await.expect(200);
    shop.close().await;
}

async fn events_that_mean_nothing_here_are_accepted_and_counted(backend: Backend) {
    let shop = Shop::open(backend).await;
    for kind in ["invoice.paid", "customer.subscription.updated", "something.new.in.2031"] {
        let event = shop.stripe.event(kind, json!({ "id": "in_1", "object": "invoice" }));
        shop.deliver_all([&event, &event]).await;
    }
    let counted = eventually(async || {
        let all = shop.metrics("farebox_stripe_webhooks_total").await;
        all.iter().map(|(_, times)| times).sum::<f64>() >= 6.0
    });
    assert!(counted.await, "{:?}", shop.metrics("farebox_stripe_webhooks_total").await);
    // A sender chooses `type`; it must not grow the metrics without bound.
    let text: Vec<_> = shop.metrics("farebox_stripe_webhooks_total").await;
    let strange = |(name, _): &(String, f64)| name.contains("something.new.in.2031");
    assert!(!text.iter().any(strange), "{text:?}");
    shop.close().await;
}

async fn a_promotion_code_and_tax_change_what_was_paid_and_not_what_was_bought(backend: Backend) {
    let shop = Shop::open(backend).await;
    for (account, payment) in [
        ("alice", Payment { discount: 3950, ..Payment::default() }),
        ("bob", Payment { tax: 1580, ..Payment::default() }),
    ] {
        let session = shop.buy(account, "pack-500").await;
        shop.deliver_all(&shop.stripe.pay_with(&session, payment)).await;
        shop.expect_balance(account, 500).await;
        let paid = shop.stripe.get(&session)["amount_total"].as_i64().unwrap();
        // Half of what was paid is half of what was bought.
        shop.deliver_all(&shop.stripe.refund(&session, paid / 2).1).await;
        shop.expect_balance(account, 250).await;
        shop.deliver_all(&shop.stripe.refund(&session, paid / 2).1).await;
        shop.expect_balance(account, 0).await;
    }
    shop.close().await;
}

async fn the_webhook_stays_where_it_is_whatever_else_is_routed(backend: Backend) {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let all = "\n[[routes]]\npath = \"/{*rest}\"\nupstream = \"ai\"\ncredits = 1\n[api]\nprefix = \"/billing\"\n";
    let text = config(&upstream, &stripe, "") + all;
    let shop = Shop::open_on(backend, stripe, upstream, text);
    let request = shop.gateway.client.post(shop.gateway.url("/billing/buy"));
    let request = request.bearer_auth(token("alice")).body(r#"{"pack":"pack-500"}"#);
    let session = Answer::of(request).await.expect(200)["session_id"].clone();
    shop.deliver_all(&shop.stripe.pay(session.as_str().unwrap())).await;
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    assert_eq!(shop.upstream.seen().len(), 0, "no event goes upstream");
    shop.close().await;
}

async fn nobody_fills_the_memory_through_the_webhook(backend: Backend) {
    let shop = Shop::open(backend).await;
    shop.bought("alice").await;
    let before = shop.gateway.resident_kib();
    let bytes = "x".repeat(64 << 20);
    for _ in 0..3 {
        // The server may hang up before all of the body was sent.
        let request = shop.gateway.client.post(shop.gateway.url("/webhooks/stripe"));
        let answer =
            request.header("stripe-signature", "t=1,v1=00").body(bytes.clone()).send().await;
        if let Ok(answer) = answer {
            assert!(answer.status().is_client_error(), "{}", answer.status());
        }
    }
    let grown = shop.gateway.resident_kib().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
    shop.bought("alice").await;
    shop.close().await;
}
