//! Identification of callers, over HTTP.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http::{Answer, admin, get, plain_client, post, transactions};
use crate::support::{ADMIN_TOKEN, JWT_SECRET, TestGateway, Upstream, token};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hs256(secret: &str, claims: Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

fn unsigned(header: Value, claims: Value) -> String {
    use base64::Engine as _;
    let part =
        |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

#[tokio::test]
async fn tokens_of_two_issuers_are_held_to_their_rules() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = pair.public_key_pem();
    let file = folder.path().join("issuer.pem");
    std::fs::write(&file, &public).unwrap();
    let upstream = Upstream::canned().await;
    let issuer = format!(
        "[[auth.jwt]]\nalgorithms = [\"EdDSA\"]\npublic_key_file = {file:?}\n\
         issuer = \"https://login.test\"\naudience = \"farebox\"\naccount_claim = \"account\"\n"
    );
    let gateway = TestGateway::before(&upstream, &issuer).await;
    let eddsa = |claims: Value| {
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
    };
    let good = json!({
        "account": "carol", "sub": "not-this", "exp": now() + 600,
        "iss": "https://login.test", "aud": ["other", "farebox"],
    });
    let with = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        claims
    };
    let account = async |credential: &str| {
        get(&gateway, "/credits/balance", credential).await.expect(200)["account"].clone()
    };
    assert_eq!(account(&token("alice")).await, "alice");
    assert_eq!(account(&eddsa(good.clone())).await, "carol");
    assert_eq!(account(&eddsa(with("nbf", json!(now() - 1)))).await, "carol");

    let claims = |more: Value| {
        let mut claims = json!({ "sub": "alice", "exp": now() + 600 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let mut expired = token("alice");
    expired.truncate(expired.len() - 2);
    for (why, bad) in [
        ("expired", hs256(JWT_SECRET, claims(json!({ "exp": now() - 600 })))),
        ("no exp", hs256(JWT_SECRET, json!({ "sub": "alice" }))),
        ("not yet", hs256(JWT_SECRET, claims(json!({ "nbf": now() + 600 })))),
        ("no account", hs256(JWT_SECRET, json!({ "exp": now() + 600 }))),
        ("odd account", hs256(JWT_SECRET, claims(json!({ "sub": "a b" })))),
        ("empty account", hs256(JWT_SECRET, claims(json!({ "sub": "" })))),
        ("another secret", hs256(&"x".repeat(40), claims(json!({})))),
        ("the public key as a secret", hs256(&public, good.clone())),
        ("none", unsigned(json!({ "alg": "none", "typ": "JWT" }), claims(json!({})))),
        ("HS256 without a signature", unsigned(json!({ "alg": "HS256" }), claims(json!({})))),
        ("cut", expired),
        ("another audience", eddsa(with("aud", json!("other")))),
        ("another issuer", eddsa(with("iss", json!("https://evil.test")))),
        ("no issuer", eddsa(with("iss", Value::Null))),
        ("expired EdDSA", eddsa(with("exp", json!(now() - 600)))),
        ("HS256 for the other issuer", hs256(JWT_SECRET, json!({ "account": "carol" }))),
        ("empty", String::new()),
        ("dots", "a.b.c".to_owned()),
        ("long", "x".repeat(20_000)),
    ] {
        for path in ["/credits/balance", "/api/ai/generate"] {
            let method = if path.starts_with("/credits") { Method::GET } else { Method::POST };
            let answer = crate::http::ask(&gateway, method, path, &bad, "").await;
            assert_eq!(answer.status, 401, "{why}: {}", answer.text);
            answer.problem(401, "UNAUTHENTICATED");
            assert!(bad.is_empty() || !answer.text.contains(&bad), "{why}: it is repeated");
        }
    }
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn an_api_key_works_where_the_sdks_put_it() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    let key = gateway.key("alice", false).await;
    let other = gateway.key("bob", false).await;
    assert!(key.starts_with("fb_") && key.len() >= 3 + 22, "128 random bits or more: {key}");
    let bearer = format!("Bearer {key}");
    let places = [
        ("authorization", bearer.as_str()),
        ("x-api-key", key.as_str()),
        ("api-key", key.as_str()),
        ("x-goog-api-key", key.as_str()),
    ];
    for (name, value) in places {
        let request = gateway.client.post(gateway.url("/api/ai/generate"));
        Answer::of(request.header(name, value)).await.expect(200);
        let request = gateway.client.get(gateway.url("/credits/balance"));
        let balance = Answer::of(request.header(name, value)).await.expect(200);
        assert_eq!(balance["account"], "alice", "{name}");
    }
    // The key is not forwarded.
    for seen in upstream.seen() {
        for (name, value) in &seen.headers {
            assert!(!value.to_str().unwrap_or("").contains(&key), "{name}");
        }
        assert_eq!(seen.header("x-farebox-account"), Some("alice"));
    }
    // Two credentials differ, and Farebox must not guess who pays.
    let request = gateway.client.get(gateway.url("/credits/balance")).bearer_auth(&key);
    Answer::of(request.header("x-api-key", &other)).await.problem(401, "UNAUTHENTICATED");
    let last = if key.ends_with('x') { 'y' } else { 'x' };
    let wrong = format!("{}{last}", &key[..key.len() - 1]);
    get(&gateway, "/credits/balance", &wrong).await.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_stays_so() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    let made = admin(&gateway, Method::POST, "/admin/accounts/alice/keys", r#"{"name":"k"}"#).await;
    assert!(made.status.is_success(), "{}", made.text);
    let (id, key) = (made.json()["id"].clone(), made.json()["key"].clone());
    let (id, key) = (id.as_str().unwrap(), key.as_str().unwrap());
    get(&gateway, "/credits/balance", key).await.expect(200);
    let revoke = admin(&gateway, Method::DELETE, &format!("/admin/keys/{id}"), "").await;
    assert!(revoke.status.is_success(), "{}", revoke.text);
    get(&gateway, "/credits/balance", key).await.problem(401, "UNAUTHENTICATED");
    post(&gateway, "/api/ai/generate", key, "").await.problem(401, "UNAUTHENTICATED");

    let text = crate::support::config_text(upstream.address, "");
    let gateway = TestGateway::start_in(gateway.stop().await, &text).await;
    get(&gateway, "/credits/balance", key).await.problem(401, "UNAUTHENTICATED");
    let listed = admin(&gateway, Method::GET, "/admin/accounts/alice/keys", "").await.expect(200);
    assert!(listed["keys"][0]["revoked_at"].is_string(), "{listed}");
}

#[tokio::test]
async fn an_imported_hash_keeps_a_customer_s_key() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    let key = "sk-of-another-gateway-0123456789";
    let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({ "keys": [{ "account": "alice", "hash": hash, "name": "old" }] }).to_string();
    let import = async || admin(&gateway, Method::POST, "/admin/keys/import", &body).await;
    assert_eq!(import().await.expect(200)["imported"], 1);
    assert_eq!(import().await.expect(200)["imported"], 0);
    let balance = get(&gateway, "/credits/balance", key).await.expect(200);
    assert_eq!(balance["account"], "alice");
}

#[tokio::test]
async fn keys_can_be_switched_off() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "[auth.api_keys]\nenabled = false").await;
    let key = gateway.key("alice", false).await;
    get(&gateway, "/credits/balance", &key).await.problem(401, "UNAUTHENTICATED");
    get(&gateway, "/credits/balance", &token("alice")).await.expect(200);
}

#[tokio::test]
async fn a_sign_up_grant_is_given_once_to_a_hundred_first_calls() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "[credits]\nsignup_grant = 12").await;
    let calls = (0..100).map(|n| {
        let path = if n % 2 == 0 { "/credits/balance" } else { "/api/ai/generate" };
        let method = if n % 2 == 0 { Method::GET } else { Method::POST };
        // Tokens that differ, so that no cache makes it easy.
        let claims = json!({ "sub": "alice", "exp": now() + 600 + n });
        let request = gateway.client.request(method, gateway.url(path));
        Answer::of(request.bearer_auth(hs256(JWT_SECRET, claims)))
    });
    let answers = futures_util::future::join_all(calls).await;
    let paid = answers.iter().filter(|a| !a.header("x-credits-cost").is_empty()).count();
    assert_eq!(paid, 2, "twelve credits pay for two calls of five");
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(gateway.settled_balance("alice").await, 2);
    let lines = transactions(&gateway, "alice").await;
    assert_eq!(lines.iter().filter(|line| line["kind"] == "grant").count(), 1, "{lines:?}");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn what_clients_say_under_our_names_goes_no_further() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    gateway.grant("bob", 100).await;
    let request = gateway.client.post(gateway.url("/api/ai/generate"));
    let request = request
        .bearer_auth(token("alice"))
        .header("x-farebox-account", "bob")
        .header("X-Farebox-Admin", "true")
        .header("x_farebox_account", "bob")
        .header("x-farebox_account", "bob")
        .header("x-credits-cost", "0")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-http-method-override", "GET")
        .header("x_http_method-override", "GET")
        .header("x_forwarded_for", "203.0.113.9")
        .header("x-request-id", "chosen");
    Answer::of(request).await.expect(200);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header("x-farebox-account"), Some("alice"));
    let ours: Vec<_> = (seen.headers.keys())
        .filter(|name| name.as_str().replace('_', "-").starts_with("x-farebox-"))
        .collect();
    assert_eq!(ours, ["x-farebox-account"]);
    assert_eq!(seen.header("x-credits-cost"), None);
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.header("x-http-method-override"), None);
    assert_eq!(seen.header("x_http_method-override"), None);
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x_forwarded_for"), None);
    assert_ne!(seen.header("x-request-id"), Some("chosen"));
    assert_eq!(seen.header("host"), Some(&*upstream.address.to_string()));
    assert_eq!(gateway.settled_balance("bob").await, 100);
    assert_eq!(gateway.settled_balance("alice").await, 95);

    // A service key names the account that pays, here too; an admin token is no credential.
    let service = gateway.key("backend", true).await;
    let request = gateway.client.post(gateway.url("/api/ai/generate")).bearer_auth(&service);
    Answer::of(request.header("x-farebox-account", "bob")).await.expect(200);
    assert_eq!(upstream.seen()[1].header("x-farebox-account"), Some("bob"));
    assert_eq!(gateway.settled_balance("bob").await, 95);
    let request = gateway.client.post(gateway.url("/api/ai/generate")).bearer_auth(&service);
    Answer::of(request.header("x-farebox-account", "a b")).await.problem(400, "BAD_REQUEST");
    get(&gateway, "/credits/balance", ADMIN_TOKEN).await.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_token_is_remembered_no_longer_than_it_is_good() {
    let upstream = Upstream::canned().await;
    let text = crate::support::config_text(upstream.address, "");
    let text = text.replace("[[auth.jwt]]", "[[auth.jwt]]\nleeway = \"0s\"");
    let gateway = TestGateway::start(&text).await;
    let short = hs256(JWT_SECRET, json!({ "sub": "alice", "exp": now() + 2 }));
    for _ in 0..3 {
        get(&gateway, "/credits/balance", &short).await.expect(200);
    }
    let ended = crate::support::eventually(async || {
        get(&gateway, "/credits/balance", &short).await.status == 401
    });
    assert!(ended.await);
}

