//! Tests about which tokens are accepted.

use std::io::Write;

use Unauthenticated::*;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::*;
use crate::identify::tests::signer::{RSA_PUBLIC, Signer, unsigned};
use crate::ledger::KeyHash;

fn alice() -> Signer {
    Signer::hmac(Algorithm::HS256, SECRET.as_bytes())
}

/// One issuer whose public key is in a file.
fn with_file(algorithm: &str, pem: &str) -> Identifier {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    let path = file.path().display();
    identifier(&format!("[[jwt]]\nalgorithms = ['{algorithm}']\npublic_key_file = '{path}'"))
}

/// The result for a token with these claims added.
fn judged(more_config: &str, more_claims: Value) -> Result<String, Unauthenticated> {
    account(ask(&hs256(more_config), &bearer(&alice().token(&claims(more_claims)))))
}

#[test]
fn every_algorithm_verifies_its_own_tokens_and_no_others() {
    use Algorithm::*;
    for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] {
        let signer = Signer::new(algorithm);
        let identifier = with_file(&format!("{algorithm:?}"), &signer.public_pem);
        let mut token = signer.token(&claims(json!({})));
        assert_eq!(account(ask(&identifier, &bearer(&token))), Ok("alice".into()), "{algorithm:?}");
        let changed = if token.ends_with('A') { 'Q' } else { 'A' };
        token.replace_range(token.len() - 1.., &changed.to_string());
        assert_eq!(ask(&identifier, &bearer(&token)), Err(BadSignature), "{algorithm:?}");
    }
    for algorithm in [HS256, HS384, HS512] {
        let token = Signer::hmac(algorithm, SECRET.as_bytes()).token(&claims(json!({})));
        let all = "[[jwt]]\nalgorithms = ['HS256', 'HS384', 'HS512']";
        let identifier = identifier(&format!("{all}\nsecret = '{SECRET}'"));
        assert_eq!(account(ask(&identifier, &bearer(&token))), Ok("alice".into()));
        let token = Signer::hmac(algorithm, b"another").token(&claims(json!({})));
        assert_eq!(ask(&identifier, &bearer(&token)), Err(BadSignature));
    }
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let identifier = with_file("RS256", RSA_PUBLIC);
    let der = pem_contents(RSA_PUBLIC);
    for secret in [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim().as_bytes(), &der] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let forger = Signer::hmac(algorithm, secret);
            let forged = forger.token(&claims(json!({})));
            assert_eq!(ask(&identifier, &bearer(&forged)), Err(AlgorithmNotAllowed));
            let lying = forger.token_with(&json!({ "alg": "RS256" }), &claims(json!({})));
            assert_eq!(ask(&identifier, &bearer(&lying)), Err(BadSignature));
            // HS256 is not accepted even if another issuer uses secrets.
            assert!(ask(&hs256(""), &bearer(&forged)).is_err());
        }
    }
}

#[test]
fn unsigned_tokens_are_refused_in_every_spelling() {
    for alg in ["none", "None", "NONE", "nOnE", "", " none", "none ", "hs256", "HS256\0", "RS1"] {
        let message = unsigned(&json!({ "alg": alg }), &claims(json!({})));
        let signed = alice().token_with(&json!({ "alg": alg }), &claims(json!({})));
        for token in [format!("{message}."), format!("{message}.AAAA"), signed] {
            assert_eq!(ask(&hs256(""), &bearer(&token)), Err(AlgorithmNotAllowed), "{alg:?}");
        }
    }
    for alg in [json!(null), json!(["HS256"]), json!(0)] {
        let token = alice().token_with(&json!({ "alg": alg }), &claims(json!({})));
        assert_eq!(ask(&hs256(""), &bearer(&token)), Err(UnknownKey));
    }
    let unsigned = unsigned(&json!({ "alg": "HS256" }), &claims(json!({})));
    assert_eq!(ask(&hs256(""), &bearer(&format!("{unsigned}."))), Err(BadSignature));
}

