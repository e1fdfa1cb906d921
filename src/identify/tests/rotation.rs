//! Published keys are added, changed and withdrawn.

use std::net::IpAddr;

use Unauthenticated::*;
use axum::http::StatusCode;
use jsonwebtoken::Algorithm::{self, ES256, EdDSA, RS256};
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::identify::jwks::Jwks;
use crate::identify::tests::issuer::Issuer;
use crate::identify::tests::signer::Signer;

fn trusting(issuer: &Issuer) -> Identifier {
    let algorithms = "['RS256', 'ES256', 'EdDSA']";
    identifier(&format!("[[jwt]]\nalgorithms = {algorithms}\njwks_url = '{}'", issuer.url))
}

async fn ask_after(
    identifier: &Identifier,
    token: &str,
    seconds: u64,
) -> Result<String, Unauthenticated> {
    ask_from(identifier, None, token, seconds).await
}

async fn ask_from(
    identifier: &Identifier,
    client: Option<IpAddr>,
    token: &str,
    seconds: u64,
) -> Result<String, Unauthenticated> {
    account(identifier.identify(&bearer(token), client, at(NOW + seconds)).await)
}

fn token(signer: &Signer, kid: &str) -> String {
    signer.token_of(kid, &claims(json!({ "exp": NOW + 3600 })))
}

#[tokio::test]
async fn a_published_key_verifies_tokens_of_its_kid() {
    for algorithm in [RS256, ES256, EdDSA] {
        let (signer, other) = (Signer::new(algorithm), Signer::new(ES256));
        let issuer = Issuer::start(&[other.jwk("other"), signer.jwk("a")]).await;
        let identifier = trusting(&issuer);
        identifier.load_keys().await;
        assert_eq!(ask_after(&identifier, &token(&signer, "a"), 0).await, Ok("alice".into()));
        let without = signer.token(&claims(json!({})));
        assert_eq!(ask_after(&identifier, &without, 0).await, Ok("alice".into()));
        assert_eq!(issuer.fetches(), 1, "good tokens cause no fetch");
        assert_eq!(ask_after(&identifier, &token(&signer, "other"), 0).await, Err(BadSignature));
    }
}

#[tokio::test]
async fn a_new_kid_causes_one_fetch_and_strangers_no_more() {
    let (old, new) = (Signer::new(ES256), Signer::new(ES256));
    let issuer = Issuer::start(&[old.jwk("old")]).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;

    issuer.publish(&[old.jwk("old"), new.jwk("new")]);
    let token_of_new = token(&new, "new");
    let asks = (0..20).map(|_| ask_after(&identifier, &token_of_new, 0));
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!(answer, Ok("alice".into()), "those who came meanwhile waited for it");
    }
    assert_eq!(issuer.fetches(), 2);
    for n in 0..20 {
        let invented = token(&new, &format!("invented-{n}"));
        assert_eq!(ask_after(&identifier, &invented, 29).await, Err(BadSignature));
    }
    assert_eq!(issuer.fetches(), 2, "not again within 30 s");
    assert_eq!(ask_after(&identifier, &token(&new, "invented"), 30).await, Err(BadSignature));
    assert_eq!(issuer.fetches(), 3);
}

#[tokio::test]
async fn a_kid_finds_any_key_however_many_there_are() {
    let signers: Vec<_> = (0..500).map(|_| Signer::new(EdDSA)).collect();
    let jwks = |(n, signer): (usize, &Signer)| signer.jwk(&format!("key-{n}"));
    let issuer = Issuer::start(&signers.iter().enumerate().map(jwks).collect::<Vec<_>>()).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;
    for n in [0, 31, 32, 499] {
        let token = token(&signers[n], &format!("key-{n}"));
        assert_eq!(ask_after(&identifier, &token, 0).await, Ok("alice".into()), "{n}");
    }
    assert_eq!(issuer.fetches(), 1);
}

