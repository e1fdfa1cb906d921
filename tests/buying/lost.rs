//! `farebox stripe reconcile --since`: what a lost webhook left out is applied, exactly once.

use serde_json::json;

use crate::backend::{Backend, on_both_ledgers};
use crate::process::{fails, ok};
use crate::shop::{PRICE, Shop};
use crate::support::eventually;
use crate::support::stripe::{Fault, books};

on_both_ledgers!(
    a_purchase_and_a_refund_whose_webhooks_were_lost_are_applied_once,
    disputes_whose_webhooks_were_lost_are_applied_once,
    frozen_accounts_whose_webhooks_were_lost_are_right_again,
    it_looks_back_as_far_as_it_is_told_over_all_pages,
    it_needs_no_running_gateway,
    sales_of_others_are_left_alone,
    it_races_the_webhooks_and_nothing_is_applied_twice,
    a_failing_stripe_is_said_and_changes_nothing,
);

fn reconcile(shop: &Shop, since: &str) -> String {
    ok(shop.folder.path(), &["stripe", "reconcile", "--since", since])
}

async fn a_purchase_and_a_refund_whose_webhooks_were_lost_are_applied_once(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    // All events of `whole` arrive, a part of those of `part`, and none of `lost`.
    let whole = shop.bought("whole").await;
    shop.deliver_all(&shop.stripe.refund(&whole, 1975).1).await;
    let part = shop.bought("part").await;
    let (_, part_refunded) = shop.stripe.refund(&part, 3950);
    let lost = shop.buy("lost", "pack-500").await;
    let lost_paid = shop.stripe.pay(&lost);
    let (_, lost_refunded) = shop.stripe.refund(&lost, 3950);
    let unpaid = shop.buy("unpaid", "pack-500").await;
    shop.stripe.pay_later(&unpaid);
    shop.buy("open", "pack-500").await;
    shop.expect_balance("whole", 375).await;

    let said = reconcile(&shop, "1h");
    assert!(!said.is_empty());
    let settled = async |shop: &Shop| {
        shop.expect_lines("whole", &[("grant", 500.0), ("clawback", -125.0)]).await;
        for account in ["part", "lost"] {
            shop.expect_lines(account, &[("grant", 500.0), ("clawback", -250.0)]).await;
        }
        for account in ["unpaid", "open"] {
            assert_eq!(shop.balance(account).await, 0, "{account}");
        }
    };
    settled(&shop).await;
    reconcile(&shop, "1h");
    settled(&shop).await;
    // The webhooks were not lost, only late.
    shop.deliver_all(&lost_refunded).await;
    shop.deliver_all(&lost_paid).await;
    shop.deliver_all(&part_refunded).await;
    settled(&shop).await;
    shop.crash();
    reconcile(&shop, "1h");
    settled(&shop).await;
    shop.deliver_all(&shop.stripe.settle(&unpaid, true)).await;
    shop.expect_balance("unpaid", 500).await;
    shop.close().await;
}

async fn disputes_whose_webhooks_were_lost_are_applied_once(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let (grant, taken, given) = (("grant", 500.0), ("clawback", -500.0), ("reinstatement", 500.0));
    let mut late = Vec::new();
    // The event of the sale arrived, the event of the dispute did not.
    for account in ["open", "won", "lost", "asked"] {
        let session = shop.bought(account).await;
        let dispute = if account == "asked" {
            shop.stripe.inquire(&session, PRICE)
        } else {
            shop.stripe.dispute(&session, PRICE)
        };
        late.extend(dispute.1);
        match account {
            "won" => late.extend(shop.stripe.win(&dispute.0)),
            "lost" => late.extend(shop.stripe.lose(&dispute.0)),
            _ => {}
        }
    }
    // The event of the dispute's beginning arrived, the event of its end did not.
    let session = shop.bought("returned").await;
    let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    shop.expect_lines("returned", &[grant, taken]).await;
    late.extend(shop.stripe.win(&dispute));
    // No event of this purchase arrived, not even the sale.
    let session = shop.buy("silent", "pack-500").await;
    late.extend(shop.stripe.pay(&session));
    late.extend(shop.stripe.dispute(&session, PRICE / 2).1);

    let settled = async |shop: &Shop| {
        for (account, lines) in [
            ("open", &[grant, taken][..]),
            ("won", &[grant]),
            ("lost", &[grant, taken]),
            ("asked", &[grant]),
            ("returned", &[grant, taken, given]),
            ("silent", &[grant, ("clawback", -250.0)]),
        ] {
            shop.expect_lines(account, lines).await;
        }
    };
    let said = reconcile(&shop, "1h");
    assert!(said.contains("6 disputes"), "{said}");
    settled(&shop).await;
    reconcile(&shop, "1h");
    settled(&shop).await;
    // The webhooks were not lost, only late.
    shop.deliver_all(&late).await;
    shop.bought("after").await;
    settled(&shop).await;
    shop.crash();
    reconcile(&shop, "1h");
    settled(&shop).await;
    shop.close().await;
}