#[test]
fn the_config_and_not_the_token_chooses_the_algorithm() {
    let token = Signer::hmac(Algorithm::HS512, SECRET.as_bytes()).token(&claims(json!({})));
    assert_eq!(ask(&hs256(""), &bearer(&token)), Err(AlgorithmNotAllowed));
}

#[test]
fn a_key_that_a_token_brings_along_is_not_used() {
    let thief = Signer::new(Algorithm::ES256);
    let identifier = with_file("ES256", &Signer::new(Algorithm::ES256).public_pem);
    let header = json!({ "alg": "ES256", "jwk": thief.jwk("x"), "jku": "http://127.0.0.1:1/",
                         "x5u": "http://127.0.0.1:1/", "kid": "../../dev/null" });
    let token = thief.token_with(&header, &claims(json!({})));
    assert_eq!(ask(&identifier, &bearer(&token)), Err(BadSignature));
}

#[test]
fn critical_extensions_are_not_waved_through() {
    for crit in [json!(["b64"]), json!([]), json!(null), json!("exp")] {
        let header = json!({ "alg": "HS256", "crit": crit, "b64": false });
        let token = alice().token_with(&header, &claims(json!({})));
        assert_eq!(ask(&hs256(""), &bearer(&token)), Err(CriticalExtension));
    }
}

#[test]
fn a_token_must_expire_and_does() {
    let refused = |exp: Value| judged("", json!({ "exp": exp })).unwrap_err();
    assert_eq!(refused(json!(NOW - 30)), Expired);
    assert_eq!(refused(json!(0)), Expired);
    for exp in [json!("soon"), json!(null), json!(-1), json!(1e300), json!([NOW + 60])] {
        assert_eq!(refused(exp), Malformed);
    }
    let eternal = alice().token(&json!({ "sub": "alice" }));
    assert_eq!(ask(&hs256(""), &bearer(&eternal)), Err(NoExpiry));
    for exp in [json!(NOW - 29), json!(NOW as f64 - 29.5), json!(u64::MAX)] {
        assert_eq!(judged("", json!({ "exp": exp })), Ok("alice".into()));
    }
    assert_eq!(judged("leeway = '0s'", json!({ "exp": NOW })), Err(Expired));
}

#[test]
fn a_remembered_token_expires_too() {
    let identifier = hs256("leeway = '5s'");
    let token = bearer(&alice().token(&claims(json!({}))));
    assert!(ask(&identifier, &token).unwrap().fresh);
    assert!(!ask_at(&identifier, &token, NOW + 64).unwrap().fresh);
    assert_eq!(ask_at(&identifier, &token, NOW + 65), Err(Expired));
}

#[test]
fn a_token_is_not_used_before_its_time() {
    assert_eq!(judged("", json!({ "nbf": NOW + 31 })), Err(NotYetValid));
    assert_eq!(judged("", json!({ "nbf": "tomorrow" })), Err(Malformed));
    assert_eq!(judged("", json!({ "nbf": NOW + 30 })), Ok("alice".into()));
}

#[test]
fn issuer_and_audience_are_checked_when_set() {
    let issuer = "issuer = 'https://id.example.com'";
    for iss in [json!("https://evil.example.com"), json!(["https://id.example.com"]), json!(null)] {
        assert_eq!(judged(issuer, json!({ "iss": iss })), Err(WrongIssuer));
    }
    assert_eq!(judged(issuer, json!({})), Err(WrongIssuer));
    assert_eq!(judged(issuer, json!({ "iss": "https://id.example.com" })), Ok("alice".into()));

    for audience in ["audience = 'credits'", "audience = ['other', 'credits']"] {
        for aud in [json!("web"), json!(["web"]), json!([]), json!(null), json!({ "credits": 1 })] {
            assert_eq!(judged(audience, json!({ "aud": aud })), Err(WrongAudience));
        }
        assert_eq!(judged(audience, json!({})), Err(WrongAudience));
        assert_eq!(judged(audience, json!({ "aud": ["web", "credits"] })), Ok("alice".into()));
        assert_eq!(judged(audience, json!({ "aud": "credits" })), Ok("alice".into()));
    }
}