/// SDKs and scripts send the header of a key that was not set.
#[tokio::test]
async fn an_empty_credential_header_beside_a_good_one_does_not_count() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let method = if path == "/credits/balance" { Method::GET } else { Method::POST };
        let request = gateway.client.request(method, gateway.url(path));
        Answer::of(headers.iter().fold(request, |asked, (name, value)| asked.header(*name, *value)))
            .await
    };
    let good = format!("Bearer {}", token("alice"));
    for path in ["/credits/balance", "/api/ai/generate"] {
        for empty in [
            ("x-api-key", ""),
            ("authorization", "Bearer "),
            ("authorization", "Bearer"),
            ("api-key", ""),
        ] {
            ask(path, &[empty, ("authorization", &good)]).await.expect(200);
            ask(path, &[("authorization", &good), empty]).await.expect(200);
            let alone = ask(path, &[empty]).await;
            alone.problem(401, "UNAUTHENTICATED");
            assert!(alone.text.contains("No credentials were sent"), "{empty:?}: {}", alone.text);
        }
    }
}

/// Each client can have an issuer's keys fetched, whatever the others have sent.
#[tokio::test]
async fn a_rotated_key_works_at_once_whoever_sent_forged_tokens_before() {
    use base64::Engine as _;
    let pair = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let jwks = |pair: &rcgen::KeyPair| {
        let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "main", "x": x }] })
    };
    let signed = |pair: &rcgen::KeyPair, kid: &str, n: u64| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        encode(&header, &json!({ "sub": "carol", "exp": now() + 600 + n }), &key).unwrap()
    };
    let forger = pair();
    for path in ["/credits/balance", "/api/ai/generate"] {
        let (old, new) = (pair(), pair());
        let published = Arc::new(Mutex::new(jwks(&old)));
        let served = Arc::clone(&published);
        let answer = async move || axum::Json(served.lock().unwrap().clone());
        let issuer = Upstream::start(axum::Router::new().fallback(answer)).await;
        let entry = format!(
            "[[auth.jwt]]\nalgorithms = [\"EdDSA\"]\njwks_url = \"http://{}/jwks\"\n",
            issuer.address
        );
        let gateway = TestGateway::before(&Upstream::canned().await, &entry).await;
        gateway.grant("carol", 100).await;
        let from = async |address: [u8; 4], credential: String| {
            let client = plain_client();
            let client = client.local_address(std::net::IpAddr::from(address)).build().unwrap();
            let method = if path == "/credits/balance" { Method::GET } else { Method::POST };
            let request = client.request(method, gateway.url(path)).bearer_auth(credential);
            Answer::of(request).await.status
        };
        assert_eq!(from([127, 0, 0, 1], signed(&old, "main", 0)).await, 200);
        for n in 0..5 {
            assert_eq!(from([127, 0, 0, 1], signed(&forger, "invented", n)).await, 401);
            assert_eq!(from([127, 0, 0, 1], signed(&forger, "main", n)).await, 401);
        }
        assert_eq!(issuer.seen().len(), 2, "at the start, and once for all of these");
        *published.lock().unwrap() = jwks(&new);
        assert_eq!(from([127, 0, 0, 2], signed(&new, "main", 0)).await, 200, "{path}");
    }
}
