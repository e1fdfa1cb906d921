//! A ledger that cannot write, a gateway that dies: Stripe sends again, and nothing is lost.

use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::shop::{PRICE, Shop, WEBHOOK_SECRET};
use crate::support::eventually;
use crate::support::stripe::event::VERSION;
use crate::support::stripe::{books, signature};

/// Lets a process write no byte beyond `limit` in any file, as if its disk were full.
fn limit_files(process: &Process, limit: &str) {
    let pid = process.pid().to_string();
    let fsize = format!("--fsize={limit}:unlimited");
    let output = Command::new("prlimit").args(["--pid", &pid, &fsize]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_could_not_be_stored_is_refused_and_its_retry_is_applied() {
    let shop = Shop::open().await;
    let session = shop.buy("alice", "pack-500").await;
    let paid = shop.stripe.pay(&session).pop().unwrap();
    limit_files(&shop.gateway, "1");
    for _ in 0..3 {
        let answer = shop.deliver(&paid).await;
        assert!(answer.status.as_u16() >= 500, "{} {}", answer.status, answer.text);
    }
    let sale = shop.try_buy("alice", "pack-500").await;
    assert!(sale.status == 200 || sale.status.as_u16() >= 500, "{}", sale.text);
    assert_eq!(shop.balance("alice").await, 0);
    limit_files(&shop.gateway, "unlimited");
    let taken = eventually(async || shop.deliver(&paid).await.status == 200);
    assert!(taken.await, "{}", shop.gateway.stderr());
    shop.expect_lines("alice", &[("grant", 500.0)]).await;
    // A refund, the same way.
    let (_, refunded) = shop.stripe.refund(&session, 3950);
    limit_files(&shop.gateway, "1");
    for event in &refunded[..2] {
        assert!(shop.deliver(event).await.status.as_u16() >= 500, "{}", event.kind);
    }
    limit_files(&shop.gateway, "unlimited");
    for event in &refunded[..2] {
        let taken = eventually(async || shop.deliver(event).await.status == 200);
        assert!(taken.await, "{}", shop.gateway.stderr());
    }
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -250.0)]).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_before_a_crash_is_applied_after_it() {
    let mut shop = Shop::open().await;
    for round in 0..5 {
        let account = format!("buyer-{round}");
        let session = shop.buy(&account, "pack-500").await;
        let mut events = vec![shop.stripe.pay(&session).pop().unwrap()];
        events.extend(shop.stripe.refund(&session, PRICE / 2).1);
        // Dead at the moment of the last 200: what was promised is kept, by itself.
        for event in &events {
            shop.deliver(event).await.expect(200);
        }
        shop.crash();
        shop.expect_lines(&account, &[("grant", 500.0), ("clawback", -250.0)]).await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_under_way_when_the_gateway_is_stopped_are_whole_or_refused() {
    let mut shop = Shop::open().await;
    let mut paid = Vec::new();
    for n in 0..16 {
        let session = shop.buy(&format!("buyer-{n}"), "pack-500").await;
        paid.push(shop.stripe.pay(&session).pop().unwrap());
    }
    let sent: Vec<_> = paid
        .iter()
        .map(|event| {
            let body = event.body(VERSION);
            let header = signature::header(&body, WEBHOOK_SECRET, books::now());
            let request = shop.gateway.client.post(shop.gateway.url("/webhooks/stripe"));
            tokio::spawn(request.header("stripe-signature", header).body(body).send())
        })
        .collect();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_do_not_need_stripe_s_api_to_be_there() {
    let shop = Shop::open().await;
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
