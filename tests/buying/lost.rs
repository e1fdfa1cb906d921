//! `farebox stripe reconcile --since`: what a lost webhook left out is applied, exactly once.

use serde_json::json;

use crate::process::{fails, ok};
use crate::shop::{PRICE, Shop};
use crate::support::stripe::{Fault, books};

fn reconcile(shop: &Shop, since: &str) -> String {
    ok(shop.folder.path(), &["stripe", "reconcile", "--since", since])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purchase_and_a_refund_whose_webhooks_were_lost_are_applied_once() {
    let mut shop = Shop::open().await;
    // Heard of whole; heard of in part; not at all.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_looks_back_as_far_as_it_is_told_over_all_pages() {
    let shop = Shop::open().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_no_running_gateway() {
    let mut shop = Shop::open().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_of_others_are_left_alone() {
    let shop = Shop::open().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_races_the_webhooks_and_nothing_is_applied_twice() {
    let shop = Shop::open().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_stripe_is_said_and_changes_nothing() {
    let shop = Shop::open().await;
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
