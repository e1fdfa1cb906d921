//! Money that the seller gives back takes its credits with it, once.

use serde_json::json;

use crate::backend::{Backend, on_both_ledgers};
use crate::shop::{PRICE, Shop};
use crate::support::random::Random;
use crate::support::stripe::event::VERSIONS;

on_both_ledgers!(
    half_of_the_money_takes_half_of_the_credits,
    a_refund_counts_once_under_both_of_its_names,
    either_name_of_a_refund_is_enough,
    refunds_in_odd_parts_take_back_all_and_no_more,
    a_refund_of_what_was_spent_is_a_debt_that_the_next_purchase_pays_first,
    a_refund_that_comes_before_its_purchase_is_not_forgotten,
    a_refund_that_the_bank_sends_back_returns_its_credits,
    refunds_beside_one_that_failed_count_in_any_order,
    amounts_that_make_no_sense_mint_nothing,
);

async fn half_of_the_money_takes_half_of_the_credits(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    shop.deliver_all(&shop.stripe.refund(&session, 3950).1).await;
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -250.0)]).await;
    shop.deliver_all(&shop.stripe.refund(&session, 3950).1).await;
    let lines = [("grant", 500.0), ("clawback", -250.0), ("clawback", -250.0)];
    shop.expect_lines("alice", &lines).await;
    shop.close().await;
}

async fn a_refund_counts_once_under_both_of_its_names(backend: Backend) {
    for version in VERSIONS {
        let shop = Shop::open(backend).await;
        let session = shop.bought("alice").await;
        let (_, first) = shop.stripe.refund(&session, 1975);
        let (_, second) = shop.stripe.refund(&session, 1975);
        let [created, charge, updated] = [&first[0], &first[1], &first[2]];
        assert_eq!(
            (created.kind.as_str(), charge.kind.as_str()),
            ("refund.created", "charge.refunded")
        );
        // The second refund's charge.refunded speaks of both.
        let order = [&second[1], created, charge, updated, &second[0], created, &second[2], charge];
        for event in order {
            shop.deliver_as(event, version).await.expect(200);
        }
        shop.expect_balance("alice", 250).await;
        shop.bought("bob").await;
        let lines = shop.kinds("alice").await;
        let taken = lines.iter().filter(|(kind, _)| kind == "clawback").map(|(_, credits)| credits);
        assert_eq!(taken.sum::<f64>(), -250.0, "{lines:?}");
        // One line for each refund, or one for both if the charge's event named both at first.
        assert!((2..=3).contains(&lines.len()), "{lines:?}");
        shop.close().await;
    }
}

async fn either_name_of_a_refund_is_enough(backend: Backend) {
    for version in VERSIONS {
        let shop = Shop::open(backend).await;
        for (account, kept) in [("created", "refund.created"), ("refunded", "charge.refunded")] {
            let session = shop.bought(account).await;
            let (_, events) = shop.stripe.refund(&session, 3950);
            let event = events.iter().find(|event| event.kind == kept).unwrap();
            shop.deliver_as(event, version).await.expect(200);
            shop.expect_lines(account, &[("grant", 500.0), ("clawback", -250.0)]).await;
        }
        shop.close().await;
    }
}

async fn refunds_in_odd_parts_take_back_all_and_no_more(backend: Backend) {
    let shop = Shop::open(backend).await;
    // 100 credits for 19.00: a cent is 0.0526… credits.
    let session = shop.buy("alice", "pack-100").await;
    shop.deliver_all(&shop.stripe.pay(&session)).await;
    shop.expect_balance("alice", 100).await;
    for cents in [1, 1, 333, 700, 7, 858] {
        shop.deliver_all(&shop.stripe.refund(&session, cents).1).await;
    }
    assert_eq!(shop.stripe.charge_of(&session)["refunded"], true);
    shop.expect_balance("alice", 0).await;
    shop.close().await;
}