#[test]
fn a_token_is_remembered_up_to_its_exp_and_judged_anew_within_the_leeway() {
    let identifier = hs256("leeway = '30s'");
    let token = alice().token(&claims(json!({})));
    let (headers, hash, exp) = (bearer(&token), KeyHash::of(&token), NOW + 60);
    let remembered =
        |seconds| identifier.verified.get(&hash, Duration::from_secs(seconds)).is_some();
    assert!(ask_at(&identifier, &headers, NOW).unwrap().fresh);
    assert!(!ask_at(&identifier, &headers, exp - 1).unwrap().fresh);
    assert!(remembered(exp - 1) && !remembered(exp));
    for _ in 0..2 {
        let identity = ask_at(&identifier, &headers, exp + 29).unwrap();
        assert!(!identity.fresh, "its account was opened when it was first seen");
        assert!(!remembered(exp), "not by a later look either");
    }
    assert_eq!(ask_at(&identifier, &headers, exp + 30), Err(Expired));
}

#[test]
fn two_keys_overlap_while_one_replaces_the_other() {
    let entry = |secret: &str, more: &str| {
        format!("[[jwt]]\nalgorithms = ['HS256']\nissuer = 'i'\nsecret = '{secret}'\n{more}\n")
    };
    let new = "fedcba9876543210fedcba9876543210";
    let both = identifier(&(entry(new, "") + &entry(SECRET, "audience = 'web'")));
    let token = |secret: &str, aud: &str| {
        let claims = claims(json!({ "iss": "i", "aud": aud }));
        bearer(&Signer::hmac(Algorithm::HS256, secret.as_bytes()).token(&claims))
    };
    assert!(ask(&both, &token(new, "any")).is_ok());
    assert!(ask(&both, &token(SECRET, "web")).is_ok());
    // The returned refusal is that of the issuer whose key made the signature.
    assert_eq!(ask(&both, &token(SECRET, "any")), Err(WrongAudience));
    assert_eq!(ask(&both, &token("wrong", "web")), Err(BadSignature));
}

#[test]
fn the_account_is_the_claim_that_the_config_names() {
    let named = |config: &str, claims| judged(config, claims);
    assert_eq!(named("", json!({ "sub": 42 })), Ok("42".into()));
    assert_eq!(named("", json!({ "sub": u64::MAX })), Ok(u64::MAX.to_string()));
    let org = "account_claim = 'app.org.id'";
    assert_eq!(named(org, json!({ "app": { "org": { "id": "acme" } } })), Ok("acme".into()));
    assert_eq!(named(org, json!({ "app": { "org": "acme" } })), Err(NoAccountClaim));
    assert_eq!(named(org, json!({})), Err(NoAccountClaim));
    let url = "account_claim = 'https://example.com/account'";
    assert_eq!(named(url, json!({ "https://example.com/account": "acme" })), Ok("acme".into()));
    let long = "x".repeat(256);
    for sub in [
        json!(""),
        json!("a b"),
        json!(long),
        json!(1.5),
        json!(-1),
        json!(true),
        json!(["alice"]),
        json!(null),
    ] {
        assert_eq!(named("", json!({ "sub": sub })), Err(NoAccountClaim), "{sub}");
    }
}

#[test]
fn the_content_of_a_token_cannot_be_changed() {
    let token = alice().token(&claims(json!({})));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let mallory = unsigned(&json!({}), &claims(json!({ "sub": "mallory" })));
    let payload = mallory.split_once('.').unwrap().1;
    let forged = format!("{header}.{payload}.{signature}");
    assert_eq!(ask(&hs256(""), &bearer(&forged)), Err(BadSignature));
}

fn pem_contents(pem: &str) -> Vec<u8> {
    use base64::Engine;
    let lines: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::engine::general_purpose::STANDARD.decode(lines).unwrap()
}
