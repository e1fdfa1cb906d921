//! Metered calls as their callers and the operator see them: in the lists, by model, and with their
//! margins.

use farebox::usage::Kind;
use http::Method;
use serde_json::{Value, json};

use crate::http::{admin, get};
use crate::support::metered::{MeteredCall, make};
use crate::support::{TestGateway, Upstream, config_text, eventually, token};

const SHOP: &str = r#"
[[routes]]
path = "/v1/chat/completions"
methods = ["POST"]
upstream = "ai"
meter = "openai"
price = "models"

[[routes]]
path = "/v1/images"
methods = ["POST"]
upstream = "ai"
meter = "openai"
price = { image = 4 }

[[models]]
match = "GPT-5"
input = 250
output = 1000
search = 1
cost = { input = "2.50 USD", output = "10.00 USD" }

[[models]]
match = "claude-*"
input = 300
output = 1500

[[models]]
match = "idle"
free = true

[rates]
USD = "0.86 EUR"

[[packs]]
id = "p"
credits = 100
price = "19.00 EUR"
"#;

const CHAT: &str = "/v1/chat/completions";

fn chat<'a>(
    account: &'a str,
    model: &'a str,
    charged: &'a str,
    used: &'a [(Kind, u64)],
) -> MeteredCall<'a> {
    MeteredCall { account, route: CHAT, model: Some(model), held: "2.5", charged, used }
}

