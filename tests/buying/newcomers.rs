//! The sign-up grant goes to an account that comes to exist by itself, not to one that was imported.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::shop::Shop;
use crate::support::token;

on_both_ledgers!(
    a_key_that_is_made_for_a_newcomer_gives_the_sign_up_grant_once,
    an_account_that_a_service_key_names_first_gets_the_sign_up_grant,
    what_is_brought_over_or_given_by_hand_is_all_that_there_is,
);

const SIGNUP: &str = "\n[credits]\nsignup_grant = 12\n";

async fn open(backend: Backend) -> Shop {
    Shop::open_with(backend, SIGNUP).await
}

async fn make_key(shop: &Shop, account: &str, service: bool) -> String {
    let body = json!({ "name": "made", "service": service }).to_string();
    let path = format!("/admin/accounts/{account}/keys");
    let made = shop.gateway.admin(Method::POST, &path, &body).await;
    made.expect(201)["key"].as_str().unwrap().to_owned()
}

/// The balance that an account sees with this credential.
async fn balance(shop: &Shop, credential: &str) -> Value {
    let request = shop.gateway.client.get(shop.gateway.url("/credits/balance"));
    Answer::of(request.bearer_auth(credential)).await.expect(200)["balance"].clone()
}

async fn granted_for_signing_up(shop: &Shop) -> f64 {
    shop.metric("farebox_credits_granted_total{source=\"signup\"}").await
}

async fn a_key_that_is_made_for_a_newcomer_gives_the_sign_up_grant_once(backend: Backend) {
    let mut shop = open(backend).await;
    let ((first, second), jwt) = tokio::join!(
        async { tokio::join!(make_key(&shop, "alice", false), make_key(&shop, "alice", false)) },
        async { balance(&shop, &token("alice")).await },
    );
    assert_eq!(jwt, 12, "whoever comes first");
    for credential in [first, second, token("alice")] {
        assert_eq!(balance(&shop, &credential).await, 12);
    }
    let made = make_key(&shop, "bob", false).await;
    assert_eq!(balance(&shop, &made).await, 12, "without any token");
    assert_eq!(balance(&shop, &token("bob")).await, 12);
    assert_eq!(granted_for_signing_up(&shop).await, 24.0);
    shop.crash();
    make_key(&shop, "alice", false).await;
    assert_eq!(balance(&shop, &token("alice")).await, 12);
    let lines = shop.gateway.transactions("alice").await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    shop.close().await;
}

async fn an_account_that_a_service_key_names_first_gets_the_sign_up_grant(backend: Backend) {
    let mut shop = open(backend).await;
    let service = make_key(&shop, "backend", true).await;
    let ask = |shop: &Shop, path: &str, account: &str, body: Value| {
        let request = shop.gateway.client.post(shop.gateway.url(path)).bearer_auth(&service);
        let request = request.header("x-farebox-account", account).body(body.to_string());
        async { Answer::of(request.timeout(Duration::from_secs(30))).await }
    };
    // Twelve credits are two holds of five, however many ask at once.
    let holds = (0..10).map(|n| json!({ "credits": 5, "id": format!("job-{n}") }));
    let holds = holds.map(|hold| ask(&shop, "/credits/holds", "carol", hold));
    let answers = futures_util::future::join_all(holds).await;
    let held = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(held, 2, "{:?}", answers.iter().map(|a| &a.text).collect::<Vec<_>>());
    // A call through the proxy opens the account too.
    ask(&shop, "/api/ai/generate", "dave", json!({})).await.expect(200);
    assert_eq!(balance(&shop, &token("dave")).await, 7);
    assert_eq!(balance(&shop, &token("carol")).await, 12);
    assert_eq!(granted_for_signing_up(&shop).await, 24.0, "a backend is nobody's customer");
    shop.crash();
    ask(&shop, "/api/ai/generate", "dave", json!({})).await.expect(200);
    assert_eq!(balance(&shop, &token("dave")).await, 2);
    shop.close().await;
}

async fn what_is_brought_over_or_given_by_hand_is_all_that_there_is(backend: Backend) {
    let shop = open(backend).await;
    let hash = farebox::ledger::KeyHash::of("sk-of-the-old-gateway").to_string();
    let keys = json!({ "keys": [{ "account": "old", "hash": hash }] }).to_string();
    shop.gateway.admin(Method::POST, "/admin/keys/import", &keys).await.expect(200);
    let row = json!({ "credits": 7, "id": "row-1", "source": "import" }).to_string();
    shop.gateway.admin(Method::POST, "/admin/accounts/older/grants", &row).await.expect(200);
    shop.gateway.grant("guest", 100, "welcome").await;
    for (account, credits) in [("old", 0), ("older", 7), ("guest", 100)] {
        make_key(&shop, account, false).await;
        assert_eq!(balance(&shop, &token(account)).await, credits, "{account}");
    }
    assert_eq!(balance(&shop, "sk-of-the-old-gateway").await, 0);
    assert_eq!(granted_for_signing_up(&shop).await, 0.0);
    shop.close().await;
}
