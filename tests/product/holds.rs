//! Holds for work that does not pass through the proxy.

use http::Method;
use serde_json::json;

use crate::http::{admin, get, post, post_as, transactions};
use crate::support::{TestGateway, Upstream, config_text, eventually, token};

async fn shop() -> (TestGateway, String) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    let service = gateway.key("backend", true).await;
    (gateway, service)
}

#[tokio::test]
async fn a_hold_is_made_by_endpoint_or_by_credits() {
    let (gateway, service) = shop().await;
    let hold =
        async |body: &str| post_as(&gateway, "/credits/holds", &service, "alice", body).await;

    let made = hold(r#"{"endpoint":"/api/ai/generate","id":"job-1"}"#).await;
    assert!(made.status.is_success(), "{}", made.text);
    assert_eq!(made.json()["id"], "job-1");
    assert!(hold(r#"{"credits":0.75,"id":"job-2"}"#).await.status.is_success());
    let balance = gateway.balance("alice").await;
    assert_eq!(balance["held"], 5.75);
    assert_eq!(balance["available"], 94.25);
    assert_eq!(balance["balance"], 100);

    hold(r#"{"endpoint":"/nothing","id":"x"}"#).await.problem(404, "NO_PRICE_RULE");
    hold(r#"{"credits":95,"id":"x"}"#).await.problem(402, "INSUFFICIENT_CREDITS");
    for body in [
        r#"{"id":"x"}"#,
        r#"{"credits":5}"#,
        r#"{"credits":-5,"id":"x"}"#,
        r#"{"credits":1e1,"id":"x"}"#,
        r#"{"credits":0.0000001,"id":"x"}"#,
        r#"{"credits":99999999999999999999,"id":"x"}"#,
        r#"{"credits":5,"endpoint":"/api/ai/generate","id":"x"}"#,
        r#"{"credits":5,"id":""}"#,
        r#"{"credits":5,"id":"with space"}"#,
        "5",
    ] {
        let answer = hold(body).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{body}: {}", answer.text);
        answer.problem(answer.status.as_u16(), "BAD_REQUEST");
    }
    let zero = hold(r#"{"credits":0,"id":"x"}"#).await;
    assert!(zero.status.is_client_error(), "{}", zero.text);
    assert_eq!(gateway.balance("alice").await, balance);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn the_same_hold_again_is_one_hold() {
    let (gateway, service) = shop().await;
    let hold = async |account: &str, body: &str| {
        post_as(&gateway, "/credits/holds", &service, account, body).await
    };
    let first = hold("alice", r#"{"credits":5,"id":"job-1"}"#).await;
    let again = hold("alice", r#"{"credits":5,"id":"job-1"}"#).await;
    assert!(first.status.is_success() && again.status.is_success(), "{}", again.text);
    assert_eq!(first.json(), again.json());
    assert_eq!(gateway.balance("alice").await["held"], 5);

    gateway.grant("bob", 100).await;
    let other = hold("alice", r#"{"credits":6,"id":"job-1"}"#).await;
    other.problem(409, "IDEMPOTENCY_CONFLICT");
    let other = hold("bob", r#"{"credits":5,"id":"job-1"}"#).await;
    other.problem(409, "IDEMPOTENCY_CONFLICT");
    assert_eq!(gateway.balance("alice").await["held"], 5);
    assert_eq!(gateway.balance("bob").await["held"], 0);

    // An ended hold is not made a second time.
    let end = r#"{"credits":5}"#;
    post(&gateway, "/credits/holds/job-1/capture", &service, end).await.expect(200);
    let again = hold("alice", r#"{"credits":5,"id":"job-1"}"#).await;
    again.problem(409, "IDEMPOTENCY_CONFLICT");
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn a_part_is_captured_and_the_rest_given_back() {
    let (gateway, service) = shop().await;
    let hold = r#"{"credits":5,"id":"job-1"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let capture = async |body: &str| {
        post_as(&gateway, "/credits/holds/job-1/capture", &service, "alice", body).await
    };
    let first = capture(r#"{"credits":4}"#).await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 96);
    // The same capture again gets the same answer. Another amount, or a release, comes too late.
    assert_eq!(capture(r#"{"credits":4}"#).await.expect(200), first);
    capture(r#"{"credits":3}"#).await.problem(409, "IDEMPOTENCY_CONFLICT");
    let release = post_as(&gateway, "/credits/holds/job-1/release", &service, "alice", "").await;
    release.problem(409, "IDEMPOTENCY_CONFLICT");
    let lines = transactions(&gateway, "alice").await;
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["amount"], -4);
    assert_eq!(lines[0]["kind"], "capture");
    assert_eq!(lines[0]["request_id"], "job-1");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_released_hold_is_given_back_whole() {
    let (gateway, service) = shop().await;
    let hold = r#"{"endpoint":"/api/ai/generate","id":"job-1"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    for _ in 0..2 {
        post(&gateway, "/credits/holds/job-1/release", &service, "").await.expect(200);
        assert_eq!(gateway.settled_balance("alice").await, 100);
    }
    let capture = r#"{"credits":5}"#;
    let late = post(&gateway, "/credits/holds/job-1/capture", &service, capture).await;
    late.problem(409, "IDEMPOTENCY_CONFLICT");
    assert_eq!(transactions(&gateway, "alice").await.len(), 1, "a released hold leaves no line");
}

#[tokio::test]
async fn a_capture_above_its_hold_is_refused() {
    let (gateway, service) = shop().await;
    let hold = r#"{"credits":5,"id":"job-1"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let capture =
        async |body: &str| post(&gateway, "/credits/holds/job-1/capture", &service, body).await;
    assert_eq!(capture(r#"{"credits":5.000001}"#).await.status, 422);
    assert_eq!(capture(r#"{"credits":6}"#).await.status, 422);
    for body in [r#"{"credits":-1}"#, r#"{"credits":"x"}"#, "{}", ""] {
        assert!(capture(body).await.status.is_client_error(), "{body}");
    }
    assert_eq!(gateway.balance("alice").await["held"], 5, "a refused capture changes nothing");
    capture(r#"{"credits":5}"#).await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn holds_are_for_service_keys_only() {
    let (gateway, service) = shop().await;
    let hold = r#"{"credits":5,"id":"job-1"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let key = gateway.key("alice", false).await;
    for credential in [token("alice"), key] {
        for (path, body) in [
            ("/credits/holds", r#"{"credits":1,"id":"job-2"}"#),
            ("/credits/holds/job-1/capture", r#"{"credits":1}"#),
            ("/credits/holds/job-1/release", ""),
        ] {
            let answer = post_as(&gateway, path, &credential, "alice", body).await;
            assert_eq!(answer.status, 403, "{path}: {}", answer.text);
        }
    }
    assert_eq!(gateway.balance("alice").await["held"], 5);
    for (path, body) in [
        ("/credits/holds/unknown/capture", r#"{"credits":1}"#),
        ("/credits/holds/unknown/release", ""),
    ] {
        post(&gateway, path, &service, body).await.problem(404, "NOT_FOUND");
    }
    // A call's hold is ended by the gateway alone.
    assert_eq!(gateway.post("alice", "/api/ai/generate").await.status(), 200);
    assert_eq!(gateway.balance("alice").await["account"], "alice");
}

#[tokio::test]
async fn a_hold_survives_a_restart() {
    let upstream = Upstream::canned().await;
    for durability in ["strict", "relaxed"] {
        let text = config_text(upstream.address, "");
        let text = text.replace("[ledger]", &format!("[ledger]\ndurability = \"{durability}\""));
        let gateway = TestGateway::start(&text).await;
        gateway.grant("alice", 100).await;
        let service = gateway.key("backend", true).await;
        let hold = r#"{"credits":5,"id":"job-1"}"#;
        post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
        let gateway = TestGateway::start_in(gateway.stop().await, &text).await;
        assert_eq!(gateway.balance("alice").await["held"], 5, "{durability}");
        let capture = r#"{"credits":4}"#;
        post(&gateway, "/credits/holds/job-1/capture", &service, capture).await.expect(200);
        assert_eq!(gateway.settled_balance("alice").await, 96, "{durability}");
        gateway.assert_reconciled().await;
    }
}

#[tokio::test]
async fn a_hold_nobody_ends_expires_and_its_late_capture_counts_once() {
    let (gateway, service) = shop().await;
    let hold = r#"{"credits":5,"id":"job-1","ttl_seconds":1}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    assert_eq!(gateway.balance("alice").await["held"], 5);
    assert_eq!(gateway.settled_balance("alice").await, 100, "expired");
    for _ in 0..2 {
        let capture = r#"{"credits":5}"#;
        post(&gateway, "/credits/holds/job-1/capture", &service, capture).await.expect(200);
        assert_eq!(gateway.settled_balance("alice").await, 95);
    }
    gateway.assert_reconciled().await;
}

/// Whether it expired or not: from the acknowledgement on, no capture counts.
#[tokio::test]
async fn a_hold_whose_release_was_acknowledged_is_never_captured() {
    let (gateway, service) = shop().await;
    for (id, ttl) in [("quick", 1), ("slow", 3600)] {
        let hold = format!(r#"{{"credits":5,"id":"{id}","ttl_seconds":{ttl}}}"#);
        post_as(&gateway, "/credits/holds", &service, "alice", &hold).await.expect(201);
    }
    assert!(eventually(async || gateway.balance("alice").await["held"] == 5).await, "one expires");
    let end = async |id: &str, how: &str, body: &str| {
        post(&gateway, &format!("/credits/holds/{id}/{how}"), &service, body).await
    };
    for id in ["quick", "slow"] {
        assert_eq!(end(id, "release", "").await.expect(200)["state"], "released");
        end(id, "capture", r#"{"credits":5}"#).await.problem(409, "IDEMPOTENCY_CONFLICT");
        assert_eq!(end(id, "release", "").await.expect(200)["state"], "released");
    }
    let gateway = TestGateway::start_in(
        gateway.stop().await,
        &config_text("127.0.0.1:1".parse().unwrap(), ""),
    )
    .await;
    for id in ["quick", "slow"] {
        let capture = format!("/credits/holds/{id}/capture");
        let late = post(&gateway, &capture, &service, r#"{"credits":5}"#).await;
        late.problem(409, "IDEMPOTENCY_CONFLICT");
    }
    assert_eq!(gateway.settled_balance("alice").await, 100);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_service_key_that_names_an_account_ends_only_that_accounts_holds() {
    let (gateway, service) = shop().await;
    gateway.grant("bob", 100).await;
    for id in ["live", "captured", "released"] {
        let hold = format!(r#"{{"credits":5,"id":"{id}"}}"#);
        post_as(&gateway, "/credits/holds", &service, "alice", &hold).await.expect(201);
    }
    let (capture, five) = ("/credits/holds/captured/capture", r#"{"credits":5}"#);
    post_as(&gateway, capture, &service, "alice", five).await.expect(200);
    let release = "/credits/holds/released/release";
    post_as(&gateway, release, &service, "alice", "").await.expect(200);
    let before = gateway.balance("alice").await;
    for id in ["live", "captured", "released", "nobodys"] {
        for (how, body) in [("capture", five), ("capture", r#"{"credits":0}"#), ("release", "")] {
            let path = format!("/credits/holds/{id}/{how}");
            let answer = post_as(&gateway, &path, &service, "bob", body).await;
            answer.problem(404, "NOT_FOUND");
        }
    }
    assert_eq!(gateway.balance("alice").await, before);
    // A backend that names no account can end every hold that it has made.
    post(&gateway, "/credits/holds/live/capture", &service, five).await.expect(200);
    assert_eq!(gateway.settled_balance("alice").await, 90);
    assert_eq!(gateway.settled_balance("bob").await, 100);
}

#[tokio::test]
async fn a_held_account_is_refused_what_it_cannot_pay_beside_its_hold() {
    let (gateway, service) = shop().await;
    let hold = r#"{"credits":96,"id":"job-1"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let refused = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    assert_eq!(refused.problem(402, "INSUFFICIENT_CREDITS")["available"], 4);
    post(&gateway, "/credits/holds/job-1/release", &service, "").await.expect(200);
    assert_eq!(gateway.post("alice", "/api/ai/generate").await.status(), 200);
    let listed = admin(&gateway, Method::GET, "/admin/accounts/alice", "").await.expect(200);
    assert_eq!(listed["account"], json!("alice"));
    let _ = get(&gateway, "/credits/balance", &service).await.expect(200);
}

#[tokio::test]
async fn many_requests_for_one_hold_make_one() {
    let (gateway, service) = shop().await;
    let hold = r#"{"credits":60,"id":"job-1"}"#;
    let asked = (0..50).map(|_| post_as(&gateway, "/credits/holds", &service, "alice", hold));
    for answer in futures_util::future::join_all(asked).await {
        answer.expect(201);
    }
    assert_eq!(gateway.balance("alice").await["held"], 60);
    // Half of the requests capture the hold, half release it. One of both wins, and all answers
    // agree.
    let ends = (0..50).map(|n| {
        let (way, body) = [("capture", r#"{"credits":60}"#), ("release", "")][n % 2];
        let path = format!("/credits/holds/job-1/{way}");
        let (gateway, service) = (&gateway, &service);
        async move { (n % 2, post(gateway, &path, service, body).await) }
    });
    let mut done = std::collections::HashSet::new();
    for (way, answer) in futures_util::future::join_all(ends).await {
        match answer.status.as_u16() {
            200 => _ = done.insert(way),
            _ => _ = answer.problem(409, "IDEMPOTENCY_CONFLICT"),
        }
    }
    assert_eq!(done.len(), 1, "{done:?}");
    let left = if done.contains(&0) { 40 } else { 100 };
    assert_eq!(gateway.settled_balance("alice").await, left);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn what_can_be_held_can_be_ended() {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let (gateway, service) = shop().await;
    let long = "x".repeat(128);
    for id in [
        "job:7", "a+b", "a;b", "a?b", "a#b", "a%b", "a%2Fb", "\"", "<>", "a/b", "a\\b", ".", "..",
        "capture", "~", &long,
    ] {
        let hold = json!({ "credits": 1, "id": id }).to_string();
        let held = post_as(&gateway, "/credits/holds", &service, "alice", &hold).await;
        if held.status == 400 {
            held.problem(400, "BAD_REQUEST");
            continue;
        }
        assert_eq!(held.expect(201)["id"], id);
        let path = format!("/credits/holds/{}/capture", utf8_percent_encode(id, NON_ALPHANUMERIC));
        let ended = post(&gateway, &path, &service, r#"{"credits":1}"#).await;
        assert_eq!(ended.expect(200)["id"], id, "{path}");
    }
    assert_eq!(gateway.balance("alice").await["held"], 0, "nothing is stuck until it expires");
}
