//! Farebox's own routes on the public port.

use http::Method;
use serde_json::{Value, json};

use crate::http::{Answer, admin, ask, get, pages, post};
use crate::support::packs::two_packs;
use crate::support::{TestGateway, Upstream, token};

const PACKS: &str = concat!(
    r#"
[[routes]]
path = "/api/ai/generate/hd"
upstream = "ai"
credits = 10

[[routes]]
path = "/free"
methods = ["GET"]
upstream = "ai"
credits = 0
"#,
    two_packs!(),
);

async fn shop() -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, PACKS).await;
    (upstream, gateway)
}

#[tokio::test]
async fn a_balance_is_what_is_available_and_what_is_held() {
    let (_upstream, gateway) = shop().await;
    gateway.grant("alice", 95).await;
    let service = gateway.key("backend", true).await;
    let hold = gateway.client.post(gateway.url("/credits/holds")).bearer_auth(&service);
    let hold = hold.header("x-farebox-account", "alice").body(r#"{"credits":5,"id":"h-1"}"#);
    Answer::of(hold).await.expect(201);

    let exact = json!({
        "account": "alice", "balance": 95, "held": 5, "available": 90, "low": false,
    });
    let answer = get(&gateway, "/credits/balance", &token("alice")).await;
    assert_eq!(answer.expect(200), exact);
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("x-request-id").is_empty());

    // A service key alone may name another account.
    let seen_by = async |credential: &str| {
        let request = gateway.client.get(gateway.url("/credits/balance")).bearer_auth(credential);
        Answer::of(request.header("x-farebox-account", "alice")).await.expect(200)
    };
    assert_eq!(seen_by(&service).await, exact);
    assert_eq!(seen_by(&token("mallory")).await["account"], "mallory");
    let key = gateway.key("mallory", false).await;
    assert_eq!(seen_by(&key).await["account"], "mallory");
    assert_eq!(get(&gateway, "/credits/balance", &service).await.json()["account"], "backend");
}

#[tokio::test]
async fn an_account_is_low_below_low_balance() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "[credits]\nlow_balance = 20").await;
    for (credits, low) in [(19, true), (1, false)] {
        gateway.grant("alice", credits).await;
        assert_eq!(gateway.balance("alice").await["low"], low, "{credits}");
    }
}

