//! The metrics, by their names and labels.

use std::collections::HashMap;

use axum::Router;
use http::{Method, StatusCode};

use crate::http::{Answer, admin, get, plain_client, post, post_as};
use crate::process::{Process, config_on_ports, ok};
use crate::support::{TestGateway, Upstream, config_text, eventually, parse, token};

async fn scrape(gateway: &TestGateway) -> HashMap<String, f64> {
    series_at(&gateway.admin_url("/metrics")).await
}

/// The metrics at `url` by series, with the labels in the order of their names.
async fn series_at(url: &str) -> HashMap<String, f64> {
    let client = plain_client().build().unwrap();
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    let series = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(series).collect()
}

#[tokio::test]
async fn what_happened_is_counted() {
    let router = Router::new()
        .route("/broken", axum::routing::any(async || StatusCode::INTERNAL_SERVER_ERROR))
        .fallback(async || "fine");
    let upstream = Upstream::start(router).await;
    let more = r#"
[credits]
signup_grant = 3

[[routes]]
path = "/broken"
upstream = "ai"
credits = 2

[[routes]]
path = "/users/{id}/free"
upstream = "ai"
credits = 0
"#;
    let gateway = TestGateway::start(&config_text(upstream.address, more)).await;
    gateway.grant("zoe-the-account", 100).await;
    let zoe = token("zoe-the-account");
    for _ in 0..3 {
        post(&gateway, "/api/ai/generate", &zoe, "").await.expect(200);
    }
    for _ in 0..2 {
        post(&gateway, "/broken", &zoe, "").await.expect(500);
    }
    get(&gateway, "/users/zoe-the-account/free", &zoe).await.expect(200);
    // A newcomer: three credits to sign up, which do not pay for a call of five.
    post(&gateway, "/api/ai/generate", &token("newcomer"), "").await.expect(402);
    post(&gateway, "/nothing", &zoe, "").await.expect(404);
    Answer::of(gateway.client.post(gateway.url("/api/ai/generate"))).await.expect(401);
    get(&gateway, "/credits/packs", "").await.expect(200);
    get(&gateway, "/credits/packs", "").await.expect(200);
    let grant = r#"{"credits":100,"id":"again"}"#;
    for _ in 0..2 {
        let path = "/admin/accounts/zoe-the-account/grants";
        admin(&gateway, Method::POST, path, grant).await.expect(200);
    }
    assert_eq!(gateway.settled_balance("zoe-the-account").await, 185);

    // A call is counted once it has ended, which its client may learn earlier.
    let ended = eventually(async || {
        let seen = scrape(&gateway).await;
        seen.get("farebox_requests_total{code=\"500\",route=\"/broken\"}") == Some(&2.0)
            && seen.get("farebox_calls_in_flight") == Some(&0.0)
    });
    assert!(ended.await);
    let seen = scrape(&gateway).await;
    let generate = "/api/ai/generate";
    for (series, value) in [
        (format!("farebox_requests_total{{code=\"200\",route=\"{generate}\"}}"), 3.0),
        (format!("farebox_requests_total{{code=\"402\",route=\"{generate}\"}}"), 1.0),
        ("farebox_requests_total{code=\"200\",route=\"/users/{id}/free\"}".to_owned(), 1.0),
        (format!("farebox_request_seconds_count{{route=\"{generate}\"}}"), 4.0),
        (format!("farebox_overhead_seconds_count{{route=\"{generate}\"}}"), 4.0),
        (format!("farebox_holds_total{{outcome=\"captured\",route=\"{generate}\"}}"), 3.0),
        (format!("farebox_holds_total{{outcome=\"refused\",route=\"{generate}\"}}"), 1.0),
        ("farebox_holds_total{outcome=\"released\",route=\"/broken\"}".to_owned(), 2.0),
        (format!("farebox_credits_captured_total{{route=\"{generate}\"}}"), 15.0),
        ("farebox_credits_released_total{route=\"/broken\"}".to_owned(), 4.0),
        ("farebox_credits_granted_total{source=\"admin\"}".to_owned(), 200.0),
        ("farebox_credits_granted_total{source=\"signup\"}".to_owned(), 3.0),
        ("farebox_pack_views_total".to_owned(), 2.0),
        ("farebox_ready".to_owned(), 1.0),
        ("farebox_ledger_up".to_owned(), 1.0),
        ("farebox_ledger_sync_lag_seconds".to_owned(), 0.0),
    ] {
        assert_eq!(seen.get(&series), Some(&value), "{series}: {seen:#?}");
    }
    assert!(seen["farebox_ledger_batch_size_count"] > 0.0);
    assert!(seen["farebox_ledger_commit_seconds_count"] > 0.0);
    for series in seen.keys() {
        assert!(series.starts_with("farebox_"), "{series}");
        for account in ["zoe", "newcomer", "backend", "account="] {
            assert!(!series.contains(account), "{series}");
        }
    }
    gateway.assert_reconciled().await;
}

