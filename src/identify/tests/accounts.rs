//! Accounts are never mixed up, and refusals tell nothing.

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::signer::Signer;
use super::*;

#[test]
fn two_accounts_are_never_mixed_up_by_what_is_remembered() {
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