/// A token without `kid` is tried with a bounded number of keys.
#[tokio::test]
async fn a_stranger_without_a_kid_has_few_keys_tried() {
    let signers: Vec<_> = (0..200).map(|_| Signer::new(EdDSA)).collect();
    let jwks = |(n, signer): (usize, &Signer)| signer.jwk(&format!("key-{n}"));
    let issuer = Issuer::start(&signers.iter().enumerate().map(jwks).collect::<Vec<_>>()).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;
    for (n, answer) in [(0, Ok("alice".into())), (31, Ok("alice".into())), (199, Err(BadSignature))]
    {
        let token = signers[n].token(&claims(json!({})));
        assert_eq!(ask_after(&identifier, &token, 0).await, answer, "{n}");
    }
}

#[tokio::test]
async fn a_key_that_changed_under_its_kid_is_fetched_anew() {
    let (old, new) = (Signer::new(ES256), Signer::new(ES256));
    let issuer = Issuer::start(&[old.jwk("main")]).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;
    let (by_old, by_new) = (token(&old, "main"), token(&new, "main"));
    assert_eq!(ask_after(&identifier, &by_old, 0).await, Ok("alice".into()));
    issuer.publish(&[new.jwk("main")]);
    assert_eq!(ask_after(&identifier, &by_new, 1).await, Ok("alice".into()));
    assert_eq!(ask_after(&identifier, &by_old, 1).await, Err(BadSignature));
    assert_eq!(issuer.fetches(), 2);
}

/// Clients that invent `kid`s or signatures use up only their own fetches, and no other client's.
#[tokio::test]
async fn one_client_cannot_hold_up_a_rotated_key() {
    let (old, new, forger) = (Signer::new(ES256), Signer::new(ES256), Signer::new(ES256));
    for kid in ["new", "old"] {
        let issuer = Issuer::start(&[old.jwk("old")]).await;
        let identifier = trusting(&issuer);
        identifier.load_keys().await;
        // All addresses of one IPv6 network count as one client.
        let strangers = ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:0:9::"];
        let strangers = strangers.map(|address| Some(address.parse().unwrap()));
        for n in 0..20 {
            let client = strangers[n % strangers.len()];
            let invented = token(&forger, &format!("invented-{n}"));
            assert_eq!(ask_from(&identifier, client, &invented, 0).await, Err(BadSignature));
            let forged = forger.token_of("old", &claims(json!({ "n": n })));
            assert_eq!(ask_from(&identifier, client, &forged, 0).await, Err(BadSignature));
        }
        assert_eq!(issuer.fetches(), 2, "one for all of that");
        issuer.publish(&[new.jwk(kid)]);
        let client = Some("192.0.2.7".parse().unwrap());
        let rotated = ask_from(&identifier, client, &token(&new, kid), 1).await;
        assert_eq!(rotated, Ok("alice".into()), "{kid}");
    }
}

#[tokio::test]
async fn many_clients_cause_few_fetches() {
    let (signer, forger) = (Signer::new(ES256), Signer::new(ES256));
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;
    let (identifier, forger) = (&identifier, &forger);
    for second in 0..60 {
        let asks = (0..20).map(|n| async move {
            let client = format!("192.0.{second}.{n}").parse().unwrap();
            let invented = token(forger, &format!("invented-{second}-{n}"));
            assert_eq!(
                ask_from(identifier, Some(client), &invented, second).await,
                Err(BadSignature)
            );
        });
        futures_util::future::join_all(asks).await;
    }
    let fetches = issuer.fetches() - 1;
    assert!((2..=10).contains(&fetches), "{fetches} in a minute");
}

#[tokio::test]
async fn a_withdrawn_key_is_not_trusted_for_remembered_tokens_either() {
    let (stolen, good) = (Signer::new(ES256), Signer::new(ES256));
    let issuer = Issuer::start(&[stolen.jwk("stolen"), good.jwk("good")]).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;
    let (by_stolen, by_good) = (token(&stolen, "stolen"), token(&good, "good"));
    for token in [&by_stolen, &by_good] {
        assert_eq!(ask_after(&identifier, token, 0).await, Ok("alice".into()));
    }
    issuer.publish(&[good.jwk("good")]);
    identifier.load_keys().await;
    assert_eq!(ask_after(&identifier, &by_stolen, 0).await, Err(BadSignature));
    assert_eq!(ask_after(&identifier, &by_good, 0).await, Ok("alice".into()));
}

