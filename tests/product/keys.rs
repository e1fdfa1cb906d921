//! The keys that an account makes for itself.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::http::{Answer, admin, ask, get, post};
use crate::process::{Process, config_on_ports};
use crate::support::{TestGateway, Upstream, token};

async fn shop() -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    (upstream, gateway)
}

async fn make(gateway: &TestGateway, credential: &str, name: &str) -> Value {
    let body = json!({ "name": name }).to_string();
    post(gateway, "/credits/keys", credential, &body).await.expect(201)
}

async fn list(gateway: &TestGateway, credential: &str) -> Vec<Value> {
    let keys = get(gateway, "/credits/keys", credential).await.expect(200);
    keys["keys"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_key_is_made_shown_once_used_and_revoked() {
    let (_upstream, gateway) = shop().await;
    gateway.grant("alice", 10).await;
    let alice = token("alice");
    assert_eq!(list(&gateway, &alice).await, [] as [Value; 0]);
    let made = make(&gateway, &alice, " laptop ").await;
    assert_eq!(made["name"], "laptop");
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("fb_"), "{made}");
    let listed = list(&gateway, &alice).await;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["name"]), (&made["id"], &json!("laptop")));
    assert!(listed[0]["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(!listed[0].to_string().contains(key), "shown once");
    post(&gateway, "/api/ai/generate", key, "{}").await.expect(200);
    assert_eq!(get(&gateway, "/credits/balance", key).await.expect(200)["account"], "alice");

    let path = format!("/credits/keys/{}", made["id"].as_str().unwrap());
    for _ in 0..2 {
        ask(&gateway, Method::DELETE, &path, &alice, "").await.expect(204);
    }
    assert_eq!(list(&gateway, &alice).await.len(), 0);
    post(&gateway, "/api/ai/generate", key, "{}").await.problem(401, "UNAUTHENTICATED");
    let stored = gateway.admin(Method::GET, "/admin/accounts/alice/keys", None).await;
    assert!(stored["keys"][0]["revoked_at"].is_string(), "{stored}");
}

/// An account may make a hundred keys a day, and what is revoked is kept for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_revoked_long_ago_cost_the_account_page_nothing() {
    let upstream = Upstream::canned().await;
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 10, "gift").await;
    assert!(gateway.terminate().success());
    let file = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let mut on = sqlx::SqliteConnection::connect(&file).await.unwrap();
    let many = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000) \
        INSERT INTO api_keys (id, hash, account, name, service, hint, created_at, revoked_at) \
        SELECT 'key_' || n, randomblob(32), 'alice', 'old', 0, 'fb_', n, n + 1 FROM n";
    on.execute(many).await.unwrap();
    on.close().await.unwrap();
    let gateway = Process::serve(folder.path(), &text);
    let ask = async |method: Method, path: &str, body: &'static str| {
        let started = Instant::now();
        let request = gateway.client.request(method, gateway.url(path)).bearer_auth(token("alice"));
        let answer = Answer::of(request.body(body)).await;
        assert!(started.elapsed() < Duration::from_millis(500), "{path}: {:?}", started.elapsed());
        answer
    };
    let made = ask(Method::POST, "/credits/keys", r#"{"name":"new"}"#).await.expect(201);
    let listed = ask(Method::GET, "/credits/keys", "").await.expect(200);
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1, "{listed}");
    let path = format!("/credits/keys/{}", made["id"].as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(ask(Method::DELETE, &path, "").await.status, 204);
    }
}

