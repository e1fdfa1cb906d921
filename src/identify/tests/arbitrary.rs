//! Arbitrary input causes no panic and identifies no account.

use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::identify::tests::signer::{Signer, unsigned};

/// Any header value that a server may pass on, in one of the credential headers.
fn any_header() -> impl Strategy<Value = HeaderMap> {
    let name = prop::sample::select(&crate::identify::CREDENTIAL_HEADERS[..]);
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "(?i:bearer) [!-~]{0,200}".prop_map(String::into_bytes),
    ];
    prop::collection::vec((name, value), 0..4).prop_map(|pairs| {
        let pair =
            |(name, value): (_, Vec<u8>)| Some((name, HeaderValue::from_bytes(&value).ok()?));
        pairs.into_iter().filter_map(pair).collect()
    })
}

/// JSON of any shape, in which the names of claims are frequent.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&["HS256", "RS256", "none", "alice", "JWT"][..]).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    let name = prop::sample::select(&["alg", "kid", "crit", "sub", "exp", "nbf", "iss", "aud"][..]);
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_headers_identify_nobody(headers in any_header()) {
        prop_assert!(ask(&hs256(""), &headers).is_err());
    }

    #[test]
    fn arbitrary_three_part_tokens_identify_nobody(token in "[A-Za-z0-9_=-]{0,60}\\.[!-~]{0,60}\\.[!-~]{0,60}") {
        prop_assert!(ask(&hs256(""), &bearer(&token)).is_err());
    }

    #[test]
    fn arbitrary_headers_and_claims_identify_nobody_unsigned(
        header in any_json(), claims in any_json(), signature in "[A-Za-z0-9_-]{0,90}",
    ) {
        let token = format!("{}.{signature}", unsigned(&header, &claims));
        prop_assert!(ask(&hs256(""), &bearer(&token)).is_err());
    }

    #[test]
    fn arbitrary_claims_of_a_true_issuer_do_no_harm(claims in any_json()) {
        let token = Signer::hmac(Algorithm::HS256, SECRET.as_bytes()).token(&claims);
        let answer = ask(&hs256("account_claim = 'sub.sub'"), &bearer(&token));
        prop_assert!(answer.is_err() || claims["exp"].as_f64() > Some((NOW - 30) as f64));
    }

    #[test]
    fn a_token_with_one_byte_changed_identifies_nobody(at in any::<prop::sample::Index>(), byte in b'!'..=b'~') {
        let token = Signer::hmac(Algorithm::HS256, SECRET.as_bytes()).token(&claims(json!({})));
        let mut changed = token.clone().into_bytes();
        changed[at.index(token.len())] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert_eq!(ask(&hs256(""), &bearer(&changed)).is_ok(), changed == token);
    }
}
