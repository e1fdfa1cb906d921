//! Buying again: an open session is used again, and an account that begins many purchases waits.

use serde_json::Value;

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::shop::Shop;
use crate::support::token;

on_both_ledgers!(
    what_was_paid_is_bought_again_in_a_session_of_its_own,
    an_open_session_of_the_same_pack_is_used_again,
    a_session_that_cannot_be_paid_any_more_is_not_used_again,
    an_account_that_begins_many_purchases_is_told_when_to_try_again,
);

async fn what_was_paid_is_bought_again_in_a_session_of_its_own(backend: Backend) {
    let shop = Shop::open(backend).await;
    let first = shop.buy("alice", "pack-500").await;
    shop.deliver_all(&shop.stripe.pay(&first)).await;
    let second = shop.buy("alice", "pack-500").await;
    assert_ne!(first, second);
    // The first purchase's money is on the way: another pack may be wanted meanwhile.
    shop.deliver_all(&shop.stripe.pay_later(&second)).await;
    let third = shop.buy("alice", "pack-500").await;
    assert_ne!(third, second);
    shop.deliver_all(&shop.stripe.settle(&second, true)).await;
    shop.deliver_all(&shop.stripe.pay(&third)).await;
    shop.expect_lines("alice", &[("grant", 500.0), ("grant", 500.0), ("grant", 500.0)]).await;
    shop.close().await;
}

async fn an_open_session_of_the_same_pack_is_used_again(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let first = shop.try_buy("alice", "pack-500").await.expect(200);
    assert_eq!(shop.try_buy("alice", "pack-500").await.expect(200), first);
    shop.crash_and_forget();
    assert_eq!(shop.try_buy("alice", "pack-500").await.expect(200), first, "after a restart too");
    let session = |answer: &Value| answer["session_id"].as_str().unwrap().to_owned();
    let other = shop.try_buy("alice", "pack-100").await.expect(200);
    assert_ne!(session(&other), session(&first), "another pack");
    let bobs = shop.try_buy("bob", "pack-500").await.expect(200);
    assert_ne!(session(&bobs), session(&first), "somebody else");
    assert_eq!(shop.stripe.all("checkout.session").len(), 3);
    assert_eq!(shop.metric("farebox_checkouts_total{pack=\"pack-500\"}").await, 1.0, "bob's");
    shop.deliver_all(&shop.stripe.pay(&session(&first))).await;
    shop.expect_balance("alice", 500).await;
    // The price has changed since: the buyer pays the price that is shown now.
    let text = shop.text.replace("19.00 EUR", "21.00 EUR");
    shop.text = text;
    shop.crash();
    let dearer = shop.try_buy("alice", "pack-100").await.expect(200);
    assert_eq!(shop.stripe.get(&session(&dearer))["amount_total"], 2100);
    shop.close().await;
}

async fn a_session_that_cannot_be_paid_any_more_is_not_used_again(backend: Backend) {
    let shop = Shop::open(backend).await;
    // The events of these sessions are lost, or on the way.
    for (buyer, end) in [("alice", "paid"), ("bob", "expired")] {
        let first = shop.buy(buyer, "pack-500").await;
        let _ = if end == "paid" { shop.stripe.pay(&first) } else { shop.stripe.expire(&first) };
        let second = shop.buy(buyer, "pack-500").await;
        assert_ne!(second, first, "{end}");
        shop.deliver_all(&shop.stripe.pay(&second)).await;
        shop.expect_balance(buyer, 500).await;
    }
    shop.close().await;
}

async fn an_account_that_begins_many_purchases_is_told_when_to_try_again(backend: Backend) {
    let shop = Shop::open(backend).await;
    let keyed = |account: &str, n: usize| {
        let request = shop.gateway.client.post(shop.gateway.url("/credits/buy"));
        let request = request.bearer_auth(token(account)).header("idempotency-key", n.to_string());
        async { Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await }
    };
    // Sixty requests at once, each under a key of its own, like a script that uses up Stripe's rate
    // limit.
    let answers = futures_util::future::join_all((0..60).map(|n| keyed("alice", n))).await;
    let (sold, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    assert!((3..15).contains(&sold.len()), "a few a minute: {}", sold.len());
    for refused in &refused {
        let problem = refused.problem(429, "RATE_LIMITED");
        assert!(problem["detail"].as_str().unwrap().contains("second"), "{problem}");
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert_eq!(shop.stripe.all("checkout.session").len(), sold.len());
    let french = shop.gateway.client.post(shop.gateway.url("/credits/buy"));
    let french = french.bearer_auth(token("alice")).header("accept-language", "fr");
    let asked = shop.stripe.asked().len();
    let refused = Answer::of(french.body(r#"{"pack":"pack-500"}"#)).await;
    assert!(refused.problem(429, "RATE_LIMITED")["detail"].as_str().unwrap().contains("achats"));
    assert_eq!(shop.stripe.asked().len(), asked, "Stripe hears nothing of it");
    keyed("bob", 1).await.expect(200);
    shop.close().await;
}
