//! Payments that banks take back, return or only ask about, and accounts that are frozen meanwhile.

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::shop::{PRICE, Shop};
use crate::support::eventually;

on_both_ledgers!(
    what_the_bank_takes_is_taken_back_and_returned_when_it_is_won,
    what_is_lost_stays_lost,
    an_inquiry_that_is_closed_costs_nothing,
    a_disputing_account_is_frozen_and_thaws_when_it_is_won,
    what_a_frozen_account_loses_is_taken_back,
    an_account_thaws_when_the_last_of_its_disputes_is_won,
    what_is_refunded_and_disputed_is_taken_back_once,
    a_dispute_that_is_partly_won_returns_its_part,
    a_refund_before_a_dispute_that_is_partly_won_is_not_returned_as_credits,
    money_back_in_another_currency_takes_all_the_credits_of_the_payment,
);

const FREEZE: &str = r#"on_dispute = "freeze""#;

async fn what_the_bank_takes_is_taken_back_and_returned_when_it_is_won(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    shop.deliver_all(&opened).await;
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -500.0)]).await;
    shop.call("alice").await.problem(402, "INSUFFICIENT_CREDITS");
    let won = shop.stripe.win(&dispute);
    shop.deliver_all(&won).await;
    shop.deliver_all(&opened).await;
    shop.deliver_all(&won).await;
    let lines = [("grant", 500.0), ("clawback", -500.0), ("reinstatement", 500.0)];
    shop.expect_lines("alice", &lines).await;
    shop.call("alice").await.expect(200);
    shop.close().await;
}

async fn what_is_lost_stays_lost(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let (dispute, opened) = shop.stripe.dispute(&session, PRICE / 2);
    shop.deliver_all(&opened).await;
    let lost = shop.stripe.lose(&dispute);
    shop.deliver_all(&lost).await;
    shop.deliver_all(&opened).await;
    shop.deliver_all(&lost).await;
    shop.bought("bob").await;
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -250.0)]).await;
    shop.close().await;
}

async fn an_inquiry_that_is_closed_costs_nothing(backend: Backend) {
    for lines in ["", FREEZE] {
        let shop = Shop::open_with(backend, lines).await;
        let session = shop.bought("alice").await;
        let (inquiry, asked) = shop.stripe.inquire(&session, PRICE);
        shop.deliver_all(&asked).await;
        shop.deliver_all(&shop.stripe.close_inquiry(&inquiry)).await;
        shop.expect_balance("alice", 500).await;
        let serves = eventually(async || shop.call("alice").await.status == 200);
        assert!(serves.await, "{lines}: {}", shop.call("alice").await.text);
        shop.close().await;
    }
}

