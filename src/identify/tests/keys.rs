//! API keys: found where the SDKs put them, revoked at once, shown once.

use Unauthenticated::*;

use super::*;
use crate::identify::{CREDENTIAL_HEADERS, CredentialKind, Credentials, KeyTaken, NewKey};
use crate::ledger::{KeyHash, KeyRecord};

fn record(hash: KeyHash, id: &str, account: &str, service: bool) -> KeyRecord {
    KeyRecord {
        hash,
        id: id.into(),
        account: account.parse().unwrap(),
        name: "a test's".into(),
        service,
        created_at_ms: 0,
        revoked_at_ms: None,
        hint: "".into(),
    }
}

/// A key ring with one customer's key and one service key.
fn ring() -> Arc<KeyRing> {
    let ring = KeyRing::default();
    ring.insert(record(KeyHash::of("fb_alice"), "k1", "alice", false)).unwrap();
    ring.insert(record(KeyHash::of("fb_service"), "k2", "backend", true)).unwrap();
    Arc::new(ring)
}

#[test]
fn a_key_is_found_where_the_sdks_put_it() {
    let identifier = with_keys(ring());
    for pair in [
        ("authorization", "Bearer fb_alice"),
        ("authorization", "bearer fb_alice"),
        ("Authorization", "BEARER  fb_alice"),
        ("x-api-key", "fb_alice"),
        ("api-key", "fb_alice"),
        ("X-Goog-Api-Key", "fb_alice"),
    ] {
        let identity = ask(&identifier, &headers(&[pair])).unwrap();
        assert_eq!(identity.account.as_str(), "alice");
        assert_eq!(identity.credential, CredentialKind::ApiKey);
        assert_eq!(identity.key_id.as_deref(), Some("k1"));
        assert!(!identity.fresh);
        let header = pair.0.to_ascii_lowercase();
        assert!(CREDENTIAL_HEADERS.iter().any(|name| *name == *header), "{header} is stripped");
    }
}

#[test]
fn anything_but_one_credential_is_refused() {
    let identifier = with_keys(ring());
    let refused = |pairs: &[_]| ask(&identifier, &headers(pairs)).unwrap_err();
    assert_eq!(refused(&[]), NoCredentials);
    assert_eq!(refused(&[("cookie", "fb_alice")]), NoCredentials);
    for value in ["fb_alice", "Basic fb_alice", "Basic", "Bearerfb_alice", "Bearer a b"] {
        assert_eq!(refused(&[("authorization", value)]), Malformed, "{value:?}");
    }
    let long = format!("Bearer {}", "x".repeat(16 * 1024 + 1));
    assert_eq!(refused(&[("authorization", &long)]), Malformed);
    assert_eq!(
        refused(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]),
        AmbiguousCredentials
    );
    assert_eq!(
        refused(&[("authorization", "Bearer fb_alice"), ("x-api-key", "fb_service")]),
        AmbiguousCredentials
    );
    let twice = [("authorization", "Bearer fb_alice"), ("x-api-key", "fb_alice")];
    assert!(ask(&identifier, &headers(&twice)).is_ok());
}

/// SDKs send an empty header for a key that was not set: `x-api-key:` beside a token.
#[test]
fn an_empty_credential_header_is_no_credential() {
    let identifier = with_keys(ring());
    let empty = [
        ("authorization", ""),
        ("authorization", " "),
        ("authorization", "Bearer"),
        ("authorization", "bearer "),
        ("authorization", "Bearer   "),
        ("authorization", "\tBearer\t"),
        ("x-api-key", ""),
        ("api-key", " "),
        ("x-goog-api-key", "\t"),
    ];
    for none in empty {
        assert_eq!(ask(&identifier, &headers(&[none])), Err(NoCredentials), "{none:?}");
        assert_eq!(ask(&identifier, &headers(&empty)), Err(NoCredentials));
        assert!(Credentials::of(&headers(&[none])).is_empty(), "{none:?}");
        for good in [("authorization", "Bearer fb_alice"), ("x-api-key", "fb_alice")] {
            for pairs in [[none, good], [good, none]] {
                let identity = ask(&identifier, &headers(&pairs));
                assert_eq!(account(identity), Ok("alice".into()), "{pairs:?}");
                assert_eq!(Credentials::of(&headers(&pairs)).expose(), Some("fb_alice"));
            }
        }
    }
}

