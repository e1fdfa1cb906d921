//! Bodies that move money: refunds of a part, and members that nobody knows.

use http::Method;
use serde_json::json;

use crate::admin::gateway;
use crate::http::{admin, post, transactions};
use crate::support::token;

#[tokio::test]
async fn parts_of_a_capture_are_refunded_each_once_and_never_more_than_was_captured() {
    let (_upstream, gateway) = gateway().await;
    gateway.grant("alice", 10).await;
    let call = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    let id = call.header("x-request-id").to_owned();
    let refund = async |body: &str| {
        admin(&gateway, Method::POST, &format!("/admin/captures/{id}/refund"), body).await
    };
    assert_eq!(gateway.settled_balance("alice").await, 5);
    // A partial refund has an id, and a whole one has none. A partial refund needs an amount.
    for body in [
        r#"{"credits":2}"#,
        r#"{"credits":2,"id":null}"#,
        r#"{"credits":null}"#,
        r#"{"id":"part-1"}"#,
        r#"{"credits":2,"id":""}"#,
        r#"{"credits":2,"id":"a b"}"#,
        r#"{"credits":-2,"id":"part-1"}"#,
    ] {
        refund(body).await.problem(400, "BAD_REQUEST");
    }
    refund(r#"{"credits":0,"id":"part-1"}"#).await.problem(422, "BAD_REQUEST");
    refund(r#"{"credits":5.000001,"id":"part-1"}"#).await.problem(422, "BAD_REQUEST");
    assert_eq!(gateway.settled_balance("alice").await, 5, "a refused refund gives nothing");

    let part = r#"{"credits":2,"id":"part-1","reason":"half of it was wrong"}"#;
    let first = refund(part).await.expect(200);
    assert_eq!((&first["kind"], &first["amount"]), (&json!("refund"), &json!(2)));
    assert_eq!(
        (&first["request_id"], &first["reason"]),
        (&json!(id), &json!("half of it was wrong"))
    );
    assert_eq!(refund(part).await.expect(200), first, "the same id again: the same answer");
    let other = refund(r#"{"credits":1,"id":"part-1"}"#).await;
    other.problem(409, "IDEMPOTENCY_CONFLICT");
    let above = refund(r#"{"credits":3.5,"id":"part-2"}"#).await.problem(422, "BAD_REQUEST");
    assert!(above["detail"].as_str().unwrap().contains("3 credits"), "{above}");
    refund(r#"{"credits":"0.5","id":"part-2"}"#).await.expect(200);
    assert_eq!(gateway.balance("alice").await["balance"], 7.5);
    // A refund of everything then refunds what is left.
    let rest = refund("").await.expect(200);
    assert_eq!(rest["amount"], 2.5, "{rest}");
    assert_eq!(refund("").await.expect(200), rest);
    refund(r#"{"credits":0.000001,"id":"part-3"}"#).await.problem(422, "BAD_REQUEST");
    assert_eq!(refund(part).await.expect(200), first);
    assert_eq!(gateway.settled_balance("alice").await, 10);
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn refunds_at_once_give_back_no_more_than_was_captured() {
    let (_upstream, gateway) = gateway().await;
    gateway.grant("alice", 5).await;
    let call = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    let path = format!("/admin/captures/{}/refund", call.header("x-request-id"));
    assert_eq!(gateway.settled_balance("alice").await, 0);
    let asked = (0..40).map(|n| {
        let body = match n % 10 {
            9 => String::new(),
            // Each id comes four times.
            n => json!({ "credits": 0.7, "id": format!("part-{n}") }).to_string(),
        };
        let (gateway, path) = (&gateway, &path);
        async move { admin(gateway, Method::POST, path, &body).await }
    });
    for answer in futures_util::future::join_all(asked).await {
        if answer.status != 200 {
            answer.problem(422, "BAD_REQUEST");
        }
    }
    admin(&gateway, Method::POST, &path, "").await;
    assert_eq!(gateway.settled_balance("alice").await, 5);
    let lines = transactions(&gateway, "alice").await;
    let refunds = lines.iter().filter(|line| line["kind"] == "refund");
    let sum: f64 = refunds.map(|line| line["amount"].as_f64().unwrap()).sum();
    assert!((sum - 5.0).abs() < 1e-9, "{lines:?}");
    gateway.assert_reconciled().await;
}

/// A slip of the pen in a body that moves money must not move other money than was meant.
#[tokio::test]
async fn bodies_that_move_money_refuse_members_that_they_do_not_know() {
    let (_upstream, gateway) = gateway().await;
    gateway.grant("alice", 20).await;
    let call = post(&gateway, "/api/ai/generate", &token("alice"), "").await;
    let refund = format!("/admin/captures/{}/refund", call.header("x-request-id"));
    assert_eq!(gateway.settled_balance("alice").await, 15);
    let service = gateway.key("alice", true).await;
    let hold = r#"{"credits":5,"id":"job-1"}"#;
    post(&gateway, "/credits/holds", &service, hold).await.expect(201);
    let key = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let key = format!(r#""keys":[{{"account":"alice","hash":"{key}""#);
    let before = (gateway.balance("alice").await, transactions(&gateway, "alice").await.len());

    // Each case has a path, whether the admin listener has that path, a body that would be
    // accepted, and the text in the body before which the member is inserted.
    let grants = "/admin/accounts/alice/grants";
    let payment = r#"{"credits":5,"id":"g","payment":{"payment_intent":"pi_1","paid":"1.00 EUR"}}"#;
    let row = r#"{"rows":[{"account":"alice","credits":5,"id":"g"}]}"#;
    let (keys, in_key) = (format!("{{{key}}}]}}"), format!("{{{key},X}}]}}"));
    let bodies = [
        (grants, true, r#"{"credits":5,"id":"g",X}"#.to_owned()),
        (grants, true, payment.replace("1.00 EUR\"", "1.00 EUR\",X")),
        ("/admin/accounts/alice/adjustments", true, r#"{"credits":5,"id":"a",X}"#.to_owned()),
        (&refund, true, "{X}".to_owned()),
        (&refund, true, r#"{"credits":2,"id":"r",X}"#.to_owned()),
        ("/admin/import", true, row.replace("]}", "],X}")),
        ("/admin/import", true, row.replace("}]", ",X}]")),
        ("/admin/keys/import", true, keys.replace("]}", "],X}")),
        ("/admin/keys/import", true, in_key),
        ("/credits/holds", false, r#"{"credits":1,"id":"job-2",X}"#.to_owned()),
        ("/credits/holds/job-1/capture", false, r#"{"credits":1,X}"#.to_owned()),
        ("/credits/holds/job-1/release", false, "{X}".to_owned()),
        ("/credits/buy", false, r#"{"pack":"pack-500",X}"#.to_owned()),
    ];
    let ask = async |path: &str, is_admin: bool, body: &str| match is_admin {
        true => admin(&gateway, Method::POST, path, body).await,
        false => post(&gateway, path, &service, body).await,
    };
    for (path, is_admin, body) in &bodies {
        for unknown in [r#""credit":2"#, r#""Credits":2"#, r#""amount":2"#, r#""ttl":1"#] {
            let name = unknown.split('"').nth(1).unwrap();
            let body = body.replace('X', unknown);
            let problem = ask(path, *is_admin, &body).await.problem(400, "BAD_REQUEST");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("`{name}`")), "{path} {body}: {detail}");
        }
        // Two values for one member: which is meant, nobody can say.
        for (name, again) in
            [("credits", r#""credits":2"#), ("id", r#""id":"b""#), ("pack", r#""pack":"b""#)]
        {
            let body = body.replace('X', again);
            if body.matches(&format!("\"{name}\":")).count() == 2 {
                ask(path, *is_admin, &body).await.problem(400, "BAD_REQUEST");
            }
        }
    }
    let after = (gateway.balance("alice").await, transactions(&gateway, "alice").await.len());
    assert_eq!(before, after, "nothing moved");
    let keys = gateway.admin(Method::GET, "/admin/accounts/alice/keys", None).await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{keys}");
    // Known currencies are accepted.
    let known = r#"{"credits":"0.5","id":"g","reason":"r","source":"import","payment":null}"#;
    ask(grants, true, known).await.expect(200);
    let known = r#"{"endpoint":"/api/ai/generate","method":"POST","id":"job-3","ttl_seconds":9}"#;
    ask("/credits/holds", false, known).await.expect(201);
    ask("/credits/holds/job-3/release", false, "{}").await.expect(200);
    ask(&refund, true, r#"{"reason":"slow"}"#).await.expect(200);
    assert_eq!(gateway.balance("alice").await["balance"], 20.5);
}