/// A counter that appears with its first event hides that event: Prometheus sees no increase.
#[tokio::test]
async fn every_series_whose_labels_are_known_begins_at_zero_also_after_a_reload() {
    let upstream = Upstream::canned().await;
    let pack = |id: &str, currency: &str| {
        format!("[[packs]]\nid = \"{id}\"\ncredits = 10\nprice = \"2.00 {currency}\"\n")
    };
    let of_a_route = |label: &str| {
        let route = format!("route=\"{label}\"");
        let mut series = vec![
            format!("farebox_credits_captured_total{{{route}}}"),
            format!("farebox_credits_released_total{{{route}}}"),
        ];
        for outcome in ["captured", "released", "expired", "refused"] {
            series.push(format!("farebox_holds_total{{outcome=\"{outcome}\",{route}}}"));
        }
        series
    };
    let of_a_call = |label: &str, codes: &[u16]| {
        let series = |code| format!("farebox_requests_total{{code=\"{code}\",route=\"{label}\"}}");
        codes.iter().map(series).collect::<Vec<_>>()
    };
    let of_a_pack = |id: &str| {
        ["checkouts", "purchases"].map(|what| format!("farebox_{what}_total{{pack=\"{id}\"}}"))
    };
    let revenue =
        |currency: &str| vec![format!("farebox_revenue_minor_total{{currency=\"{currency}\"}}")];
    let at_zero = async |gateway: &TestGateway, all: &[Vec<String>]| {
        let seen = scrape(gateway).await;
        for series in all.iter().flatten() {
            assert_eq!(seen.get(series), Some(&0.0), "{series}: {seen:#?}");
        }
    };
    // Farebox's own answers to a call, and those of an upstream that fails.
    let codes = [200, 400, 402, 403, 408, 499, 500, 502, 503, 504];
    let sources = ["admin", "signup", "stripe", "import"];

    let gateway = TestGateway::before(&upstream, &pack("one", "EUR")).await;
    let generate = "/api/ai/generate";
    let outcomes = ["ok", "connect", "timeout", "closed", "status_4xx", "status_5xx"];
    let attempts = outcomes.map(|outcome| {
        format!("farebox_upstream_requests_total{{outcome=\"{outcome}\",upstream=\"ai\"}}")
    });
    let granted = sources.map(|from| format!("farebox_credits_granted_total{{source=\"{from}\"}}"));
    at_zero(
        &gateway,
        &[
            of_a_route(generate),
            of_a_call(generate, &codes),
            // Holds that name no route.
            of_a_route("api"),
            // Own routes, and calls that no rule prices.
            of_a_call("none", &[200, 201, 400, 401, 402, 403, 404, 408, 409, 429, 500, 503]),
            of_a_pack("one").to_vec(),
            revenue("eur"),
            granted.to_vec(),
            attempts.to_vec(),
            vec!["farebox_pack_views_total".to_owned()],
        ],
    )
    .await;

    let more = "[[routes]]\npath = \"/later\"\nupstream = \"ai\"\ncredits = 1\n";
    let after = config_text(upstream.address, &(more.to_owned() + &pack("two", "JPY")));
    let after = parse(&after.replace("2.00 JPY", "200 JPY"), gateway.folder.path());
    gateway.gateway.reload(&after).await.unwrap();
    let added = [of_a_route("/later"), of_a_call("/later", &codes), of_a_pack("two").to_vec()];
    at_zero(&gateway, &added).await;
    at_zero(&gateway, &[revenue("jpy")]).await;
}