#[test]
fn a_revoked_key_is_refused_from_the_next_call_on() {
    let ring = ring();
    let identifier = with_keys(Arc::clone(&ring));
    assert!(ask(&identifier, &bearer("fb_alice")).is_ok());
    assert!(ring.revoke("k1", 5));
    let refusal = ask(&identifier, &bearer("fb_alice")).unwrap_err();
    let unknown = ask(&identifier, &bearer("fb_nobody")).unwrap_err();
    assert_eq!((refusal, unknown), (Revoked, UnknownKey));
    assert_eq!(refusal.to_string(), unknown.to_string(), "outside they are the same");

    assert!(ring.revoke("k1", 9) && !ring.revoke("k9", 9));
    ring.insert(record(KeyHash::of("fb_alice"), "k1", "alice", false)).unwrap();
    let kept = ring.get(&KeyHash::of("fb_alice")).unwrap();
    assert_eq!(kept.revoked_at_ms, Some(5), "nothing undoes a revocation");
}

#[test]
fn a_service_key_alone_acts_for_others() {
    let identifier = with_keys(ring());
    let call = |key: &str, accounts: &[&str]| {
        let mut headers = bearer(key);
        for account in accounts {
            headers.append("x-farebox-account", account.parse().unwrap());
        }
        ask(&identifier, &headers)
    };
    let own = call("fb_service", &[]).unwrap();
    assert_eq!((own.account.as_str(), own.on_behalf_by), ("backend", None));
    let other = call("fb_service", &["bob"]).unwrap();
    assert_eq!(other.account.as_str(), "bob");
    assert_eq!(other.on_behalf_by.unwrap().as_str(), "backend");
    assert_eq!(other.credential, CredentialKind::ServiceKey);
    for bad in [&["a b"][..], &[""], &["bob", "bob"]] {
        let refusal = call("fb_service", bad).unwrap_err();
        assert_eq!((refusal, refusal.status().as_u16()), (InvalidAccountHeader, 400));
    }
    let customer = call("fb_alice", &["bob"]).unwrap();
    assert_eq!((customer.account.as_str(), customer.on_behalf_by), ("alice", None));
}

#[test]
fn keys_of_another_gateway_keep_working() {
    let ring = ring();
    let jwt_like = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2ln";
    for (index, key) in ["sk-proj-1", "a.b.c", jwt_like, "pk_live_1.2"].into_iter().enumerate() {
        // `farebox key import` takes hex digits in either case.
        let hash = KeyHash::of(key).to_string().to_uppercase().parse().unwrap();
        ring.insert(record(hash, &format!("i{index}"), "carol", false)).unwrap();
        let jwt = format!("[[jwt]]\nalgorithms = ['HS256']\nsecret = '{SECRET}'");
        let identifier = Identifier::new(&config(&jwt), Arc::clone(&ring)).unwrap();
        assert_eq!(account(ask(&identifier, &bearer(key))), Ok("carol".into()), "{key}");
    }
}

#[test]
fn keys_count_for_nothing_where_they_are_not_enabled() {
    let toml = format!(
        "[[jwt]]\nalgorithms = ['HS256']\nsecret = '{SECRET}'\n[api_keys]\nenabled = false"
    );
    let identifier = Identifier::new(&config(&toml), ring()).unwrap();
    assert_eq!(ask(&identifier, &bearer("fb_alice")), Err(UnknownKey));
}

#[test]
fn a_key_never_changes_hands() {
    let ring = ring();
    let alice = KeyHash::of("fb_alice");
    assert_eq!(ring.insert(record(alice, "k3", "mallory", false)), Err(KeyTaken));
    assert_eq!(ring.insert(record(alice, "k1", "mallory", false)), Err(KeyTaken));
    assert_eq!(ring.insert(record(KeyHash::of("fb_new"), "k1", "alice", false)), Err(KeyTaken));
    assert_eq!(ring.get(&alice).unwrap().account.as_str(), "alice");
    assert_eq!(ring.len(), 2);
}

#[test]
fn a_new_key_is_random_and_not_printed() {
    let (one, other) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
    let key = one.key.expose();
    assert_ne!(key, other.key.expose());
    assert!(key.len() == 46 && key.starts_with("fb_"));
    assert!(key[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(one.hash, KeyHash::of(key));
    assert!(!format!("{one:?}").contains(key));
    assert!(key.starts_with(one.hint.split_once('…').unwrap().0) && one.hint.chars().count() == 12);
}

#[test]
fn a_hash_reads_back_as_it_is_printed() {
    let hash = KeyHash::of("abc");
    let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hash.to_string(), hex);
    assert_eq!(hex.parse(), Ok(hash));
    assert_eq!(KeyHash::from_bytes(hash.as_bytes()), Some(hash));
    for bad in
        ["", "ba", &hex[1..], &format!("{hex}00"), &hex.replace('b', "g"), &hex.replace('b', "é")]
    {
        assert!(bad.parse::<KeyHash>().is_err(), "{bad}");
    }
}
