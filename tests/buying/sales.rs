//! What the seller watches: metrics and log lines.

use http::Method;
use serde_json::Value;

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::shop::{PRICE, Shop};
use crate::support::{eventually, token};

on_both_ledgers!(
    views_checkouts_purchases_buyers_and_revenue_are_counted,
    a_refused_signature_is_counted,
    a_purchase_is_one_log_line,
    a_checkout_that_is_asked_for_again_is_counted_once,
    a_capture_through_the_api_is_a_log_line_like_a_call,
);

async fn views_checkouts_purchases_buyers_and_revenue_are_counted(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    for _ in 0..3 {
        let url = shop.gateway.url("/credits/packs");
        assert_eq!(shop.gateway.client.get(url).send().await.unwrap().status(), 200);
    }
    let first = shop.bought("alice-of-the-metrics").await;
    shop.bought("alice-of-the-metrics").await;
    let small = shop.buy("bob", "pack-100").await;
    let paid = shop.stripe.pay(&small);
    shop.deliver_all(&paid).await;
    shop.deliver_all(&paid).await;
    shop.expect_balance("bob", 100).await;
    shop.buy("carol", "pack-500").await;
    let expected = [
        ("farebox_pack_views_total", 3.0),
        ("farebox_checkouts_total{pack=\"pack-500\"}", 3.0),
        ("farebox_checkouts_total{pack=\"pack-100\"}", 1.0),
        ("farebox_purchases_total{pack=\"pack-500\"}", 2.0),
        ("farebox_purchases_total{pack=\"pack-100\"}", 1.0),
        ("farebox_buyers", 2.0),
        ("farebox_revenue_minor_total{currency=\"eur\"}", (2 * PRICE + 1900) as f64),
    ];
    for (series, value) in expected {
        let reached = eventually(async || shop.metric(series).await == value);
        assert!(reached.await, "{series} is {}, not {value}", shop.metric(series).await);
    }
    let granted = shop.metrics("farebox_credits_granted_total").await;
    assert_eq!(granted.iter().map(|(_, credits)| credits).sum::<f64>(), 1100.0, "{granted:?}");
    let webhooks = shop.metrics("farebox_stripe_webhooks_total").await;
    let of = |kind: &str| webhooks.iter().filter(|(name, _)| name.contains(kind)).count();
    assert!(of("checkout.session.completed") > 0, "{webhooks:?}");
    for (name, _) in shop.metrics("farebox_").await {
        assert!(!name.contains("alice-of-the-metrics"), "no account in a label: {name}");
    }
    // A purchase that is given back was one; and buyers are remembered over a restart.
    shop.deliver_all(&shop.stripe.refund(&first, PRICE).1).await;
    shop.expect_balance("alice-of-the-metrics", 500).await;
    assert_eq!(shop.metric("farebox_purchases_total{pack=\"pack-500\"}").await, 2.0);
    shop.crash();
    assert_eq!(shop.metric("farebox_buyers").await, 2.0);
    shop.close().await;
}

async fn a_checkout_that_is_asked_for_again_is_counted_once(backend: Backend) {
    let shop = Shop::open(backend).await;
    for (n, key) in ["one", "one", "one", "two"].into_iter().enumerate() {
        let request = shop.gateway.client.post(shop.gateway.url("/credits/buy"));
        let request = request.bearer_auth(token("alice")).header("idempotency-key", key);
        Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await.expect(200);
        let counted = shop.metric("farebox_checkouts_total{pack=\"pack-500\"}").await;
        assert_eq!(counted, if n < 3 { 1.0 } else { 2.0 });
    }
    shop.close().await;
}

async fn a_capture_through_the_api_is_a_log_line_like_a_call(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    shop.gateway.grant("alice", 20, "gift").await;
    let body = r#"{"name":"jobs","service":true}"#;
    let key = shop.gateway.admin(Method::POST, "/admin/accounts/jobs/keys", body).await;
    let key = key.json()["key"].as_str().unwrap().to_owned();
    let ask = |shop: &Shop, path: &str, body: &str| {
        let request = shop.gateway.client.post(shop.gateway.url(path)).bearer_auth(&key);
        let request = request.header("x-farebox-account", "alice").body(body.to_owned());
        async { Answer::of(request).await }
    };
    for (id, what) in [("job-1", r#""endpoint":"/api/ai/generate""#), ("job-2", r#""credits":8"#)] {
        let hold = format!(r#"{{"id":"{id}",{what}}}"#);
        ask(&shop, "/credits/holds", &hold).await.expect(201);
    }
    // By the key alone, as a worker does that knows nothing but the hold.
    let request = shop.gateway.client.post(shop.gateway.url("/credits/holds/job-1/capture"));
    let first = Answer::of(request.bearer_auth(&key).body(r#"{"credits":4}"#)).await;
    first.expect(200);
    ask(&shop, "/credits/holds/job-1/capture", r#"{"credits":4}"#).await.expect(200);
    ask(&shop, "/credits/holds/job-2/release", "").await.expect(200);
    assert!(shop.gateway.terminate().success());
    shop.gateway.wait_for_logs();
    let log = shop.gateway.stderr();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let used: Vec<_> = lines.iter().filter(|line| line["message"] == "credit usage").collect();
    assert_eq!(used.len(), 1, "a repetition is none, nor is a release: {log}");
    let text = |name: &str| used[0][name].to_string().trim_matches('"').to_owned();
    assert_eq!(text("account"), "alice");
    assert_eq!(text("route"), "/api/ai/generate");
    assert_eq!(text("cost"), "4");
    assert_eq!(text("available_after"), "8");
    assert_eq!(text("request_id"), first.header("x-request-id"));
}

async fn a_refused_signature_is_counted(backend: Backend) {
    let shop = Shop::open(backend).await;
    shop.send("{}", "t=1,v1=00").await;
    let counted = shop.metrics("farebox_stripe_webhooks_total").await;
    assert_eq!(counted.iter().map(|(_, times)| times).sum::<f64>(), 1.0, "{counted:?}");
    shop.close().await;
}

async fn a_purchase_is_one_log_line(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let session = shop.buy("alice", "pack-500").await;
    let paid = shop.stripe.pay(&session);
    for _ in 0..3 {
        shop.deliver_all(&paid).await;
    }
    shop.expect_balance("alice", 500).await;
    assert!(shop.gateway.terminate().success());
    shop.gateway.wait_for_logs();
    let log = shop.gateway.stderr();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bought: Vec<_> = lines.iter().filter(|line| line["message"] == "credit purchase").collect();
    assert_eq!(bought.len(), 1, "{log}");
    let text = |name: &str| bought[0][name].to_string().trim_matches('"').to_owned();
    assert_eq!(text("account"), "alice");
    assert_eq!(text("pack"), "pack-500");
    assert_eq!(text("currency"), "eur");
    assert!(["7900", "79.00"].contains(&text("amount").as_str()), "{}", bought[0]);
}