/// A gateway whose ledger has these calls.
async fn shop(calls: &[MeteredCall<'_>]) -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let folder = tempfile::tempdir().unwrap();
    make(&folder.path().join("ledger.db"), calls).await;
    let gateway = TestGateway::start_in(folder, &config_text(upstream.address, SHOP)).await;
    (upstream, gateway)
}

/// Calls of two models and of a route with prices of its own, by two accounts.
fn calls() -> [MeteredCall<'static>; 6] {
    let used = &[(Kind::Input, 600), (Kind::CachedInput, 400), (Kind::Output, 300)];
    let image = MeteredCall {
        account: "alice",
        route: "/v1/images",
        model: None,
        held: "8",
        charged: "8",
        used: &[(Kind::Image, 2)],
    };
    [
        chat("alice", "gpt-5", "0.55", used),
        chat("alice", "GPT-5", "3.2", &[(Kind::Input, 8800), (Kind::Search, 1)]),
        chat("alice", "Claude-opus-4", "0.75", &[(Kind::Output, 500)]),
        chat("bob", "claude-haiku", "1.5", &[(Kind::Output, 1000)]),
        chat("bob", "old-model", "0.000001", &[(Kind::Input, 1)]),
        image,
    ]
}

#[tokio::test]
async fn a_metered_line_says_model_usage_and_hold_and_no_other_line_does() {
    let (_upstream, gateway) = shop(&calls()).await;
    gateway.post("alice", "/api/ai/generate").await;
    let charged = eventually(async || {
        let all = get(&gateway, "/credits/transactions", &token("alice")).await.expect(200);
        all["transactions"].as_array().unwrap().len() == 6
    });
    assert!(charged.await);
    let own = get(&gateway, "/credits/transactions", &token("alice")).await.expect(200);
    let path = "/admin/accounts/alice/transactions";
    let operators = admin(&gateway, Method::GET, path, "").await.expect(200);
    assert_eq!(own["transactions"], operators["transactions"]);
    let day = "from=2020-01-01";
    let ranged = get(&gateway, &format!("/credits/transactions?{day}"), &token("alice")).await;
    assert_eq!(own["transactions"], ranged.expect(200)["transactions"]);
    let of_all = admin(&gateway, Method::GET, "/admin/entries", "").await.expect(200);
    for lines in [&own["transactions"], &of_all["entries"]] {
        let lines = lines.as_array().unwrap();
        let metered = |line: &Value| {
            let line = line.as_object().unwrap();
            let keys = ["held", "model", "usage"].map(|key| line.contains_key(key));
            assert!(keys == [true; 3] || keys == [false; 3], "{line:?}");
            keys[0]
        };
        for line in lines {
            let is_plain = line["kind"] == "grant" || line["route"] == "/api/ai/generate";
            assert_eq!(metered(line), !is_plain, "{line}");
        }
        let of = |amount: f64| lines.iter().find(|line| line["amount"] == amount).unwrap();
        let first = of(-0.55);
        assert_eq!((&first["held"], &first["model"]), (&json!(2.5), &json!("gpt-5")));
        let used = json!({ "input": 600, "cached_input": 400, "output": 300 });
        assert_eq!((&first["usage"], &first["route"]), (&used, &json!(CHAT)));
        // An overrun, as the request spelled its model.
        let over = of(-3.2);
        assert_eq!((&over["held"], &over["model"]), (&json!(2.5), &json!("GPT-5")));
        let image = of(-8.0);
        assert_eq!((&image["model"], &image["usage"]), (&Value::Null, &json!({ "image": 2 })));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_description_of_the_api_has_what_a_metered_line_says() {
    let (_upstream, gateway) = shop(&[]).await;
    let described = get(&gateway, "/credits/openapi.json", "").await.expect(200);
    let schemas = &described["components"]["schemas"];
    let required = |name: &str| schemas[name]["required"].as_array().unwrap();
    for member in ["held", "model", "usage"] {
        assert!(schemas["Transaction"]["properties"][member].is_object(), "{schemas}");
        assert!(!required("Transaction").contains(&json!(member)), "{member}");
    }
    let counts = &schemas["ModelLine"]["properties"]["usage"]["additionalProperties"];
    assert_eq!(counts["type"], "integer", "{schemas}");
    assert!(required("UsageBody").contains(&json!("models")));
    gateway.stop().await;
}

#[tokio::test]
async fn usage_is_counted_by_model_and_kind_beside_routes() {
    let (_upstream, gateway) = shop(&calls()).await;
    let usage = async |query: &str| {
        get(&gateway, &format!("/credits/usage{query}"), &token("alice")).await.expect(200)
    };
    let models = json!([
        { "model": null, "calls": 1, "credits": 8, "usage": { "image": 2 } },
        { "model": "GPT-5", "calls": 2, "credits": 3.75,
          "usage": { "input": 9400, "cached_input": 400, "output": 300, "search": 1 } },
        { "model": "claude-opus-4", "calls": 1, "credits": 0.75, "usage": { "output": 500 } },
    ]);
    // Two days, because the calls may have been made just before midnight.
    let used = usage("?days=2").await;
    assert_eq!(used["models"], models);
    assert_eq!(used["complete"], true);
    let by_route: f64 = used["usage"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["credits"].as_f64().unwrap())
        .sum();
    assert!((by_route - 12.5).abs() < 1e-9, "{used}");
    let nobody = get(&gateway, "/credits/usage", &token("nobody")).await.expect(200);
    assert_eq!(nobody["models"], json!([]));
    gateway.stop().await;
}

#[tokio::test]
async fn revenue_own_cost_and_margin_are_told_by_model() {
    let (_upstream, gateway) = shop(&calls()).await;
    let models = async |query: &str| {
        admin(&gateway, Method::GET, &format!("/admin/models{query}"), "").await
    };
    let told = models("").await.expect(200);
    let gpt = json!({ "model": "GPT-5", "prices": { "input": 250, "output": 1000, "search": 1 } });
    let claude = json!({ "model": "claude-*", "prices": { "input": 300, "output": 1500 } });
    let expected = json!([
        { "model": null, "price": null, "calls": 1, "captured": 8, "usage": { "image": 2 },
          "revenue": "1.52 EUR", "cost": null, "margin": null },
        // Own cost in euros: (600 + 400 + 8800) × 2.15 + 300 × 8.60 a million. The search has no cost.
        { "model": "GPT-5", "price": gpt, "calls": 2, "captured": 3.75,
          "usage": { "input": 9400, "cached_input": 400, "output": 300, "search": 1 },
          "revenue": "0.7125 EUR", "cost": "0.02365 EUR", "margin": "2913 %",
          "uncosted": ["search"] },
        { "model": "claude-*", "price": claude, "calls": 2, "captured": 2.25, "usage": { "output": 1500 },
          "revenue": "0.4275 EUR", "cost": null, "margin": null },
        { "model": "old-model", "price": null, "calls": 1, "captured": 0.000001, "usage": { "input": 1 },
          "revenue": "0.00000019 EUR", "cost": null, "margin": null },
        { "model": "idle", "price": { "model": "idle", "free": true, "prices": {} },
          "calls": 0, "captured": 0, "usage": {}, "revenue": "0.00 EUR", "cost": null, "margin": null },
    ]);
    assert_eq!((&told["models"], &told["hours"]), (&expected, &json!(24)));
    for query in ["?hours=1", "?hours=744"] {
        assert_eq!(models(query).await.expect(200)["models"], expected);
    }
    for query in ["?hours=0", "?hours=745", "?hours=x", "?days=1"] {
        models(query).await.problem(400, "BAD_REQUEST");
    }
    gateway.stop().await;
}
