//! The admin listener.

use std::net::SocketAddr;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::{Answer, admin, get, pages, post, transactions};
use crate::support::{ADMIN_TOKEN, TestGateway, Upstream, config_with, token};

pub async fn gateway() -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    (upstream, gateway)
}

/// Sends a request target as it is: URL libraries resolve dot segments by themselves.
async fn raw(address: SocketAddr, method: &str, target: &str, body: &str) -> (u16, Value) {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn everything_but_health_and_metrics_needs_the_token() {
    let (_upstream, gateway) = gateway().await;
    let long = format!("{ADMIN_TOKEN}x");
    let lower = ADMIN_TOKEN.to_uppercase();
    let service = gateway.key("backend", true).await;
    for (method, path) in [
        (Method::GET, "/admin/accounts"),
        (Method::GET, "/admin/accounts/alice"),
        (Method::GET, "/admin/accounts/alice/transactions"),
        (Method::POST, "/admin/accounts/alice/grants"),
        (Method::POST, "/admin/accounts/alice/adjustments"),
        (Method::POST, "/admin/accounts/alice/keys"),
        (Method::GET, "/admin/accounts/alice/keys"),
        (Method::DELETE, "/admin/keys/x"),
        (Method::POST, "/admin/keys/import"),
        (Method::POST, "/admin/captures/x/refund"),
        (Method::POST, "/admin/import"),
        (Method::GET, "/admin/reconcile"),
        (Method::POST, "/admin/fold"),
        (Method::GET, "/admin/nothing"),
    ] {
        let ask = || {
            let request = gateway.client.request(method.clone(), gateway.admin_url(path));
            request.body(r#"{"credits":1,"id":"x"}"#)
        };
        Answer::of(ask()).await.problem(401, "UNAUTHENTICATED");
        let jwt = token("alice");
        // At once: each of them waits.
        let wrong = ["", "x", &ADMIN_TOKEN[1..], &long, &lower, &jwt, &service];
        let answers = wrong.map(|wrong| Answer::of(ask().bearer_auth(wrong)));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status, 401, "{method} {path}");
        }
        let basic = Answer::of(ask().header("authorization", format!("Basic {ADMIN_TOKEN}"))).await;
        assert_eq!(basic.status, 401);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = Answer::of(gateway.client.get(gateway.admin_url(path))).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    // The public port serves none of these paths.
    for path in ["/admin/accounts", "/healthz", "/readyz", "/metrics"] {
        let request = gateway.client.get(gateway.url(path)).bearer_auth(ADMIN_TOKEN);
        assert_eq!(Answer::of(request).await.status, 401, "{path}");
        get(&gateway, path, &token("alice")).await.problem(404, "NO_PRICE_RULE");
    }
    let list = gateway.admin(Method::GET, "/admin/accounts", None).await;
    assert_eq!(list["accounts"].as_array().unwrap().len(), 2, "backend and alice: {list}");
}

#[tokio::test]
async fn a_grant_takes_effect_once() {
    let (_upstream, gateway) = gateway().await;
    let grant = async |account: &str, body: &str| {
        admin(&gateway, Method::POST, &format!("/admin/accounts/{account}/grants"), body).await
    };
    let gift = r#"{"credits":100,"id":"gift-7","reason":"a gift"}"#;
    let first = grant("alice", gift).await;
    assert!(first.status.is_success(), "{}", first.text);
    post(&gateway, "/api/ai/generate", &token("alice"), "").await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 95);
    let again = grant("alice", gift).await;
    assert_eq!((first.status, first.json()), (again.status, again.json()), "the same answer");
    assert_eq!(gateway.settled_balance("alice").await, 95);
    let many = futures_util::future::join_all(
        (0..50).map(|_| grant("alice", r#"{"credits":1,"id":"gift-8"}"#)),
    );
    let many: Vec<Value> = many.await.iter().map(|answer| answer.expect(200)).collect();
    assert!(many.iter().all(|answer| *answer == many[0]));
    assert_eq!(gateway.settled_balance("alice").await, 96);

    for (account, body) in
        [("alice", r#"{"credits":101,"id":"gift-7","reason":"a gift"}"#), ("bob", gift)]
    {
        grant(account, body).await.problem(409, "IDEMPOTENCY_CONFLICT");
    }
    assert_eq!(gateway.settled_balance("alice").await, 96);
    // A refused grant makes no account.
    let bob = admin(&gateway, Method::GET, "/admin/accounts/bob", "").await;
    bob.problem(404, "NOT_FOUND");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn an_adjustment_makes_no_account() {
    let (_upstream, gateway) = gateway().await;
    for credits in [5, -5] {
        let body = format!(r#"{{"credits":{credits},"id":"slip"}}"#);
        let path = "/admin/accounts/alcie/adjustments";
        admin(&gateway, Method::POST, path, &body).await.problem(404, "NOT_FOUND");
    }
    let path = "/admin/accounts/alcie";
    admin(&gateway, Method::GET, path, "").await.problem(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_debt_refuses_calls_until_a_grant_has_paid_it() {
    let (upstream, gateway) = gateway().await;
    gateway.grant("alice", 10).await;
    let adjust = r#"{"credits":-100,"id":"oops","reason":"a mistake"}"#;
    for _ in 0..2 {
        let path = "/admin/accounts/alice/adjustments";
        let adjusted = admin(&gateway, Method::POST, path, adjust).await;
        assert!(adjusted.status.is_success(), "{}", adjusted.text);
    }
    let balance = gateway.balance("alice").await;
    assert_eq!((&balance["balance"], &balance["low"]), (&json!(-90), &json!(true)));
    let refused = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    let refused = refused.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(refused["available"], -90);
    gateway.grant("alice", 90).await;
    let refused = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    assert_eq!(refused.problem(402, "INSUFFICIENT_CREDITS")["available"], 0);
    gateway.grant("alice", 5).await;
    assert_eq!(upstream.seen().len(), 0);
    post(&gateway, "/api/ai/generate", &token("alice"), "").await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 0);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_capture_is_refunded_once() {
    let (_upstream, gateway) = gateway().await;
    gateway.grant("alice", 10).await;
    let call = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    let id = call.header("x-request-id").to_owned();
    assert_eq!(gateway.settled_balance("alice").await, 5);
    let refund = async |id: &str, body: &str| {
        admin(&gateway, Method::POST, &format!("/admin/captures/{id}/refund"), body).await
    };
    let first = refund(&id, r#"{"reason":"it was slow"}"#).await.expect(200);
    let again = refund(&id, r#"{"reason":"it was slow"}"#).await.expect(200);
    assert_eq!(first, again);
    refund(&id, "").await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 10);
    refund("unknown", "").await.problem(404, "NOT_FOUND");
    let lines = transactions(&gateway, "alice").await;
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["kind"], "refund");
    assert_eq!(lines[0]["amount"], 5);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn accounts_are_listed_page_by_page() {
    let (_upstream, gateway) = gateway().await;
    let mut names: Vec<String> = (0..73).map(|n| format!("account-{n:03}")).collect();
    names.extend(["a/b", "z?x=1&y", "50%", "#", "ALICE"].map(str::to_owned));
    for (n, name) in names.iter().enumerate() {
        let segment =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        let body = format!(r#"{{"credits":{},"id":"g-{n}"}}"#, n + 1);
        let path = format!("/admin/accounts/{segment}/grants");
        assert!(admin(&gateway, Method::POST, &path, &body).await.status.is_success(), "{name}");
    }
    let page = async |cursor: Option<String>| {
        let mut url = reqwest::Url::parse(&gateway.admin_url("/admin/accounts?limit=10")).unwrap();
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", &cursor);
        }
        let page = Answer::of(gateway.client.get(url).bearer_auth(ADMIN_TOKEN)).await.expect(200);
        assert!(page["accounts"].as_array().unwrap().len() <= 10);
        page
    };
    let all = pages(page, "accounts").await;
    let mut listed: Vec<&str> = all.iter().map(|a| a["account"].as_str().unwrap()).collect();
    listed.sort_unstable();
    names.sort_unstable();
    assert_eq!(listed, names);
    let sum: u64 = all.iter().map(|a| a["balance"].as_u64().unwrap()).sum();
    assert_eq!(sum, (1..=78).sum::<u64>());
}

#[tokio::test]
async fn odd_account_ids_are_taken_percent_encoded_or_refused() {
    let (upstream, gateway) = gateway().await;
    let address = gateway.gateway.addresses().admin;
    for (n, (id, segment)) in [
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".", "%2e"),
        ("a%2Fb", "a%252Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("auth0|5f7c", "auth0%7C5f7c"),
        ("x@y.example", "x@y.example"),
        ("grants", "grants"),
        ("a+b", "a+b"),
        ("\"'<>\\", "%22%27%3C%3E%5C"),
        (&*"x".repeat(255), &*"x".repeat(255)),
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!(r#"{{"credits":10,"id":"g-{n}"}}"#);
        let target = format!("/admin/accounts/{segment}/grants");
        let (status, granted) = raw(address, "POST", &target, &body).await;
        assert!((200..300).contains(&status), "{id}: {status} {granted}");
        assert_eq!(granted["account"], id);
        let (_, shown) = raw(address, "GET", &format!("/admin/accounts/{segment}"), "").await;
        assert_eq!((&shown["account"], &shown["balance"]), (&json!(id), &json!(10)), "{shown}");
        post(&gateway, "/api/ai/generate", &token(id), "").await.expect(200);
        assert_eq!(upstream.seen().last().unwrap().header("x-farebox-account"), Some(id));
        assert_eq!(gateway.settled_balance(id).await, 5);
        let target = format!("/admin/accounts/{segment}/transactions");
        let (_, lines) = raw(address, "GET", &target, "").await;
        assert_eq!(lines["transactions"].as_array().unwrap().len(), 2, "{lines}");
    }
    let accounts = gateway.admin(Method::GET, "/admin/accounts", None).await;
    let before = accounts["accounts"].as_array().unwrap().len();
    let long = "x".repeat(256);
    for segment in ["%C3%BC", "a%20b", "%20", "%00", "%7F", "a%0Ab", "%FF", &long] {
        let target = format!("/admin/accounts/{segment}/grants");
        let (status, _) = raw(address, "POST", &target, r#"{"credits":1,"id":"odd"}"#).await;
        assert_eq!(status, 400, "{segment}");
        let (status, _) = raw(address, "GET", &format!("/admin/accounts/{segment}"), "").await;
        assert_eq!(status, 400, "{segment}");
    }
    let (status, _) = raw(address, "POST", "/admin/accounts//grants", "{}").await;
    assert!(status == 400 || status == 404, "{status}");
    let accounts = gateway.admin(Method::GET, "/admin/accounts", None).await;
    assert_eq!(accounts["accounts"].as_array().unwrap().len(), before);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn amounts_that_make_no_sense_change_nothing() {
    let (_upstream, gateway) = gateway().await;
    gateway.grant("alice", 10).await;
    for amount in [
        "-5",
        "0",
        "NaN",
        "Infinity",
        "1e3",
        "1E3",
        "0.0000001",
        "99999999999999999999",
        "9007199254.740993",
        "null",
        "true",
        "[5]",
        "{}",
        "\"\"",
        "\"abc\"",
        "\"-5\"",
        "\"1e3\"",
        "-0",
        "0.0",
        "05",
        "+5",
        "0x10",
        "5.",
        ".5",
        "\"5 \"",
        "\"\\\"5\\\"\"",
    ] {
        let body = format!(r#"{{"credits":{amount},"id":"odd"}}"#);
        let answer = admin(&gateway, Method::POST, "/admin/accounts/alice/grants", &body).await;
        assert!(answer.status.is_client_error(), "{amount}: {} {}", answer.status, answer.text);
        answer.problem(answer.status.as_u16(), "BAD_REQUEST");
    }
    for amount in ["0", "-0", "NaN", "-1e3", "-99999999999999999999", "\"x\"", "null"] {
        let body = format!(r#"{{"credits":{amount},"id":"odd"}}"#);
        let path = "/admin/accounts/alice/adjustments";
        let answer = admin(&gateway, Method::POST, path, &body).await;
        assert!(answer.status.is_client_error(), "{amount}: {} {}", answer.status, answer.text);
    }
    for body in [
        r#"{"credits":5}"#,
        r#"{"credits":5,"id":""}"#,
        r#"{"credits":5,"id":7}"#,
        r#"{"credits":5,"id":"a b"}"#,
        r#"{"id":"odd"}"#,
        r#"{"credits":5,"credits":6,"id":"odd"}"#,
        "[]",
        "",
    ] {
        let answer = admin(&gateway, Method::POST, "/admin/accounts/alice/grants", body).await;
        answer.problem(400, "BAD_REQUEST");
    }
    assert_eq!(gateway.settled_balance("alice").await, 10);
    assert_eq!(transactions(&gateway, "alice").await.len(), 1);

    // The largest sum that can be counted, and not one more.
    let most = r#"{"credits":9007199254.740992,"id":"most"}"#;
    let path = "/admin/accounts/rich/grants";
    admin(&gateway, Method::POST, path, most).await.expect(200);
    let more = r#"{"credits":0.000001,"id":"more"}"#;
    let more = admin(&gateway, Method::POST, path, more).await;
    assert!(more.status.is_client_error(), "{}", more.text);
    let rich = admin(&gateway, Method::GET, "/admin/accounts/rich", "").await;
    assert!(rich.text.contains(r#""balance":9007199254.740992"#), "{}", rich.text);
    // A decimal as text is exact as well; the "id" stays free after a refusal.
    let text = r#"{"credits":"0.25","id":"odd"}"#;
    let text = admin(&gateway, Method::POST, "/admin/accounts/alice/grants", text).await;
    assert_eq!(text.expect(200)["balance_after"], 10.25);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_key_is_shown_once() {
    let (_upstream, gateway) = gateway().await;
    let body = r#"{"name":"phone","service":false}"#;
    let made = admin(&gateway, Method::POST, "/admin/accounts/alice/keys", body).await;
    assert!(made.status.is_success());
    assert!(made.json()["id"].is_string());
    let key = made.json()["key"].as_str().unwrap().to_owned();
    admin(&gateway, Method::POST, "/admin/accounts/alice/keys", "").await;
    let list = admin(&gateway, Method::GET, "/admin/accounts/alice/keys", "").await;
    let listed = list.expect(200);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2, "{listed}");
    assert!(!list.text.contains(&key), "{}", list.text);
    let phone = listed["keys"].as_array().unwrap().iter().find(|k| k["name"] == "phone").unwrap();
    assert_eq!(phone["id"], made.json()["id"]);
    assert_eq!(phone["service"], false);
    let other = admin(&gateway, Method::GET, "/admin/accounts/bob/keys", "").await.expect(200);
    assert_eq!(other["keys"], json!([]));
    let unknown = admin(&gateway, Method::DELETE, "/admin/keys/key_unknown", "").await;
    unknown.problem(404, "NOT_FOUND");
    let path = format!("/admin/keys/{}", made.json()["id"].as_str().unwrap());
    for _ in 0..2 {
        let revoked = admin(&gateway, Method::DELETE, &path, "").await;
        assert!(revoked.status.is_success(), "{}", revoked.text);
    }
    // An account exists from its first key on.
    let alice = admin(&gateway, Method::GET, "/admin/accounts/alice", "").await.expect(200);
    assert_eq!(alice["balance"], 0);
}

#[tokio::test]
async fn the_health_listener_says_nothing_else() {
    let upstream = Upstream::canned().await;
    let server = "health = \"127.0.0.1:0\"";
    let gateway = TestGateway::start(&config_with(upstream.address, server, "", "")).await;
    let health = gateway.gateway.addresses().health.unwrap();
    let ask = async |path: &str| {
        let url = format!("http://{health}{path}");
        Answer::of(gateway.client.get(url).bearer_auth(ADMIN_TOKEN)).await
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(path).await.status, 200, "{path}");
    }
    assert!(ask("/metrics").await.header("content-type").starts_with("text/plain"));
    for path in ["/admin/accounts", "/admin/reconcile", "/credits/balance", "/"] {
        assert_eq!(ask(path).await.status, 404, "{path}");
    }
    assert!(gateway.gateway.stop().await);
}

#[tokio::test]
async fn reconcile_says_what_it_looked_at() {
    let (_upstream, gateway) = gateway().await;
    gateway.grant("alice", 100).await;
    post(&gateway, "/api/ai/generate", &token("alice"), "").await.expect(200);
    gateway.settled_balance("alice").await;
    let report = gateway.admin(Method::GET, "/admin/reconcile", None).await;
    assert_eq!(report["clean"], true);
    assert_eq!(report["accounts"], 1);
    assert_eq!(report["entries"], 2);
    assert_eq!(report["live_holds"], 0);
    assert_eq!(report["differences"], json!([]));
}

#[tokio::test]
async fn what_is_folded_still_counts_and_still_counts_once() {
    let (_upstream, gateway) = gateway().await;
    let path = "/admin/accounts/alice/grants";
    let gift = r#"{"credits":100,"id":"gift-7","reason":"a gift"}"#;
    let first = admin(&gateway, Method::POST, path, gift).await.expect(200);
    let mut calls = Vec::new();
    for _ in 0..3 {
        let call = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
        calls.push(call.header("x-request-id").to_owned());
    }
    assert_eq!(gateway.settled_balance("alice").await, 85);
    let early =
        admin(&gateway, Method::POST, "/admin/fold", r#"{"before":"2999-01-01T00:00:00Z"}"#);
    early.await.problem(400, "BAD_REQUEST");
    // A moment later, so that all of it is older than the moment named.
    let folded = crate::support::eventually(async || {
        let at = time::OffsetDateTime::now_utc();
        let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
        let body = json!({ "before": at }).to_string();
        admin(&gateway, Method::POST, "/admin/fold", &body).await.expect(200);
        transactions(&gateway, "alice").await.len() == 1
    });
    assert!(folded.await);
    gateway.assert_reconciled().await;
    let lines = transactions(&gateway, "alice").await;
    assert_eq!((&lines[0]["amount"], &lines[0]["balance_after"]), (&json!(85), &json!(85)));

    let again = admin(&gateway, Method::POST, path, gift).await.expect(200);
    for key in ["account", "credits", "id"] {
        assert_eq!(again[key], first[key], "{again}");
    }
    // Rows that are gone are not made up.
    assert_eq!((&again["balance_after"], &again["created_at"]), (&Value::Null, &Value::Null));
    let other = r#"{"credits":101,"id":"gift-7"}"#;
    admin(&gateway, Method::POST, path, other).await.problem(409, "IDEMPOTENCY_CONFLICT");
    assert_eq!(gateway.settled_balance("alice").await, 85);
    let refund = format!("/admin/captures/{}/refund", calls[0]);
    for _ in 0..2 {
        admin(&gateway, Method::POST, &refund, "").await.expect(200);
        assert_eq!(gateway.settled_balance("alice").await, 90);
    }
    gateway.assert_reconciled().await;
}
