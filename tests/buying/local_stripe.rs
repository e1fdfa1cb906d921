//! Stripe's own SDK finds no difference between the local Stripe of these tests and the real one.

use serde_json::json;

use crate::sdk::Sdk;
use crate::support::stripe::{SECRET_KEY, Stripe, rules, signature};

#[test]
fn our_signature_is_the_one_that_stripe_s_sdk_makes_and_accepts() {
    let mut sdk = Sdk::start();
    let now = crate::support::stripe::books::now();
    for body in
        ["{}", "{\"object\": \"event\", \"id\": \"evt_1\", \"type\": \"x\"}", "é€ \n\t\"", ""]
    {
        for secret in ["whsec_short", &"x".repeat(64), &"longer than a block ".repeat(5)] {
            assert_eq!(signature::header(body, secret, now), sdk.sign(body, secret, now), "{body}");
        }
    }
    let body = r#"{"id":"evt_1","object":"event","type":"refund.created","data":{"object":{}}}"#;
    let header = signature::header(body, "whsec_1", now);
    let seen = sdk.ask(json!({ "do": "verify", "payload": body, "header": header,
        "secret": "whsec_1" }));
    assert_eq!(seen, json!({ "event": "evt_1", "type": "refund.created" }));
}

#[test]
fn nothing_that_the_local_stripe_allows_is_unknown_to_stripe() {
    let mut sdk = Sdk::start();
    for (operation, rules) in rules::operations().as_object().unwrap() {
        let ask = json!({ "do": "narrower", "operation": operation, "rules": rules });
        assert_eq!(sdk.ask(ask)["mistakes"], json!([]), "{operation}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_uses_the_sdk_finds_stripe_there() {
    let stripe = Stripe::start().await;
    let ask = json!({ "do": "shop", "api_base": stripe.api_base(), "key": SECRET_KEY });
    let seen = tokio::task::spawn_blocking(|| Sdk::start().ask(ask)).await.unwrap()["seen"].clone();
    assert_eq!(seen["found"], true, "by lookup key, with its product");
    assert_eq!(seen["once"], true, "the same idempotency key, the same session");
    assert_eq!(seen["amount"], 7900);
    assert_eq!(seen["idempotency_error"], 400);
    assert_eq!(seen["unknown"], json!(["parameter_unknown", "colour"]));
    assert_eq!(seen["missing"], json!(["resource_missing", 404]));
    assert_eq!(seen["unauthenticated"], 401);
    assert_eq!(seen["pages"], true, "25 customers in pages of 10, newest first");
    let session = seen["session"].as_str().unwrap();
    assert_eq!(stripe.get(session)["metadata"], json!({ "account": "alice" }));
}