#[tokio::test]
async fn a_failed_fetch_keeps_the_keys() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let identifier = trusting(&issuer);
    identifier.load_keys().await;
    let large = json!({ "keys": [signer.jwk("b")], "padding": "x".repeat(300_000) }).to_string();
    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (StatusCode::FOUND, String::new()),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, json!({ "keys": [] }).to_string()),
        (StatusCode::OK, large),
    ] {
        issuer.answers(status, body);
        identifier.load_keys().await;
        // Each token is new, so that it is not cached and the key itself is needed.
        let token = signer.token_of("a", &claims(json!({ "n": issuer.fetches() })));
        assert_eq!(ask_after(&identifier, &token, 0).await, Ok("alice".into()));
    }
}

#[tokio::test]
async fn without_any_keys_yet_the_failure_is_ours() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::start(&[]).await;
    let identifier = trusting(&issuer);
    assert_eq!(ask_after(&identifier, &token(&signer, "a"), 0).await, Err(KeysUnavailable));
    issuer.publish(&[signer.jwk("a")]);
    assert_eq!(ask_after(&identifier, &token(&signer, "a"), 10).await, Err(KeysUnavailable));
    assert_eq!(ask_after(&identifier, &token(&signer, "a"), 30).await, Ok("alice".into()));
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn keys_that_are_not_for_these_signatures_are_passed_over() {
    let signer = Signer::new(ES256);
    let changed = |name: &str, value| {
        let mut jwk = signer.jwk("a");
        jwk[name] = value;
        jwk
    };
    for wrong in [
        changed("use", json!("enc")),
        changed("key_ops", json!(["sign"])),
        changed("alg", json!("ES384")),
        changed("crv", json!("P-384")),
        changed("kty", json!("RSA")),
        json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" }),
        json!({ "kty": "unheard of", "kid": "a" }),
        json!("no object"),
    ] {
        let issuer = Issuer::start(&[wrong.clone(), Signer::new(EdDSA).jwk("b")]).await;
        let identifier = trusting(&issuer);
        let answer = ask_after(&identifier, &token(&signer, "a"), 0).await;
        assert_eq!(answer, Err(BadSignature), "{wrong}");
    }
}

#[tokio::test]
async fn a_published_key_is_never_an_hmac_secret() {
    let signer = Signer::new(RS256);
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let identifier = trusting(&issuer);
    let forger = Signer::hmac(Algorithm::HS256, signer.public_pem.as_bytes());
    assert_eq!(ask_after(&identifier, &token(&forger, "a"), 0).await, Err(AlgorithmNotAllowed));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_take_the_fetch_with_it() {
    let signer = Signer::new(ES256);
    let issuer = Issuer::start(&[signer.jwk("a")]).await;
    let identifier = trusting(&issuer);
    let token = token(&signer, "a");
    // The call is polled once. By then its fetch has begun, and the client is gone.
    assert!(ask_after(&identifier, &token, 0).now_or_never().is_none());
    assert_eq!(ask_after(&identifier, &token, 1).await, Ok("alice".into()));
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn keys_are_refreshed_in_the_background_until_told_to_stop() {
    let issuer = Issuer::start(&[Signer::new(ES256).jwk("a")]).await;
    let url = issuer.url.parse().unwrap();
    let jwks = Jwks::new("auth.jwt[0]".into(), url, Duration::from_millis(10)).unwrap();
    let has_b =
        || jwks.keys().is_some_and(|keys| keys.candidates(Some("b"), ES256).next().is_some());
    let until_b = async {
        while !has_b() {
            tokio::task::yield_now().await;
        }
    };
    let kept_fresh = async {
        tokio::select! {
            () = jwks.keep_fresh() => {}
            () = until_b => {}
        }
    };
    let published = async {
        while issuer.fetches() == 0 {
            tokio::task::yield_now().await;
        }
        issuer.publish(&[Signer::new(ES256).jwk("b")]);
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(kept_fresh, published) })
        .await
        .expect("the new key arrives without any call");

    let identifier = Arc::new(trusting(&issuer));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn({
        let identifier = Arc::clone(&identifier);
        async move { identifier.run(stopped).await }
    });
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
    assert_eq!(Arc::strong_count(&identifier), 1, "nothing is left running");
}