async fn frozen_accounts_whose_webhooks_were_lost_are_right_again(backend: Backend) {
    let shop = Shop::open_with(backend, r#"on_dispute = "freeze""#).await;
    let session = shop.bought("open").await;
    shop.stripe.dispute(&session, PRICE);
    let session = shop.bought("lost").await;
    let (lost, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    let session = shop.bought("won").await;
    let (won, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    for account in ["lost", "won"] {
        let frozen = eventually(async || shop.call(account).await.status == 403);
        assert!(frozen.await, "{account}: {}", shop.call(account).await.text);
    }
    shop.call("open").await.expect(200);
    shop.stripe.lose(&lost);
    shop.stripe.win(&won);
    for _ in 0..2 {
        reconcile(&shop, "1h");
        shop.call("open").await.problem(403, "ACCOUNT_FROZEN");
        shop.call("won").await.expect(200);
        shop.expect_lines("lost", &[("grant", 500.0), ("clawback", -500.0)]).await;
    }
    shop.close().await;
}

async fn it_looks_back_as_far_as_it_is_told_over_all_pages(backend: Backend) {
    let shop = Shop::open(backend).await;
    let mut sessions = Vec::new();
    for n in 0..130 {
        let session = shop.buy(&format!("buyer-{n}"), "pack-500").await;
        shop.stripe.pay(&session);
        sessions.push(session);
    }
    let old = shop.buy("old", "pack-500").await;
    shop.stripe.pay(&old);
    shop.stripe.change(&old, json!({ "created": books::now() - 3 * 86_400 }));
    reconcile(&shop, "1d");
    for n in 0..130 {
        shop.expect_balance(&format!("buyer-{n}"), 500).await;
    }
    assert_eq!(shop.balance("old").await, 0, "three days ago is before --since 1d");
    reconcile(&shop, "7d");
    shop.expect_balance("old", 500).await;
    shop.close().await;
}

async fn it_needs_no_running_gateway(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    shop.gateway.kill();
    shop.stripe.pay(&session);
    shop.stripe.refund(&session, 3950);
    reconcile(&shop, "1h");
    reconcile(&shop, "1h");
    shop.restart();
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -250.0)]).await;
    shop.close().await;
}

async fn sales_of_others_are_left_alone(backend: Backend) {
    let shop = Shop::open(backend).await;
    let form = "mode=payment&success_url=https://other.example.com/&client_reference_id=alice\
        &line_items[0][quantity]=1&line_items[0][price_data][currency]=eur\
        &line_items[0][price_data][unit_amount]=7900\
        &line_items[0][price_data][product_data][name]=T-shirt";
    let session = shop.stripe.ask("POST", "/v1/checkout/sessions", form);
    let session = session["id"].as_str().unwrap();
    shop.stripe.pay(session);
    shop.stripe.refund(session, 1000);
    reconcile(&shop, "1h");
    assert_eq!(shop.balance("alice").await, 0);
    assert_eq!(shop.kinds_or_none("alice").await, []);
    shop.close().await;
}

async fn it_races_the_webhooks_and_nothing_is_applied_twice(backend: Backend) {
    let shop = Shop::open(backend).await;
    let mut events = Vec::new();
    for n in 0..12 {
        let session = shop.buy(&format!("buyer-{n}"), "pack-500").await;
        events.extend(shop.stripe.pay(&session).pop());
        events.extend(shop.stripe.refund(&session, PRICE / 4).1);
    }
    let folder = shop.folder.path().to_owned();
    let command = tokio::task::spawn_blocking(move || {
        for _ in 0..2 {
            ok(&folder, &["stripe", "reconcile", "--since", "1h"]);
        }
    });
    shop.deliver_all(&events).await;
    command.await.unwrap();
    for n in 0..12 {
        let lines = [("grant", 500.0), ("clawback", -125.0)];
        shop.expect_balance(&format!("buyer-{n}"), 375).await;
        let mut seen = shop.kinds(&format!("buyer-{n}")).await;
        seen.sort_by(|one, two| two.0.cmp(&one.0));
        let expected: Vec<_> = lines.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        assert_eq!(seen, expected);
    }
    shop.close().await;
}

async fn a_failing_stripe_is_said_and_changes_nothing(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    shop.stripe.pay(&session);
    let command = ["stripe", "reconcile", "--since", "1h"];
    for fault in [Fault::Status(500), Fault::Status(401), Fault::CutBefore, Fault::Page] {
        shop.stripe.fail("/", fault);
        let said = fails(shop.folder.path(), &command, 1);
        assert!(said.len() > 20, "{fault:?}: {said}");
        shop.stripe.heal();
    }
    assert_eq!(shop.balance("alice").await, 0);
    reconcile(&shop, "1h");
    shop.expect_balance("alice", 500).await;
    shop.close().await;
}