async fn a_refund_of_what_was_spent_is_a_debt_that_the_next_purchase_pays_first(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let key = r#"{"credits":-480,"id":"spent","reason":"as if by calls"}"#;
    let path = "/admin/accounts/alice/adjustments";
    shop.gateway.admin(http::Method::POST, path, key).await.expect(200);
    shop.deliver_all(&shop.stripe.refund(&session, PRICE).1).await;
    shop.expect_balance("alice", -480).await;
    let refused = shop.call("alice").await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(refused["required"], 5, "{refused}");
    shop.deliver_all(&shop.stripe.pay(&shop.buy("alice", "pack-100").await)).await;
    shop.expect_balance("alice", -380).await;
    shop.call("alice").await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(shop.upstream.seen().len(), 0, "no call passed on a debt");
    shop.deliver_all(&shop.stripe.pay(&shop.buy("alice", "pack-500").await)).await;
    shop.expect_balance("alice", 120).await;
    shop.call("alice").await.expect(200);
    shop.close().await;
}

async fn a_refund_that_comes_before_its_purchase_is_not_forgotten(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    let paid = shop.stripe.pay(&session);
    let (_, refunded) = shop.stripe.refund(&session, 3950);
    shop.deliver_all(&refunded).await;
    shop.deliver_all(&paid).await;
    shop.expect_balance("alice", 250).await;
    shop.deliver_all(&refunded).await;
    shop.bought("bob").await;
    shop.expect_balance("alice", 250).await;
    shop.close().await;
}

async fn a_refund_that_the_bank_sends_back_returns_its_credits(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let (refund, events) = shop.stripe.refund(&session, 3950);
    shop.deliver_all(&events).await;
    shop.expect_balance("alice", 250).await;
    let failed = shop.stripe.fail_refund(&refund);
    shop.deliver_all(&failed).await;
    shop.deliver_all(&events).await;
    shop.deliver_all(&failed).await;
    let lines = [("grant", 500.0), ("clawback", -250.0), ("reinstatement", 250.0)];
    shop.expect_lines("alice", &lines).await;
    shop.close().await;
}

async fn refunds_beside_one_that_failed_count_in_any_order(backend: Backend) {
    let mut random = Random::seeded();
    let shop = Shop::open(backend).await;
    for n in 0..40 {
        let account = format!("buyer-{n}");
        let session = shop.bought(&account).await;
        let (failing, mut events) = shop.stripe.refund(&session, 3950);
        // Another refund is made before this one fails, or after.
        if n % 2 == 0 {
            events.extend(shop.stripe.refund(&session, 1975).1);
            events.extend(shop.stripe.fail_refund(&failing));
        } else {
            events.extend(shop.stripe.fail_refund(&failing));
            events.extend(shop.stripe.refund(&session, 1975).1);
        }
        random.shuffle(&mut events);
        shop.deliver_all(&events).await;
        shop.expect_balance(&account, 375).await;
    }
    shop.close().await;
}

async fn amounts_that_make_no_sense_mint_nothing(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let (_, refunded) = shop.stripe.refund(&session, 3950);
    shop.deliver_all(&refunded).await;
    shop.expect_balance("alice", 250).await;
    let (_, disputed) = shop.stripe.dispute(&session, 100);
    // Stripe never says such things; whoever holds the secret might.
    for amount in
        [json!(-3950), json!(0), json!(i64::MAX), json!(i64::MIN), json!("12"), json!(1e300)]
    {
        for event in refunded.iter().chain(&disputed) {
            let mut object = event.object().clone();
            object["id"] = format!("{}_{amount}", object["id"].as_str().unwrap()).into();
            object["amount"] = amount.clone();
            if event.kind == "charge.refunded" {
                object["amount_refunded"] = amount.clone();
                object["refunds"] = json!({ "object": "list", "data": [], "has_more": false });
            }
            let answer = shop.deliver(&event.about(object)).await;
            assert!(answer.status.as_u16() < 500, "{amount} {}: {}", event.kind, answer.text);
        }
        let balance = shop.balance("alice").await;
        assert!(balance <= 250, "{amount} minted: {balance}");
    }
    let mut session = shop.stripe.get(&shop.buy("mallory", "pack-500").await);
    for amount in [json!(-7900), json!(0)] {
        session["id"] = format!("cs_test_{amount}").into();
        session["payment_status"] = "paid".into();
        session["status"] = "complete".into();
        session["amount_total"] = amount;
        session["payment_intent"] = format!("pi_{}", session["amount_total"]).into();
        let event = shop.stripe.event("checkout.session.completed", session.clone());
        let answer = shop.deliver(&event).await;
        assert!(answer.status.as_u16() < 500, "{}", answer.text);
    }
    assert!(shop.balance("mallory").await >= 0);
    shop.gateway.assert_reconciled().await;
    shop.bought("bob").await;
    shop.close().await;
}
