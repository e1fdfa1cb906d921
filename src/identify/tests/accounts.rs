//! Accounts are never mixed up, and a refusal reveals nothing.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::*;
use crate::identify::tests::signer::Signer;

#[test]
fn two_accounts_are_never_mixed_up_by_the_cache() {
    let identifier = hs256("");
    let signer = Signer::hmac(Algorithm::HS256, SECRET.as_bytes());
    let calls: Vec<_> = (0..500)
        .map(|n| {
            (
                format!("user-{n}"),
                bearer(&signer.token(&claims(json!({ "sub": format!("user-{n}") })))),
            )
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (name, headers) in calls.iter().chain(&calls) {
                    assert_eq!(account(ask(&identifier, headers)).as_ref(), Ok(name));
                }
            });
        }
    });
    assert!(calls.iter().all(|(_, headers)| !ask(&identifier, headers).unwrap().fresh));
}

/// Two issuers: the first one's secret ends in `1`, the second one's in `2`.
fn two_issuers(first: &str, second: &str) -> String {
    let entry = |digit: &str, more: &str| {
        format!("[[jwt]]\nalgorithms = ['HS256']\nsecret = '{}'\n{more}\n", secret(digit))
    };
    entry("1", first) + &entry("2", second)
}

fn secret(digit: &str) -> String {
    format!("0123456789abcdef0123456789abcde{digit}")
}

#[test]
fn users_of_two_issuers_with_prefixes_are_never_one_account() {
    let named = |config: &str, digit: &str, sub: &str| {
        let signer = Signer::hmac(Algorithm::HS256, secret(digit).as_bytes());
        let token = signer.token(&claims(json!({ "sub": sub })));
        account(ask(&identifier(config), &bearer(&token)))
    };
    let both = two_issuers("account_prefix = 'acme:'", "account_prefix = 'corp:'");
    assert_eq!(named(&both, "1", "bob"), Ok("acme:bob".into()));
    assert_eq!(named(&both, "2", "bob"), Ok("corp:bob".into()));
    assert_eq!(named(&both, "2", "acme:bob"), Ok("corp:acme:bob".into()));

    let one = two_issuers("", "account_prefix = 'acme:'");
    assert_eq!(named(&one, "1", "bob"), Ok("bob".into()));
    assert_eq!(named(&one, "2", "bob"), Ok("acme:bob".into()));
    for sub in ["acme:bob", "acme:", "acme:acme:bob"] {
        assert_eq!(named(&one, "1", sub), Err(Unauthenticated::ForeignAccount), "{sub}");
    }
    assert_eq!(named(&one, "1", "Acme:bob"), Ok("Acme:bob".into()), "another account to all");
    assert_eq!(named(&one, "1", "acme"), Ok("acme".into()));

    // Both entries are keys of the same issuer.
    let same = two_issuers("account_prefix = 'acme:'", "account_prefix = 'acme:'");
    assert_eq!(named(&same, "1", "bob"), named(&same, "2", "bob"));
}

#[test]
fn an_account_with_its_prefix_is_an_account_id() {
    let named = |sub: serde_json::Value| {
        let identifier = hs256("account_prefix = 'acme:'");
        let signer = Signer::hmac(Algorithm::HS256, SECRET.as_bytes());
        account(ask(&identifier, &bearer(&signer.token(&claims(json!({ "sub": sub }))))))
    };
    let longest = "x".repeat(250);
    assert_eq!(named(json!(longest)), Ok(format!("acme:{longest}")));
    assert_eq!(named(json!(42)), Ok("acme:42".into()));
    for sub in [json!(format!("{longest}x")), json!(""), json!("a b"), json!(null)] {
        assert_eq!(named(sub.clone()), Err(Unauthenticated::NoAccountClaim), "{sub}");
    }
}

#[test]
fn a_new_config_has_forgotten_every_token() {
    let token = Signer::hmac(Algorithm::HS256, SECRET.as_bytes()).token(&claims(json!({})));
    assert!(ask(&hs256(""), &bearer(&token)).is_ok());
    let reloaded = hs256("audience = 'credits'");
    assert_eq!(ask(&reloaded, &bearer(&token)), Err(Unauthenticated::WrongAudience));
}

#[test]
fn a_token_that_failed_is_not_remembered_as_good() {
    let identifier = hs256("");
    let forged = bearer(&Signer::hmac(Algorithm::HS256, b"guess").token(&claims(json!({}))));
    for _ in 0..3 {
        assert_eq!(ask(&identifier, &forged), Err(Unauthenticated::BadSignature));
    }
}

#[test]
fn refusals_have_a_status_and_a_sentence() {
    use Unauthenticated::*;
    for (refusal, status) in [
        (NoCredentials, 401),
        (Revoked, 401),
        (Expired, 401),
        (AmbiguousCredentials, 401),
        (InvalidAccountHeader, 400),
        (KeysUnavailable, 503),
    ] {
        assert_eq!(refusal.status().as_u16(), status);
        assert!(refusal.to_string().ends_with('.'));
    }
}
