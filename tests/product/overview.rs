//! The past, as the account page and the operator's page show it.

use http::Method;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::http::{admin, get, post, post_as};
use crate::support::{TestGateway, Upstream, eventually, token};

const MORE: &str = r#"
[[routes]]
path = "/draw"
methods = ["GET"]
upstream = "ai"
credits = 1
cost = "0.02 EUR"

[[routes]]
path = "/draw"
methods = ["POST"]
upstream = "ai"
credits = 2.5
cost = "0.04 EUR"

[[packs]]
id = "p"
credits = 100
price = "19.00 EUR"
"#;

async fn shop() -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, MORE).await;
    gateway.grant("alice", 100).await;
    (upstream, gateway)
}

async fn of_admin(gateway: &TestGateway, path: &str) -> Value {
    admin(gateway, Method::GET, path, "").await.expect(200)
}

fn today() -> String {
    OffsetDateTime::now_utc().date().to_string()
}

#[tokio::test]
async fn usage_is_counted_by_day_and_route() {
    let (_upstream, gateway) = shop().await;
    let alice = token("alice");
    let usage = async |query: &str| get(&gateway, &format!("/credits/usage{query}"), &alice).await;
    let none = json!({ "days": 30, "usage": [], "models": [], "complete": true });
    assert_eq!(usage("").await.expect(200), none);
    let day = today();
    for _ in 0..3 {
        post(&gateway, "/draw", &alice, "{}").await.expect(200);
    }
    post(&gateway, "/api/ai/generate", &alice, "{}").await.expect(200);
    gateway.grant("bob", 10).await;
    post(&gateway, "/draw", &token("bob"), "{}").await.expect(200);
    let settled = eventually(async || gateway.balance("alice").await["balance"] == 87.5);
    assert!(settled.await);
    if today() != day {
        return; // Midnight passed during the test, so the figures of today are gone.
    }
    let lines = json!([
        { "day": day, "route": "/draw", "calls": 3, "credits": 7.5 },
        { "day": day, "route": "/api/ai/generate", "calls": 1, "credits": 5 },
    ]);
    for query in ["", "?days=1", "?days=92"] {
        assert_eq!(usage(query).await.expect(200)["usage"], lines, "{query}");
    }
    for query in ["?days=0", "?days=93", "?days=-1", "?days=x", "?days=1.5", "?days="] {
        usage(query).await.problem(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn the_newest_lines_of_all_accounts_are_listed() {
    let (_upstream, gateway) = shop().await;
    gateway.grant("bob", 10).await;
    let call = post(&gateway, "/draw", &token("bob"), "{}").await;
    call.expect(200);
    gateway.grant("alice", 1).await;
    let settled = eventually(async || gateway.balance("bob").await["balance"] == 7.5);
    assert!(settled.await);
    let listed = of_admin(&gateway, "/admin/entries").await;
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 4, "{listed}");
    let times: Vec<&str> = entries.iter().map(|e| e["created_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let capture = entries.iter().find(|entry| entry["kind"] == "capture").unwrap();
    assert_eq!((&capture["account"], &capture["amount"]), (&json!("bob"), &json!(-2.5)));
    assert_eq!(capture["request_id"], call.header("x-request-id"));
    let two = of_admin(&gateway, "/admin/entries?limit=2").await;
    assert_eq!(two["entries"].as_array().unwrap()[..], entries[..2]);
    admin(&gateway, Method::GET, "/admin/entries?limit=x", "").await.problem(400, "BAD_REQUEST");
}

#[tokio::test]
async fn the_last_hours_are_added_up() {
    let (_upstream, gateway) = shop().await;
    for _ in 0..2 {
        post(&gateway, "/draw", &token("alice"), "{}").await.expect(200);
    }
    let service = gateway.key("backend", true).await;
    let ask = async |path: &str, body: &str| post_as(&gateway, path, &service, "alice", body).await;
    ask("/credits/holds", r#"{"credits":3,"id":"job"}"#).await.expect(201);
    ask("/credits/holds/job/capture", r#"{"credits":3}"#).await.expect(200);
    ask("/credits/holds", r#"{"credits":4,"id":"open"}"#).await.expect(201);
    let settled = eventually(async || gateway.balance("alice").await["balance"] == 92);
    assert!(settled.await);

    let overview = of_admin(&gateway, "/admin/overview").await;
    let hours = overview["hours"].as_array().unwrap();
    assert_eq!(hours.len(), 24);
    let begun: Vec<OffsetDateTime> = hours
        .iter()
        .map(|hour| OffsetDateTime::parse(hour["hour"].as_str().unwrap(), &Rfc3339).unwrap())
        .collect();
    assert!(begun.windows(2).all(|two| two[1] - two[0] == time::Duration::HOUR), "{begun:?}");
    let now = OffsetDateTime::now_utc();
    assert!(now - begun[23] < time::Duration::HOUR * 2 && begun[23].offset() == UtcOffset::UTC);
    let sum = |key: &str| hours.iter().map(|hour| hour[key].as_f64().unwrap()).sum::<f64>();
    assert_eq!((sum("calls"), sum("captured"), sum("granted")), (3.0, 8.0, 100.0), "{overview}");
    assert_eq!(sum("purchases"), 0.0);

    let route = |name: &str| {
        let routes = overview["routes"].as_array().unwrap();
        routes.iter().find(|route| route["route"] == name).unwrap().clone()
    };
    assert_eq!(
        route("/draw"),
        json!({
            "route": "/draw", "methods": "GET / POST", "calls": 2, "captured": 5,
            "price": "1 / 2.5", "cost": "0.02 EUR / 0.04 EUR", "margin": "850 % / 1088 %",
        })
    );
    assert_eq!(
        route("/api/ai/generate"),
        json!({
            "route": "/api/ai/generate", "methods": "POST", "calls": 0, "captured": 0,
            "price": "5", "cost": null, "margin": null,
        })
    );
    let api = route("api");
    assert_eq!(
        (&api["calls"], &api["captured"], &api["price"]),
        (&json!(1), &json!(3), &Value::Null)
    );
    assert_eq!(overview["revenue"], json!([]));
    assert_eq!(overview["holds"], json!({ "live": 1, "stuck": 0 }));
    assert!(overview["accounts"].as_u64().unwrap() >= 1, "{overview}");
    let one = of_admin(&gateway, "/admin/overview?hours=1").await;
    assert_eq!(one["hours"].as_array().unwrap().len(), 1);
    for query in ["hours=0", "hours=169", "hours=x"] {
        let path = format!("/admin/overview?{query}");
        admin(&gateway, Method::GET, &path, "").await.problem(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn holds_that_live_are_listed_with_their_age() {
    let go = std::sync::Arc::new(tokio::sync::Notify::new());
    let waits = go.clone();
    let router = axum::Router::new().fallback(async move || {
        waits.notified().await;
        "done"
    });
    let upstream = Upstream::start(router).await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    let service = gateway.key("backend", true).await;
    let hold = r#"{"credits":4,"id":"open","ttl_seconds":60}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let url = gateway.url("/api/ai/generate");
    let call = gateway.client.post(url).bearer_auth(token("alice")).body("{}").send();
    let call = tokio::spawn(call);
    let mut holds = Value::Null;
    let both = eventually(async || {
        holds = of_admin(&gateway, "/admin/holds?older_than=0").await;
        holds["holds"].as_array().unwrap().len() == 2
    });
    assert!(both.await, "{holds}");
    let (of_call, of_api) = (&holds["holds"][0], &holds["holds"][1]);
    assert_eq!((&of_call["origin"], &of_call["credits"]), (&json!("call"), &json!(5)));
    assert_eq!(
        (&of_call["account"], &of_call["route"]),
        (&json!("alice"), &json!("/api/ai/generate"))
    );
    let made = OffsetDateTime::parse(of_call["created_at"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!((OffsetDateTime::now_utc() - made).abs() < time::Duration::MINUTE);
    assert_eq!((&of_api["origin"], &of_api["id"]), (&json!("api"), &json!("open")));
    assert_eq!(of_api["created_at"], Value::Null);
    assert!(of_api["expires_at"].is_string());
    // A call that has just begun is not worth a look.
    let old = of_admin(&gateway, "/admin/holds").await;
    assert_eq!(old["holds"], json!([of_api]));
    assert_eq!(
        of_admin(&gateway, "/admin/overview").await["holds"],
        json!({ "live": 2, "stuck": 0 })
    );
    let first = of_admin(&gateway, "/admin/holds?older_than=0&limit=1").await;
    assert_eq!(first["holds"], json!([of_call]));
    for query in ["older_than=-1", "limit=x"] {
        let path = format!("/admin/holds?{query}");
        admin(&gateway, Method::GET, &path, "").await.problem(400, "BAD_REQUEST");
    }
    go.notify_one();
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    let settled = eventually(async || gateway.balance("alice").await["balance"] == 95);
    assert!(settled.await);
}

#[tokio::test]
async fn accounts_are_found_by_a_part_of_their_ids_those_that_begin_with_it_first() {
    let (_upstream, gateway) = shop().await;
    let hostile = ["a_b", "a%25b", "alic", "alicia", "Alice", "%3Cscript%3E", "a'--"];
    for account in hostile {
        gateway.grant(account, 1).await;
    }
    let found = async |query: &str| {
        let found = of_admin(&gateway, &format!("/admin/accounts?{query}")).await;
        let accounts = found["accounts"].as_array().unwrap().iter();
        accounts.map(|account| account["account"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("search=alic").await, ["alic", "alice", "alicia", "Alice"]);
    assert_eq!(found("search=alic&limit=1").await, ["alic"]);
    assert_eq!(found("search=alic&cursor=alic").await, ["alice", "alicia", "Alice"]);
    assert_eq!(found("search=alic&cursor=%20").await, ["Alice"], "where the first three end");
    assert_eq!(found("search=LIC").await, ["Alice", "alic", "alice", "alicia"]);
    assert_eq!(found("search=ci").await, ["alicia"]);
    assert_eq!(found("search=a_").await, ["a_b"]);
    assert_eq!(found("search=a%25").await, ["a%b"]);
    assert_eq!(found("search=a'").await, ["a'--"]);
    assert_eq!(found("search=%3Cscript").await, ["<script>"]);
    assert_eq!(found("search=nobody").await, [] as [String; 0]);
    assert_eq!(found("search=").await.len(), 8);
    assert_eq!(found("search=%C3%A9").await, [] as [String; 0], "no account is called é");
}

#[tokio::test]
async fn an_empty_cursor_or_limit_is_none() {
    let (_upstream, gateway) = shop().await;
    for (path, queries) in [
        ("/admin/accounts", &["cursor=", "limit=", "search=&limit=&cursor="][..]),
        ("/admin/accounts/alice/transactions", &["cursor=", "limit=", "limit=&cursor="]),
        ("/admin/entries", &["limit="]),
        ("/admin/holds", &["limit=", "older_than=&limit="]),
        ("/admin/stripe/events", &["cursor=", "limit=", "limit=&cursor="]),
    ] {
        let all = of_admin(&gateway, path).await;
        for query in queries {
            assert_eq!(of_admin(&gateway, &format!("{path}?{query}")).await, all, "{path} {query}");
        }
    }
}

#[tokio::test]
async fn transactions_are_of_the_time_that_was_asked_for() {
    let (_upstream, gateway) = shop().await;
    let alice = token("alice");
    post(&gateway, "/draw", &alice, "{}").await.expect(200);
    // A call is charged once its answer has ended, which the client may know before the ledger.
    let charged = async || {
        let all = get(&gateway, "/credits/transactions", &alice).await.expect(200);
        all["transactions"].as_array().unwrap().len() == 2
    };
    assert!(eventually(charged).await);
    let day = today();
    for (query, expected) in [
        (String::new(), 2),
        ("from=&to=".to_owned(), 2),
        (format!("from={day}"), 2),
        (format!("from={day}&to=2999-01-01"), 2),
        (format!("from={day}&to={day}&limit=1"), 1),
        ("from=2020-01-01T00:00:00%2B02:00".to_owned(), 2),
        ("to=2020-01-01".to_owned(), 0),
        ("from=2999-01-01".to_owned(), 0),
    ] {
        let own = get(&gateway, &format!("/credits/transactions?{query}"), &alice).await;
        let own = own.expect(200)["transactions"].as_array().unwrap().len();
        let path = format!("/admin/accounts/alice/transactions?{query}");
        let operators = of_admin(&gateway, &path).await["transactions"].as_array().unwrap().len();
        assert_eq!((own, operators), (expected, expected), "{query}");
    }
    for wrong in ["from=yesterday", "to=2026-13-01", "to=1", "from=2026-11-23T05:00"] {
        let answer = get(&gateway, &format!("/credits/transactions?{wrong}"), &alice).await;
        answer.problem(400, "BAD_REQUEST");
    }
}
