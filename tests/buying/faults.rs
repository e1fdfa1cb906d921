//! A ledger that cannot write, a gateway that dies: Stripe sends again, and nothing is lost.

use std::time::Duration;

use crate::backend::{Backend, on_both_ledgers};
use crate::shop::{PRICE, Shop};
use crate::support::eventually;
use crate::support::stripe::event::VERSION;

on_both_ledgers!(
    an_event_that_could_not_be_stored_is_refused_and_its_retry_is_applied,
    what_was_stored_before_a_crash_is_applied_after_it,
    events_under_way_when_the_gateway_is_stopped_are_whole_or_refused,
    webhooks_do_not_need_stripe_s_api_to_be_there,
);

async fn an_event_that_could_not_be_stored_is_refused_and_its_retry_is_applied(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    let paid = shop.stripe.pay(&session).pop().unwrap();
    shop.fail_writes();
    for _ in 0..3 {
        let answer = shop.deliver(&paid).await;
        assert!(answer.status.as_u16() >= 500, "{} {}", answer.status, answer.text);
    }
    let sale = shop.try_buy("alice", "pack-500").await;
    assert!(sale.status == 200 || sale.status.as_u16() >= 500, "{}", sale.text);
    shop.mend_writes();
    shop.expect_balance("alice", 0).await;
    let taken = eventually(async || shop.deliver(&paid).await.status == 200);
    assert!(taken.await, "{}", shop.gateway.stderr());
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    // A refund, the same way.
    let (_, refunded) = shop.stripe.refund(&session, 3950);
    shop.fail_writes();
    for event in &refunded[..2] {
        assert!(shop.deliver(event).await.status.as_u16() >= 500, "{}", event.kind);
    }
    shop.mend_writes();
    for event in &refunded[..2] {
        let taken = eventually(async || shop.deliver(event).await.status == 200);
        assert!(taken.await, "{}", shop.gateway.stderr());
    }
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -250.0)]).await;
    shop.close().await;
}

async fn what_was_stored_before_a_crash_is_applied_after_it(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    for round in 0..5 {
        let account = format!("buyer-{round}");
        let session = shop.buy(&account, "pack-500").await;
        let mut events = vec![shop.stripe.pay(&session).pop().unwrap()];
        events.extend(shop.stripe.refund(&session, PRICE / 2).1);
        // The gateway dies right after the last 200. It applies the stored events by itself after its start.
        for event in &events {
            shop.deliver(event).await.expect(200);
        }
        shop.crash();
        shop.expect_lines(&account, &[("grant", 500.0), ("clawback", -250.0)]).await;
    }
    shop.close().await;
}

async fn events_under_way_when_the_gateway_is_stopped_are_whole_or_refused(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let mut paid = Vec::new();
    for n in 0..16 {
        let session = shop.buy(&format!("buyer-{n}"), "pack-500").await;
        paid.push(shop.stripe.pay(&session).pop().unwrap());
    }
    let sent: Vec<_> =
        paid.iter().map(|event| tokio::spawn(shop.request(event, VERSION).send())).collect();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(shop.gateway.terminate().success());
    let mut taken = Vec::new();
    for answer in sent {
        taken.push(answer.await.unwrap().is_ok_and(|answer| answer.status() == 200));
    }
    shop.crash();
    for (n, event) in paid.iter().enumerate() {
        if !taken[n] {
            shop.deliver(event).await.expect(200);
        }
        shop.expect_lines(&format!("buyer-{n}"), &[("grant", 500.0)]).await;
    }
    shop.close().await;
}

async fn webhooks_do_not_need_stripe_s_api_to_be_there(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    shop.stripe.fail("/", crate::support::stripe::Fault::Status(500));
    shop.deliver_all(&shop.stripe.pay(&session)).await;
    shop.expect_balance("alice", 500).await;
    let (_, refunded) = shop.stripe.refund(&session, PRICE / 2);
    shop.deliver(&refunded[0]).await.expect(200);
    shop.expect_balance("alice", 250).await;
    let (_, opened) = shop.stripe.dispute(&session, PRICE / 2);
    shop.deliver_all(&opened).await;
    shop.expect_balance("alice", 0).await;
    shop.close().await;
}