#[tokio::test]
async fn paths_that_strangers_choose_make_no_series() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    let before = scrape(&gateway).await.len();
    for n in 0..50 {
        post(&gateway, &format!("/nothing/{n}"), &token("zoe"), "").await.expect(404);
        get(&gateway, &format!("/credits/nothing/{n}"), &token("zoe")).await.expect(404);
        post(&gateway, &format!("/anonymous/{n}"), "x", "").await.expect(401);
    }
    let after = scrape(&gateway).await.len();
    assert!(after <= before + 5, "{before} → {after}");
}

#[tokio::test]
async fn what_relaxed_has_not_written_yet_is_its_lag() {
    let upstream = Upstream::canned().await;
    let text = config_text(upstream.address, "");
    let text = text.replace("[ledger]", "[ledger]\ndurability = \"relaxed\"");
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    post(&gateway, "/api/ai/generate", &token("alice"), "").await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 95);
    let written = eventually(async || {
        scrape(&gateway).await["farebox_ledger_sync_lag_seconds"] == 0.0
            && crate::http::transactions(&gateway, "alice").await.len() == 2
    });
    assert!(written.await, "nothing waits for longer than it may");
    assert_eq!(scrape(&gateway).await["farebox_ledger_up"], 1.0);
}

#[tokio::test]
async fn what_calls_cost_and_credits_sell_for_is_shown_as_of_the_last_reload() {
    let upstream = Upstream::canned().await;
    let route = |method: &str, cost: &str| {
        format!(
            "[[routes]]\npath = \"/draw\"\nmethods = [\"{method}\"]\nupstream = \"ai\"\n\
             credits = 5\n{cost}\n\n"
        )
    };
    let pack = |credits: u32, price: &str| {
        format!("[[packs]]\nid = \"p{credits}\"\ncredits = {credits}\nprice = \"{price}\"\n\n")
    };
    let config = |parts: &[String]| config_text(upstream.address, &parts.concat());
    let before = config(&[
        route("GET", "cost = \"0.0004 EUR\""),
        route("POST", "cost = \"0.04 EUR\""),
        route("PUT", ""),
        pack(500, "79.00 EUR"),
        pack(100, "19.00 EUR"),
    ]);
    let gateway = TestGateway::start(&before).await;
    let seen = scrape(&gateway).await;
    let cost = |currency: &str| {
        format!("farebox_route_cost_minor{{currency=\"{currency}\",route=\"/draw\"}}")
    };
    let price = |currency: &str| format!("farebox_credit_price_minor{{currency=\"{currency}\"}}");
    assert_eq!(seen.get(&cost("eur")), Some(&4.0), "the dearest method: {seen:#?}");
    assert_eq!(seen.get(&price("eur")), Some(&19.0), "the smallest pack: {seen:#?}");
    let told = seen.keys().filter(|series| series.starts_with("farebox_route_cost_minor")).count();
    assert_eq!(told, 1, "a route that tells no cost has none: {seen:#?}");

    let after = config(&[route("POST", "cost = \"0.5 JPY\""), pack(200, "300 JPY")]);
    let after = parse(&after, gateway.folder.path());
    gateway.gateway.reload(&after).await.unwrap();
    let seen = scrape(&gateway).await;
    assert_eq!(seen.get(&cost("jpy")), Some(&0.5), "{seen:#?}");
    assert_eq!(seen.get(&price("jpy")), Some(&1.5), "{seen:#?}");
    for gone in [cost("eur"), price("eur")] {
        assert_eq!(seen.get(&gone), None, "{seen:#?}");
    }
}

