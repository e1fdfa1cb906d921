//! The metrics and log lines that a seller watches.

use std::collections::{BTreeSet, HashMap};
use std::process::Command;

use http::Method;
use serde_json::{Value, json};

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::shop::{PRICE, Shop};
use crate::support::{eventually, token};

on_both_ledgers!(
    views_checkouts_purchases_buyers_and_revenue_are_counted,
    a_small_seller_s_first_sales_and_failures_are_seen_by_the_rules_and_alerts,
    a_seller_s_figures_are_told_from_the_ledger,
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
    let of = |kind: &str| {
        let seen = webhooks.iter().filter(|(name, _)| name.contains(kind));
        seen.map(|(_, events)| events).sum::<f64>()
    };
    assert!(of("checkout.session.completed") >= 3.0, "{webhooks:?}");
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

/// Two packs are sold, and three of five webhooks fail. A Prometheus that scrapes before and after that sees all of
/// it with the shipped rules and alerts, even if the gateway restarts in between.
async fn a_small_seller_s_first_sales_and_failures_are_seen_by_the_rules_and_alerts(
    backend: Backend,
) {
    let mut shop = Shop::open(backend).await;
    let mut seen = Scrapes::default();
    seen.scrape(&shop, "before").await;
    for _ in 0..4 {
        let url = shop.gateway.url("/credits/packs");
        assert_eq!(shop.gateway.client.get(url).send().await.unwrap().status(), 200);
    }
    let sell = async |shop: &Shop, account: &str, pack: &str, credits: i64| {
        let session = shop.buy(account, pack).await;
        let events = shop.stripe.pay(&session);
        let paid = events.iter().find(|event| event.kind == "checkout.session.completed");
        shop.deliver_all(paid).await;
        shop.expect_balance(account, credits).await;
    };
    sell(&shop, "alice", "pack-500", 500).await;
    shop.buy("carol", "pack-100").await;
    for kind in ["checkout.session.completed", "charge.refunded", "charge.dispute.created"] {
        let broken = shop.stripe.event(kind, json!({ "id": 7 }));
        shop.deliver(&broken).await;
    }
    seen.scrape(&shop, "after").await;
    shop.crash();
    seen.scrape(&shop, "started anew").await;
    sell(&shop, "bob", "pack-100", 100).await;
    seen.scrape(&shop, "after that").await;

    seen.expect(&[
        ("farebox:pack_views:increase1d", "", 4.0),
        ("farebox:checkouts:increase1d", "", 3.0),
        ("farebox:purchases:increase1d", "", 2.0),
        ("farebox:revenue_minor:increase1d", "currency=\"eur\"", (PRICE + 1900) as f64),
        ("farebox:purchases_per_pack_view:ratio1d", "", 0.5),
        ("farebox:purchases_per_checkout:ratio1d", "", 0.667),
        ("farebox:basket_minor:avg1d", "currency=\"eur\"", (PRICE + 1900) as f64 / 2.0),
        (
            "farebox:revenue_per_buyer_minor:increase30d",
            "currency=\"eur\"",
            (PRICE + 1900) as f64 / 2.0,
        ),
        ("farebox:stripe_webhooks_success:ratio1h", "", 0.4),
        ("ALERTS", "alertname=\"FareboxWebhooksFailing\"", 1.0),
    ]);
}

/// Conversion, average basket, revenue per buyer and the success of webhooks, also after a restart.
async fn a_seller_s_figures_are_told_from_the_ledger(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let figures = async |shop: &Shop| {
        let overview = shop.gateway.admin(Method::GET, "/admin/overview", "").await;
        overview.expect(200)["sales"].clone()
    };
    let none = json!({
        "days": 30, "checkouts": 0, "purchases": 0, "currencies": [],
        "webhooks": { "received": 0, "failed": 0 },
    });
    assert_eq!(figures(&shop).await, none);
    let sell = async |shop: &Shop, account: &str, pack: &str| {
        let session = shop.buy(account, pack).await;
        let events = shop.stripe.pay(&session);
        let paid = events.iter().find(|event| event.kind == "checkout.session.completed");
        shop.deliver_all(paid).await;
        session
    };
    let first = sell(&shop, "alice", "pack-500").await;
    sell(&shop, "alice", "pack-100").await;
    sell(&shop, "bob", "pack-100").await;
    shop.buy("carol", "pack-100").await;
    shop.expect_balance("bob", 100).await;
    let broken = shop.stripe.event("charge.refunded", json!({ "id": 7 }));
    shop.deliver(&broken).await;
    // A refund undoes no purchase, and a payment of another shop is not one of ours.
    shop.deliver_all(shop.stripe.refund(&first, PRICE).1.first()).await;
    shop.expect_balance("alice", 100).await;
    shop.crash();
    let amount = PRICE + 2 * 1900;
    let expected = json!({
        "days": 30, "checkouts": 4, "purchases": 3,
        "currencies": [{
            "currency": "eur", "amount": amount, "purchases": 3, "buyers": 2,
            "basket": (amount + 1) / 3, "per_buyer": amount / 2,
        }],
        "webhooks": { "received": 5, "failed": 1 },
    });
    let told = eventually(async || figures(&shop).await == expected).await;
    assert!(told, "{}", figures(&shop).await);
    shop.close().await;
}

/// The samples that a Prometheus would have of a gateway, scrape by scrape.
#[derive(Default)]
struct Scrapes(Vec<HashMap<String, f64>>);

/// The number of scrapes, two minutes apart, for which each sample stands.
const EACH: usize = 5;

impl Scrapes {
    async fn scrape(&mut self, shop: &Shop, when: &str) {
        let series: HashMap<_, _> = shop.metrics("farebox_").await.into_iter().collect();
        assert!(!series.is_empty(), "{when}");
        self.0.push(series);
    }

    /// Has promtool run the shipped rules and alerts on the scrapes and compare the values at the
    /// end, to three decimals. Each element of `expected` is a name, its labels besides the job,
    /// and the value.
    fn expect(&self, expected: &[(&str, &str, f64)]) {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
        let names: BTreeSet<&String> = self.0.iter().flat_map(HashMap::keys).collect();
        let counted = names.iter().filter(|name| !name.contains("_bucket{"));
        let series: Vec<Value> = counted
            .map(|name| {
                // If a scrape did not have it, Prometheus has no sample.
                let values = self.0.iter().map(|seen| match seen.get(*name) {
                    Some(value) => format!("{value}x{}", EACH - 1),
                    None => format!("_x{EACH}"),
                });
                let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
                json!({
                    "series": format!("{name}{{job=\"farebox\",instance=\"a\",{labels}"),
                    "values": values.collect::<Vec<_>>().join(" "),
                })
            })
            .collect();
        let end = format!("{}m", 2 * (EACH * self.0.len() - 1));
        let checks: Vec<Value> = expected
            .iter()
            .map(|(name, labels, value)| {
                let by = labels.split('=').next().unwrap_or_default();
                json!({
                    "eval_time": end,
                    "expr": format!("round(sum by (job, {by}) ({name}{{{labels}}}), 0.001)"),
                    "exp_samples": [{ "labels": format!("{{job=\"farebox\",{labels}}}"), "value": value }],
                })
            })
            .collect();
        let test = json!({
            "rule_files": [format!("{rules}/rules.yml"), format!("{rules}/alerts.yml")],
            "evaluation_interval": "2m",
            "tests": [{ "interval": "2m", "input_series": series, "promql_expr_test": checks }],
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test.yml");
        std::fs::write(&file, test.to_string()).unwrap();
        // `scripts/setup.sh test` puts it there.
        let promtool = concat!(env!("CARGO_TARGET_TMPDIR"), "/../tools/promtool");
        let run = Command::new(promtool).args(["test", "rules"]).arg(&file).output();
        let run = run.unwrap_or_else(|error| panic!("{promtool}: {error}; run make setup-test"));
        let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
    }
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
    // A worker that knows only the hold names no account: its key is enough.
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