#[tokio::test]
async fn a_key_that_leaked_neither_makes_nor_revokes_another() {
    let (_upstream, gateway) = shop().await;
    let made = make(&gateway, &token("alice"), "leaked").await;
    let leaked = made["key"].as_str().unwrap();
    let service = gateway.key("alice", true).await;
    let path = format!("/credits/keys/{}", made["id"].as_str().unwrap());
    for credential in [leaked, &service] {
        let refused = post(&gateway, "/credits/keys", credential, r#"{"name":"more"}"#).await;
        refused.problem(403, "FORBIDDEN");
        ask(&gateway, Method::DELETE, &path, credential, "").await.problem(403, "FORBIDDEN");
    }
    assert_eq!(list(&gateway, leaked).await.len(), 1);
    post(&gateway, "/credits/keys", "fb_x", r#"{"name":"x"}"#)
        .await
        .problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn another_accounts_key_and_the_operators_are_not_there() {
    let (_upstream, gateway) = shop().await;
    let bobs = make(&gateway, &token("bob"), "bob's").await;
    let service = gateway.key("alice", true).await;
    let keys = gateway.admin(Method::GET, "/admin/accounts/alice/keys", None).await;
    let service_id = keys["keys"][0]["id"].as_str().unwrap();
    for id in [bobs["id"].as_str().unwrap(), service_id, "key_nothing", "%2e%2e", "a%20b"] {
        let path = format!("/credits/keys/{id}");
        let answer = ask(&gateway, Method::DELETE, &path, &token("alice"), "").await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{id}: {}", answer.text);
    }
    assert_eq!(list(&gateway, &token("alice")).await.len(), 0, "nor is it listed");
    for key in [bobs["key"].as_str().unwrap(), &service] {
        get(&gateway, "/credits/balance", key).await.expect(200);
    }
}

#[tokio::test]
async fn names_are_kept_as_they_are_within_a_clear_limit() {
    let (_upstream, gateway) = shop().await;
    let alice = token("alice");
    let longest = "é".repeat(100);
    for name in
        ["<script>alert(1)</script>", "\u{202e}evil", "'; DROP TABLE api_keys; --", &longest]
    {
        assert_eq!(make(&gateway, &alice, name).await["name"], name);
    }
    assert_eq!(list(&gateway, &alice).await[0]["name"], "<script>alert(1)</script>");
    let refused = ["x".repeat(101), "x".repeat(10_000), String::new(), "  ".into(), "a\nb".into()];
    for name in refused {
        let body = json!({ "name": name }).to_string();
        let refused = post(&gateway, "/credits/keys", &alice, &body).await;
        let detail = refused.problem(400, "BAD_REQUEST")["detail"].to_string();
        assert!(detail.contains("100 characters"), "{detail}");
    }
    for body in ["{}", r#"{"name":5}"#, "[]", "laptop"] {
        post(&gateway, "/credits/keys", &alice, body).await.problem(400, "BAD_REQUEST");
    }
    assert_eq!(list(&gateway, &alice).await.len(), 4);
}

#[tokio::test]
async fn an_account_has_twenty_live_keys_at_most_however_fast_it_asks() {
    let (_upstream, gateway) = shop().await;
    let alice = token("alice");
    let attempts = (0..30).map(|n| {
        let body = json!({ "name": format!("key {n}") }).to_string();
        let alice = &alice;
        let gateway = &gateway;
        async move { post(gateway, "/credits/keys", alice, &body).await }
    });
    let mut working = 0;
    for answer in futures_util::future::join_all(attempts).await {
        match answer.status.as_u16() {
            201 => {
                let key = answer.json()["key"].as_str().unwrap().to_owned();
                get(&gateway, "/credits/balance", &key).await.expect(200);
                working += 1;
            }
            _ => drop(answer.problem(422, "BAD_REQUEST")),
        }
    }
    assert!(working <= 20, "{working}");
    let live = list(&gateway, &alice).await;
    assert_eq!(live.len(), working);
    for key in live {
        let path = format!("/admin/keys/{}", key["id"].as_str().unwrap());
        admin(&gateway, Method::DELETE, &path, "").await.expect(204);
    }
    make(&gateway, &alice, "room again").await;
    // Revoked keys count towards the hundred a day as well.
    let mut status = 201;
    for n in 0..100 {
        let answer = post(&gateway, "/credits/keys", &alice, r#"{"name":"again"}"#).await;
        status = answer.status.as_u16();
        if status != 201 {
            assert!(n < 80, "{n}");
            answer.problem(429, "RATE_LIMITED");
            break;
        }
        let path = format!("/credits/keys/{}", answer.json()["id"].as_str().unwrap());
        ask(&gateway, Method::DELETE, &path, &alice, "").await.expect(204);
    }
    assert_eq!(status, 429);
    make(&gateway, &token("bob"), "another account's").await;
}