#[tokio::test]
async fn what_is_imported_is_not_counted_as_granted_by_an_admin() {
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    let gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 7, "gift").await;
    let rows = "account,credits,id\nalice,10.5,old-1\nbob,2,old-2\n";
    std::fs::write(folder.path().join("old.csv"), rows).unwrap();
    for _ in 0..2 {
        ok(folder.path(), &["import", "--csv", "old.csv"]);
    }
    let seen = series_at(&format!("http://{}/metrics", gateway.admin)).await;
    for (source, credits) in [("admin", 7.0), ("import", 12.5)] {
        let series = format!("farebox_credits_granted_total{{source=\"{source}\"}}");
        assert_eq!(seen.get(&series), Some(&credits), "{series}: {seen:#?}");
    }
    let path = "/admin/accounts/alice/grants";
    let odd = r#"{"credits":1,"id":"x","source":"stripe"}"#;
    gateway.admin(Method::POST, path, odd).await.problem(400, "BAD_REQUEST");
}

#[tokio::test]
async fn holds_made_through_the_api_are_counted_once_as_they_end() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    let key = gateway.key("backend", true).await;
    let ask = async |path: &str, body: &str| post_as(&gateway, path, &key, "alice", body).await;
    ask("/credits/holds", r#"{"endpoint":"/api/ai/generate","id":"a"}"#).await.expect(201);
    ask("/credits/holds", r#"{"endpoint":"/api/ai/generate","id":"b"}"#).await.expect(201);
    ask("/credits/holds", r#"{"credits":3,"id":"c"}"#).await.expect(201);
    ask("/credits/holds", r#"{"credits":2,"id":"d"}"#).await.expect(201);
    ask("/credits/holds", r#"{"credits":1000,"id":"e"}"#).await.expect(402);
    ask("/credits/holds", r#"{"credits":1,"id":"late","ttl_seconds":1}"#).await.expect(201);
    // Each is asked twice, as by a client that got no answer.
    for _ in 0..2 {
        ask("/credits/holds/a/capture", r#"{"credits":4}"#).await.expect(200);
        ask("/credits/holds/b/release", "").await.expect(200);
        ask("/credits/holds/c/capture", r#"{"credits":3}"#).await.expect(200);
        ask("/credits/holds/d/capture", r#"{"credits":0}"#).await.expect(200);
    }
    let expired = "farebox_holds_total{outcome=\"expired\",route=\"api\"}";
    let is_late = eventually(async || scrape(&gateway).await.get(expired) == Some(&1.0)).await;
    assert!(is_late);
    for _ in 0..2 {
        ask("/credits/holds/late/capture", r#"{"credits":1}"#).await.expect(200);
    }
    let seen = scrape(&gateway).await;
    let generate = "/api/ai/generate";
    for (series, value) in [
        (format!("farebox_holds_total{{outcome=\"captured\",route=\"{generate}\"}}"), 1.0),
        (format!("farebox_holds_total{{outcome=\"released\",route=\"{generate}\"}}"), 1.0),
        (format!("farebox_credits_captured_total{{route=\"{generate}\"}}"), 4.0),
        (format!("farebox_credits_released_total{{route=\"{generate}\"}}"), 6.0),
        ("farebox_holds_total{outcome=\"captured\",route=\"api\"}".to_owned(), 1.0),
        ("farebox_holds_total{outcome=\"released\",route=\"api\"}".to_owned(), 1.0),
        ("farebox_holds_total{outcome=\"refused\",route=\"api\"}".to_owned(), 1.0),
        // The hold ended when it expired; a later charge counts all the same.
        (expired.to_owned(), 1.0),
        ("farebox_credits_captured_total{route=\"api\"}".to_owned(), 4.0),
        ("farebox_credits_released_total{route=\"api\"}".to_owned(), 2.0),
    ] {
        assert_eq!(seen.get(&series), Some(&value), "{series}: {seen:#?}");
    }
}