async fn a_disputing_account_is_frozen_and_thaws_when_it_is_won(backend: Backend) {
    let mut shop = Shop::open_with(backend, FREEZE).await;
    let session = shop.bought("alice").await;
    shop.bought("bob").await;
    let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    let frozen = eventually(async || shop.call("alice").await.status == 403);
    assert!(frozen.await, "{}", shop.call("alice").await.text);
    let refused = shop.call("alice").await.problem(403, "ACCOUNT_FROZEN");
    assert!(refused["detail"].as_str().unwrap().len() > 20, "{refused}");
    shop.call("bob").await.expect(200);
    let seen = shop.upstream.seen().len();
    shop.crash();
    shop.call("alice").await.problem(403, "ACCOUNT_FROZEN");
    shop.deliver_all(&opened).await;
    shop.call("alice").await.problem(403, "ACCOUNT_FROZEN");
    assert_eq!(shop.upstream.seen().len(), seen, "nothing passed while it was frozen");
    // A backend may not hold the frozen account's credits either.
    let key = r#"{"name":"backend","service":true}"#;
    let made = shop.gateway.admin(http::Method::POST, "/admin/accounts/backend/keys", key).await;
    let hold = shop.gateway.client.post(shop.gateway.url("/credits/holds"));
    let hold = hold.bearer_auth(made.json()["key"].as_str().unwrap());
    let hold = hold.header("x-farebox-account", "alice").body(r#"{"credits":5,"id":"job-1"}"#);
    Answer::of(hold).await.problem(403, "ACCOUNT_FROZEN");
    // A frozen account can still read its balance.
    let request = shop.gateway.client.get(shop.gateway.url("/credits/balance"));
    let balance = request.bearer_auth(crate::support::token("alice")).send().await.unwrap();
    assert_eq!(balance.status(), 200);

    let won = shop.stripe.win(&dispute);
    shop.deliver_all(&won).await;
    let thawed = eventually(async || shop.call("alice").await.status == 200);
    assert!(thawed.await, "{}", shop.call("alice").await.text);
    // Events that come late or again freeze nobody.
    shop.deliver_all(&opened).await;
    shop.deliver_all(&won).await;
    shop.bought("bob").await;
    shop.call("alice").await.expect(200);
    let granted: f64 = shop.kinds("alice").await.iter().map(|(_, credits)| credits).sum();
    assert!(granted > 480.0, "{granted}");
    shop.close().await;
}

async fn what_a_frozen_account_loses_is_taken_back(backend: Backend) {
    let shop = Shop::open_with(backend, FREEZE).await;
    let session = shop.bought("alice").await;
    let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    shop.deliver_all(&shop.stripe.lose(&dispute)).await;
    shop.expect_lines("alice", &[("grant", 500.0), ("clawback", -500.0)]).await;
    shop.deliver_all(&opened).await;
    shop.bought("bob").await;
    shop.expect_balance("alice", 0).await;
    let refused = shop.call("alice").await;
    assert!([402, 403].contains(&refused.status.as_u16()), "{}", refused.text);
    shop.close().await;
}

async fn an_account_thaws_when_the_last_of_its_disputes_is_won(backend: Backend) {
    let shop = Shop::open_with(backend, FREEZE).await;
    let (one, two) = (shop.bought("alice").await, shop.bought("alice").await);
    let (first, opened) = shop.stripe.dispute(&one, PRICE);
    shop.deliver_all(&opened).await;
    let (second, opened) = shop.stripe.dispute(&two, PRICE);
    shop.deliver_all(&opened).await;
    shop.deliver_all(&shop.stripe.win(&first)).await;
    shop.bought("bob").await;
    shop.call("alice").await.problem(403, "ACCOUNT_FROZEN");
    shop.deliver_all(&shop.stripe.win(&second)).await;
    let thawed = eventually(async || shop.call("alice").await.status == 200);
    assert!(thawed.await, "{}", shop.call("alice").await.text);
    shop.close().await;
}

async fn what_is_refunded_and_disputed_is_taken_back_once(backend: Backend) {
    for refunded_first in [true, false] {
        let shop = Shop::open(backend).await;
        shop.gateway.grant("alice", 300, "gift").await;
        let session = shop.bought("alice").await;
        // The seller refunds the payment while the bank takes it back, too. The credits were bought
        // only once.
        let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
        let (_, refunded) = shop.stripe.refund(&session, PRICE);
        if refunded_first {
            shop.deliver_all(&refunded).await;
            shop.deliver_all(&opened).await;
        } else {
            shop.deliver_all(&opened).await;
            shop.deliver_all(&refunded).await;
        }
        shop.bought("bob").await;
        shop.expect_balance("alice", 300).await;
        shop.deliver_all(&shop.stripe.win(&dispute)).await;
        shop.bought("bob").await;
        shop.expect_balance("alice", 300).await;
        shop.close().await;
    }
}

async fn a_dispute_that_is_partly_won_returns_its_part(backend: Backend) {
    for lines in ["", FREEZE] {
        let shop = Shop::open_with(backend, lines).await;
        let session = shop.bought("alice").await;
        let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
        shop.deliver_all(&opened).await;
        let ended = shop.stripe.win_part(&dispute, PRICE / 2);
        shop.deliver_all(&ended).await;
        shop.expect_balance("alice", 250).await;
        for events in [&ended, &opened, &ended] {
            shop.deliver_all(events).await;
        }
        shop.bought("bob").await;
        shop.expect_balance("alice", 250).await;
        shop.call("alice").await.expect(200);
        shop.close().await;
    }
}

async fn a_refund_before_a_dispute_that_is_partly_won_is_not_returned_as_credits(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let (_, refunded) = shop.stripe.refund(&session, PRICE / 2);
    shop.deliver_all(&refunded).await;
    shop.expect_balance("alice", 250).await;
    // The bank takes all of it, and gives back what had been refunded already.
    let (dispute, opened) = shop.stripe.dispute(&session, PRICE);
    shop.deliver_all(&opened).await;
    shop.expect_balance("alice", 0).await;
    shop.deliver_all(&shop.stripe.win_part(&dispute, PRICE / 2)).await;
    shop.bought("bob").await;
    shop.expect_balance("alice", 0).await;
    shop.close().await;
}

async fn money_back_in_another_currency_takes_all_the_credits_of_the_payment(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let accounts = ["refunded", "disputed", "partly"];
    let mut sessions = Vec::new();
    for account in accounts {
        let session = shop.bought(account).await;
        let charge = shop.stripe.charge_of(&session);
        shop.stripe.change(charge["id"].as_str().unwrap(), serde_json::json!({"currency": "usd"}));
        sessions.push(session);
    }
    // How much of 79 euros are 9 dollars? Farebox has no rate; its log names the case.
    let (refund, events) = shop.stripe.refund(&sessions[0], 900);
    shop.deliver_all(&events).await;
    shop.expect_balance("refunded", 0).await;
    shop.deliver_all(&shop.stripe.fail_refund(&refund)).await;
    shop.expect_balance("refunded", 500).await;
    let (_, opened) = shop.stripe.dispute(&sessions[1], 9000);
    shop.deliver_all(&opened).await;
    shop.expect_balance("disputed", 0).await;
    let (dispute, opened) = shop.stripe.dispute(&sessions[2], 9000);
    shop.deliver_all(&opened).await;
    shop.deliver_all(&shop.stripe.win_part(&dispute, 4500)).await;
    shop.expect_balance("partly", 250).await;
    shop.gateway.wait_until(|gateway| {
        (gateway.stdout() + &gateway.stderr()).contains("in another currency than was paid")
    });
    shop.close().await;
}