#[tokio::test]
async fn a_check_says_what_a_call_would_cost_and_takes_nothing() {
    let (upstream, gateway) = shop().await;
    gateway.grant("alice", 12).await;
    let check = async |body: &str| post(&gateway, "/credits/check", &token("alice"), body).await;

    let exact = json!({ "allowed": true, "cost": 5, "available": 12, "remaining": 7 });
    assert_eq!(check(r#"{"endpoint":"/api/ai/generate"}"#).await.expect(200), exact);
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/json"] {
        let request = gateway.client.post(gateway.url("/credits/check"));
        let request = request.bearer_auth(token("alice")).header("content-type", content_type);
        let answer = Answer::of(request.body(r#"{"endpoint":"/api/ai/generate"}"#)).await;
        assert_eq!(answer.expect(200), exact, "{content_type}");
    }
    assert_eq!(check(r#"{"endpoint":"/free","method":"GET"}"#).await.expect(200)["cost"], 0);
    let hd = check(r#"{"endpoint":"/api/ai/generate/hd","method":"PUT"}"#).await;
    assert_eq!(hd.expect(200)["remaining"], 2);

    assert_eq!(upstream.seen().len(), 0);
    assert_eq!(gateway.balance("alice").await["available"], 12);
    assert_eq!(crate::http::transactions(&gateway, "alice").await.len(), 1);
}

#[tokio::test]
async fn a_refused_check_reads_like_the_refused_call() {
    let (_upstream, gateway) = shop().await;
    gateway.grant("alice", 3).await;
    let body = r#"{"endpoint":"/api/ai/generate"}"#;
    let checked = post(&gateway, "/credits/check", &token("alice"), body).await;
    let mut checked = checked.problem(402, "INSUFFICIENT_CREDITS");
    let called = post(&gateway, "/api/ai/generate", &token("alice"), "{}").await;
    let mut called = called.problem(402, "INSUFFICIENT_CREDITS");
    checked["request_id"] = Value::Null;
    called["request_id"] = Value::Null;
    assert_eq!(checked, called);
    assert_eq!(called["required"], 5);
    assert_eq!(called["available"], 3);
    assert_eq!(called["detail"], "This call costs 5 credits; 3 are available.");
    assert_eq!(called["title"], "Insufficient credits");
    assert_eq!(called["topup_url"], "/credits/account");
    assert_eq!(called["packs"], get(&gateway, "/credits/packs", "").await.json());
    assert_eq!(called["error"]["type"], "insufficient_quota");
}

#[tokio::test]
async fn a_check_of_what_nobody_priced_is_refused() {
    let (_upstream, gateway) = shop().await;
    let check = async |body: &str| post(&gateway, "/credits/check", &token("alice"), body).await;
    for body in [
        r#"{"endpoint":"/nothing/here"}"#,
        r#"{"endpoint":"/api/ai/generate","method":"GET"}"#,
        r#"{"endpoint":"/free"}"#,
        r#"{"endpoint":"/API/ai/generate"}"#,
    ] {
        check(body).await.problem(404, "NO_PRICE_RULE");
    }
    for body in [
        "",
        "{}",
        "[]",
        "nonsense",
        r#"{"endpoint":5}"#,
        r#"{"endpoint":"/api//ai"}"#,
        r#"{"endpoint":"/api/../ai"}"#,
        r#"{"endpoint":"api"}"#,
        r#"{"endpoint":""}"#,
        r#"{"endpoint":"/api%2fai"}"#,
        r#"{"endpoint":"/x","method":"A B"}"#,
    ] {
        check(body).await.problem(400, "BAD_REQUEST");
    }
    let body = r#"{"endpoint":"/api/ai/generate"}"#;
    let anonymous = gateway.client.post(gateway.url("/credits/check")).body(body);
    Answer::of(anonymous).await.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn prices_and_packs_are_public_and_exact() {
    let (_upstream, gateway) = shop().await;
    let open = async |path: &str| Answer::of(gateway.client.get(gateway.url(path))).await;
    let packs = json!([
        { "id": "pack-100", "name": "Pack 100", "credits": 100,
          "price": { "amount": 1900, "currency": "eur" }, "best_value": false },
        { "id": "pack-500", "name": "Pack 500", "credits": 500,
          "price": { "amount": 7900, "currency": "eur" }, "best_value": true },
    ]);
    assert_eq!(open("/credits/packs").await.expect(200), packs);
    let prices = open("/credits/prices").await.expect(200);
    let first = &prices.as_array().unwrap()[0];
    assert_eq!(first["path"], "/api/ai/generate");
    assert_eq!(first["methods"], json!(["POST"]));
    assert_eq!(first["credits"], 5);
    assert_eq!(prices.as_array().unwrap().len(), 3);
    assert!(!prices.to_string().contains("upstream"), "{prices}");
}

#[tokio::test]
async fn transactions_are_paged_newest_first_and_sum_up_to_the_balance() {
    let (upstream, gateway) = shop().await;
    gateway.grant("alice", 5000).await;
    for _ in 0..230 {
        assert_eq!(gateway.post("alice", "/api/ai/generate").await.status(), 200);
    }
    let settled = gateway.settled_balance("alice").await;
    let captured = crate::http::transactions(&gateway, "alice").await;
    let refunded = captured[0]["request_id"].as_str().unwrap().to_owned();
    let path = format!("/admin/captures/{refunded}/refund");
    admin(&gateway, Method::POST, &path, "").await.expect(200);
    for (id, credits) in [("up", "7.25"), ("down", "-100.5")] {
        let body = format!(r#"{{"credits":{credits},"id":"{id}","reason":"a correction"}}"#);
        admin(&gateway, Method::POST, "/admin/accounts/alice/adjustments", &body).await.expect(200);
    }

    let page = async |cursor: Option<String>| {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/credits/transactions?limit=17{cursor}");
        let page = get(&gateway, &path, &token("alice")).await.expect(200);
        assert!(page["transactions"].as_array().unwrap().len() <= 17);
        page
    };
    let all = pages(page, "transactions").await;
    assert_eq!(all.len(), 234);
    let balance = gateway.balance("alice").await["balance"].as_f64().unwrap();
    assert_eq!(balance, settled as f64 + 5.0 + 7.25 - 100.5);
    assert_eq!(all[0]["balance_after"].as_f64().unwrap(), balance);
    let sum: f64 = all.iter().map(|line| line["amount"].as_f64().unwrap()).sum();
    assert_eq!(sum, balance);
    for (newer, older) in all.iter().zip(&all[1..]) {
        let before = newer["balance_after"].as_f64().unwrap() - newer["amount"].as_f64().unwrap();
        assert_eq!(before, older["balance_after"].as_f64().unwrap(), "{newer} {older}");
        let (newer, older) = (newer["created_at"].as_str(), older["created_at"].as_str());
        assert!(newer >= older && older.unwrap().ends_with('Z'), "{newer:?} {older:?}");
    }
    let ids: std::collections::HashSet<_> =
        all.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), all.len(), "an id is shown once");

    // Each kind of entry has the right sign. The captures are the upstream's calls, one by one.
    let of_kind =
        |kind: &str| -> Vec<&Value> { all.iter().filter(|line| line["kind"] == kind).collect() };
    assert_eq!(of_kind("grant").len(), 1);
    assert_eq!(of_kind("grant")[0]["amount"], 5000);
    assert_eq!(of_kind("refund")[0]["amount"], 5);
    assert_eq!(of_kind("refund")[0]["request_id"], refunded);
    assert_eq!(of_kind("adjustment")[0]["amount"], -100.5);
    assert_eq!(of_kind("adjustment")[1]["amount"], 7.25);
    let captures = of_kind("capture");
    assert_eq!(captures.len(), 230);
    let mut seen: Vec<String> = upstream
        .seen()
        .iter()
        .map(|seen| seen.header("x-request-id").unwrap().to_owned())
        .collect();
    seen.reverse();
    let charged: Vec<String> =
        captures.iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(charged, seen);
    for capture in captures {
        assert_eq!(capture["amount"], -5);
        assert_eq!(capture["route"], "/api/ai/generate");
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn odd_pages_are_refused_or_bounded() {
    let (_upstream, gateway) = shop().await;
    gateway.grant("alice", 5).await;
    let alice = token("alice");
    let exact = get(&gateway, "/credits/transactions", &alice).await.expect(200);
    assert_eq!(exact["next_cursor"], Value::Null);
    for query in
        ["limit=-1", "limit=x", "limit=1e3", "cursor=x", "cursor=-1", "cursor=1.5", "unknown=1"]
    {
        let path = format!("/credits/transactions?{query}");
        get(&gateway, &path, &alice).await.problem(400, "BAD_REQUEST");
    }
    for query in ["limit=1", "limit=100000", "limit=0"] {
        let path = format!("/credits/transactions?{query}");
        get(&gateway, &path, &alice).await.expect(200);
    }
    // A form sends this for a field that was left empty.
    for query in ["cursor=", "limit=", "limit=&cursor=", "limit=50&cursor="] {
        let path = format!("/credits/transactions?{query}");
        assert_eq!(get(&gateway, &path, &alice).await.expect(200), exact, "{query}");
    }
}

#[tokio::test]
async fn accounts_never_see_each_other_s_anything() {
    let (upstream, gateway) = shop().await;
    let names = ["alice", "bob", "carol", "a", "al", "alice2", "ALICE"];
    for (n, name) in names.iter().enumerate() {
        gateway.grant(name, 100 + n as u64).await;
        assert_eq!(gateway.post(name, "/api/ai/generate").await.status(), 200);
    }
    for (n, name) in names.iter().enumerate() {
        assert_eq!(gateway.settled_balance(name).await, 95 + n as i64);
        let key = gateway.key(name, false).await;
        for credential in [token(name), key] {
            let balance = get(&gateway, "/credits/balance", &credential).await.expect(200);
            assert_eq!(balance["account"], *name);
            let lines = get(&gateway, "/credits/transactions", &credential).await.expect(200);
            let lines = lines["transactions"].as_array().unwrap().clone();
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert_eq!(lines[1]["amount"], 100 + n);
            let request_id = lines[0]["request_id"].as_str();
            let call = upstream.seen().into_iter().find(|s| s.header("x-request-id") == request_id);
            assert_eq!(call.unwrap().header("x-farebox-account"), Some(*name));
        }
    }
    let nobody = get(&gateway, "/credits/transactions", &token("nobody")).await.expect(200);
    assert_eq!(nobody, json!({ "transactions": [], "next_cursor": null }));
}

#[tokio::test]
async fn the_description_lists_these_routes() {
    let (_upstream, gateway) = shop().await;
    let answer = Answer::of(gateway.client.get(gateway.url("/credits/openapi.json"))).await;
    let description = answer.expect(200);
    assert!(description["openapi"].as_str().unwrap().starts_with("3."), "{description}");
    assert!(description["info"]["title"].is_string() && description["info"]["version"].is_string());
    let base = description["servers"][0]["url"].as_str().unwrap_or_default().to_owned();
    let paths = description["paths"].as_object().unwrap();
    for (method, path) in [
        ("get", "/credits/balance"),
        ("post", "/credits/check"),
        ("get", "/credits/prices"),
        ("get", "/credits/packs"),
        ("post", "/credits/buy"),
        ("get", "/credits/transactions"),
        ("get", "/credits/usage"),
        ("post", "/credits/holds"),
        ("post", "/credits/holds/{id}/capture"),
        ("post", "/credits/holds/{id}/release"),
        ("get", "/credits/keys"),
        ("post", "/credits/keys"),
        ("delete", "/credits/keys/{id}"),
        ("get", "/credits/session"),
        ("post", "/credits/session"),
        ("delete", "/credits/session"),
        ("post", "/webhooks/stripe"),
        ("get", "/credits/account"),
        ("get", "/credits/ui/{file}"),
        ("get", "/credits/events"),
        ("get", "/credits/openapi.json"),
    ] {
        let found = paths.iter().find(|(key, _)| format!("{base}{key}") == path);
        let (_, found) = found.unwrap_or_else(|| panic!("{path} is not described"));
        assert!(found[method]["responses"].is_object(), "{method} {path}: {found}");
    }
    // The described path parameters are exactly those in the path's braces.
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let of_path = parameters.filter(|parameter| parameter["in"] == "path");
            let named: Vec<&str> = of_path.map(|p| p["name"].as_str().unwrap()).collect();
            let in_braces = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
            assert_eq!(named, in_braces.collect::<Vec<_>>(), "{method} {path}");
        }
    }
    // Every reference leads somewhere.
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(description.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let (upstream, gateway) = shop().await;
    let alice = token("alice");
    for path in ["/credits", "/credits/nothing", "/credits/balance/", "/credits/holds/x"] {
        get(&gateway, path, &alice).await.problem(404, "NOT_FOUND");
    }
    for (method, path) in [
        (Method::POST, "/credits/balance"),
        (Method::GET, "/credits/check"),
        (Method::DELETE, "/credits/packs"),
        (Method::GET, "/credits/holds"),
        (Method::PUT, "/credits/holds/x/capture"),
    ] {
        let answer = ask(&gateway, method.clone(), path, &alice, "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(!answer.header("allow").is_empty(), "RFC 9110, 15.5.6");
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_list_is_no_object() {
    let (_upstream, gateway) = shop().await;
    for body in [r#"["/api/ai/generate","POST"]"#, " []"] {
        let refused = post(&gateway, "/credits/check", &token("alice"), body).await;
        let detail = refused.problem(400, "BAD_REQUEST")["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("an object is expected"), "{detail}");
    }
    let path = "/admin/accounts/alice/adjustments";
    gateway.grant("alice", 5).await;
    admin(&gateway, Method::POST, path, r#"[-1,"id","why"]"#).await.problem(400, "BAD_REQUEST");
    assert_eq!(gateway.balance("alice").await["balance"], 5);
}

#[tokio::test]
async fn own_routes_move_with_their_prefix() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "[api]\nprefix = \"/v1/wallet\"").await;
    let balance = get(&gateway, "/v1/wallet/balance", &token("alice")).await.expect(200);
    assert_eq!(balance["balance"], 0);
    let nothing = get(&gateway, "/v1/wallet/nope", &token("alice")).await;
    let detail = nothing.problem(404, "NOT_FOUND")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("GET /v1/wallet/openapi.json"), "{detail}");
    get(&gateway, "/credits/balance", &token("alice")).await.problem(404, "NO_PRICE_RULE");
    let refused = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    assert_eq!(refused.problem(402, "INSUFFICIENT_CREDITS")["topup_url"], "/v1/wallet/account");
}

#[tokio::test]
async fn browsers_of_named_origins_may_call_and_others_may_not() {
    let upstream = Upstream::canned().await;
    let more = "[api]\ncors_origins = [\"https://app.example.com\"]";
    let gateway = TestGateway::before(&upstream, more).await;
    gateway.grant("alice", 100).await;
    let ours = "https://app.example.com";
    for path in ["/credits/balance", "/api/ai/generate"] {
        let preflight = async |origin: &str| {
            let request = gateway.client.request(Method::OPTIONS, gateway.url(path));
            let request = request
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization, content-type");
            Answer::of(request).await
        };
        let allowed = preflight(ours).await;
        assert!(allowed.status.is_success(), "{path}: {}", allowed.text);
        assert_eq!(allowed.header("access-control-allow-origin"), ours);
        assert!(allowed.header("access-control-allow-methods").contains("POST"));
        let headers = allowed.header("access-control-allow-headers").to_lowercase();
        assert!(headers.contains("authorization"), "{headers}");
        let refused = preflight("https://evil.example.com").await;
        assert_eq!(refused.header("access-control-allow-origin"), "", "{path}");
    }
    assert_eq!((upstream.seen().len(), gateway.settled_balance("alice").await), (0, 100));
    for (path, status) in [("/api/ai/generate", 200), ("/nothing", 404)] {
        let request = gateway.client.post(gateway.url(path)).header("origin", ours);
        let answer = Answer::of(request.bearer_auth(token("alice"))).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), ours);
        let exposed = answer.header("access-control-expose-headers").to_lowercase();
        assert!(exposed.contains("x-credits-remaining"), "{exposed}");
        assert!(answer.header("vary").to_lowercase().contains("origin"), "{path}");
    }
    let (_upstream, plain) = shop().await;
    let request = plain.client.get(plain.url("/credits/packs")).header("origin", ours);
    let answer = Answer::of(request).await;
    let cors = answer.headers.keys().any(|name| name.as_str().starts_with("access-control-"));
    assert!(!cors, "{:?}", answer.headers);
}

#[tokio::test]
async fn head_says_what_get_would() {
    let (_upstream, gateway) = shop().await;
    for path in ["/credits/balance", "/credits/packs", "/credits/openapi.json"] {
        let request = gateway.client.head(gateway.url(path)).bearer_auth(token("alice"));
        let answer = Answer::of(request).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ""), "{path}");
    }
}

#[tokio::test]
async fn a_route_for_everything_does_not_catch_farebox_s_own() {
    let upstream = Upstream::canned().await;
    let more = "[[routes]]\npath = \"/{*rest}\"\nupstream = \"ai\"\ncredits = 1";
    let gateway = TestGateway::before(&upstream, more).await;
    gateway.grant("alice", 100).await;
    let alice = token("alice");
    for path in ["/credits", "/credits/nothing", "/webhooks/stripe", "/credits/%62alance/x"] {
        let answer = post(&gateway, path, &alice, "{}").await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
    get(&gateway, "/credits/%62alance", &alice).await.expect(200);
    assert_eq!((upstream.seen().len(), gateway.settled_balance("alice").await), (0, 100));
    for path in ["/creditsx", "/Credits/balance", "/webhooks", "/webhooks/stripe/x"] {
        post(&gateway, path, &alice, "{}").await.expect(200);
    }
    assert_eq!(gateway.settled_balance("alice").await, 96);
}

#[tokio::test]
async fn ten_tenths_make_one() {
    let upstream = Upstream::canned().await;
    let more = "[[routes]]\npath = \"/tenth\"\nupstream = \"ai\"\ncredits = 0.1\n\
                [[routes]]\npath = \"/least\"\nupstream = \"ai\"\ncredits = 0.000001";
    let gateway = TestGateway::before(&upstream, more).await;
    gateway.grant("alice", 1).await;
    let alice = token("alice");
    for left in ["0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0.2", "0.1", "0"] {
        let answer = post(&gateway, "/tenth", &alice, "").await;
        answer.expect(200);
        assert_eq!(answer.header("x-credits-cost"), "0.1");
        assert_eq!(answer.header("x-credits-remaining"), left);
    }
    let refused = post(&gateway, "/least", &alice, "").await;
    let refused = refused.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(refused["detail"], "This call costs 0.000001 credits; 0 are available.");
    assert_eq!(gateway.settled_balance("alice").await, 0);
    gateway.assert_reconciled().await;
}
