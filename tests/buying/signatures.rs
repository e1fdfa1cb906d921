//! Signatures made by Stripe's own SDK are accepted, and nothing else.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::Backend;
use crate::http::Answer;
use crate::process::command;
use crate::sdk::Sdk;
use crate::shop::{Shop, WEBHOOK_SECRET, config, ends};
use crate::support::Upstream;
use crate::support::stripe::event::VERSION;
use crate::support::stripe::{SECRET_KEY, Stripe, books, signature};

/// A paid session's event, as its bytes: 500 credits for whoever believes it.
async fn paid(shop: &Shop, account: &str) -> String {
    let session = shop.buy(account, "pack-500").await;
    shop.stripe.pay(&session).last().unwrap().body(VERSION)
}

#[track_caller]
fn refused(answer: &Answer, what: &str) {
    let status = answer.status.as_u16();
    assert!((400..500).contains(&status), "{what}: {status} {}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stripe_s_sdk_signs_is_accepted() {
    let shop = Shop::open(Backend::Embedded).await;
    let mut sdk = Sdk::start();
    let now = books::now();
    // Signed now, nearly too long ago, and by a clock that is a little ahead.
    for (n, at) in [now, now - 290, now + 60].into_iter().enumerate() {
        let body = paid(&shop, "alice").await;
        let header = sdk.sign(&body, WEBHOOK_SECRET, at);
        shop.send(&body, &header).await.expect(200);
        shop.expect_balance("alice", 500 * (n as i64 + 1)).await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signature_is_over_the_bytes_as_they_came() {
    let shop = Shop::open(Backend::Embedded).await;
    let mut sdk = Sdk::start();
    let mut sign = |body: &str| sdk.sign(body, WEBHOOK_SECRET, books::now());
    // Other white space, other escapes, text beyond ASCII: the same event, other bytes.
    let body = paid(&shop, "alice").await;
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    let compact = value.to_string();
    assert_ne!(body, compact);
    let header = sign(&body);
    refused(&shop.send(&compact, &header).await, "the same JSON in other bytes");
    let odd = compact.replacen("A Buyer", "Zo\u{eb} \\u20ac \\/", 1) + " \n\t\n";
    let header = sign(&odd);
    shop.send(&odd, &header).await.expect(200);
    shop.expect_balance("alice", 500).await;
    // Larger than what a proxy may keep of a body.
    let body = paid(&shop, "bob").await;
    let large = body.replacen("A Buyer", &"long ".repeat(60_000), 1);
    let header = sign(&large);
    shop.send(&large, &header).await.expect(200);
    shop.expect_balance("bob", 500).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stripe_did_not_sign_is_refused() {
    let shop = Shop::open(Backend::Embedded).await;
    let mut sdk = Sdk::start();
    let body = paid(&shop, "mallory").await;
    let now = books::now();
    let good = sdk.sign(&body, WEBHOOK_SECRET, now);
    let hex = good.split_once("v1=").unwrap().1.to_owned();
    let other = sdk.sign(&body, "whsec_somebodyElse", now);

    refused(&shop.send(&body, &other).await, "another secret");
    refused(&shop.send(&body, &sdk.sign(&body, "", now)).await, "an empty secret");
    let more = body.replacen("pack-500", "pack-1000", 1);
    refused(&shop.send(&more, &good).await, "a changed body");
    refused(&shop.send(&format!("{body} "), &good).await, "one byte more");
    refused(&shop.send("", &good).await, "no body");
    for (what, at) in [("too old", now - 320), ("too new", now + 320), ("ancient", 0)] {
        let header = sdk.sign(&body, WEBHOOK_SECRET, at);
        refused(&shop.send(&body, &header).await, what);
    }
    let later = good.replacen(&format!("t={now}"), &format!("t={}", now + 1), 1);
    refused(&shop.send(&body, &later).await, "another time than was signed");

    let request = shop.gateway.client.post(shop.gateway.url("/webhooks/stripe"));
    refused(&Answer::of(request.body(body.clone())).await, "no header");
    let bearer = shop.gateway.client.post(shop.gateway.url("/webhooks/stripe"));
    let bearer = bearer.bearer_auth(crate::support::token("mallory")).body(body.clone());
    refused(&Answer::of(bearer).await, "a token in place of a signature");
    let garbage = [
        String::new(),
        ",".to_owned(),
        "t=,v1=".to_owned(),
        format!("t={now}"),
        format!("v1={hex}"),
        format!("t={now},v0={hex}"),
        format!("t={now},v1="),
        format!("t={now},v1={}", &hex[..32]),
        format!("t={now},v1={hex}00"),
        format!("t={now},v1={}g", &hex[..63]),
        format!("t={now},v2={hex}"),
        format!("t=-{now},v1={hex}"),
        format!("t=99999999999999999999999,v1={hex}"),
        format!("t=now,v1={hex}"),
        format!("t={now};v1={hex}"),
        "x".repeat(4000),
    ];
    for header in &garbage {
        refused(&shop.send(&body, header).await, header);
    }
    let bytes = http::HeaderValue::from_bytes(b"t=\xff\xfe,v1=\x80").unwrap();
    let request = shop.gateway.client.post(shop.gateway.url("/webhooks/stripe"));
    let request = request.header("stripe-signature", bytes).body(body.clone());
    refused(&Answer::of(request).await, "a header that is no text");
    let get = shop.gateway.client.get(shop.gateway.url("/webhooks/stripe"));
    refused(&Answer::of(get).await, "GET");
    assert_eq!(shop.balance("mallory").await, 0);

    // The refusals had no other cause: the same event is accepted when Stripe sends it.
    shop.send(&body, &good).await.expect(200);
    shop.expect_lines("mallory", &[("grant", 500.0)]).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_right_signature_of_several_is_enough() {
    let shop = Shop::open(Backend::Embedded).await;
    let mut sdk = Sdk::start();
    let wrong = signature::scheme_v1("x", "y", 1);
    for (n, before) in [true, false].into_iter().enumerate() {
        let body = paid(&shop, "alice").await;
        let now = books::now();
        let header = sdk.sign(&body, WEBHOOK_SECRET, now);
        let (time, right) = header.split_once(',').unwrap();
        // Stripe signs twice while a secret is being replaced, and adds a signature of an old scheme (v0).
        let header = if before {
            format!("{time},v1={wrong},{right},v0={wrong}")
        } else {
            format!("{time},{right},v0={wrong},v1={wrong}")
        };
        shop.send(&body, &header).await.expect(200);
        shop.expect_balance("alice", 500 * (n as i64 + 1)).await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_secret_is_being_replaced_both_are_good() {
    let secrets = r#"webhook_secret = ["whsec_theOldOne", "whsec_theNewOne"]"#;
    let shop = Shop::open_with(Backend::Embedded, secrets).await;
    let mut sdk = Sdk::start();
    for (n, secret) in ["whsec_theOldOne", "whsec_theNewOne"].into_iter().enumerate() {
        let body = paid(&shop, "alice").await;
        let header = sdk.sign(&body, secret, books::now());
        shop.send(&body, &header).await.expect(200);
        shop.expect_balance("alice", 500 * (n as i64 + 1)).await;
    }
    let body = paid(&shop, "alice").await;
    for secret in ["whsec_theOldestOne", "whsec_theOldOnewhsec_theNewOne", ""] {
        let header = sdk.sign(&body, secret, books::now());
        refused(&shop.send(&body, &header).await, secret);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_secret_refuses_to_start() {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let lines = [
        r#"webhook_secret = """#,
        r#"webhook_secret = "  ""#,
        "webhook_secret = []",
        r#"webhook_secret = ["whsec_1", ""]"#,
        r#"webhook_secret = "${NO_SUCH_SECRET:-}""#,
        r#"webhook_secret = "${NO_SUCH_SECRET}""#,
    ];
    for line in lines {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gateway.toml"), config(&upstream, &stripe, line))
            .unwrap();
        let (code, said) = ends(command(folder.path(), &["serve"], &[]));
        assert_eq!(code, Some(2), "{line}: {said}");
        assert!(said.contains("webhook_secret") || said.contains("NO_SUCH_SECRET"), "{said}");
        assert!(!said.contains("whsec_1"), "{said}");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = config(&upstream, &stripe, r#"webhook_secret = "${THE_SECRET}""#);
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let (code, said) = ends(command(folder.path(), &["serve"], &[("THE_SECRET", "")]));
    assert_eq!(code, Some(2), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_not_as_stripe_shows_it_refuses_to_check_and_to_start() {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let text = config(&upstream, &stripe, r#"webhook_secret = "${THE_SECRET}""#);
    let text = text.replace(SECRET_KEY, "${THE_KEY}");
    let (key, secret) = ("sk_test_copiedBadly", "whsec_copiedBadly");
    let spoiled = |value: &str| {
        let line = (format!("{value}\n"), "a line break");
        let inside = (value.replacen("copied", "copied\r\n", 1), "a line break");
        let space = (format!(" {value}"), "a space");
        let quotes = (format!("\"{value}\""), "quotes");
        [line, inside, space, quotes, (format!("'{value}'"), "quotes")]
    };
    let mut cases = Vec::new();
    for (value, stray) in spoiled(key) {
        cases.push((value, secret.to_owned(), "`secret_key`", stray, "sk_"));
    }
    for (value, stray) in spoiled(secret) {
        cases.push((key.to_owned(), value, "`webhook_secret`", stray, "whsec_"));
    }
    for value in ["copiedBadly", "we_copiedBadly", key] {
        cases.push((key.to_owned(), value.to_owned(), "`webhook_secret`", "whsec_", "whsec_"));
    }
    for (key, secret, name, stray, hint) in cases {
        for subcommand in ["check", "serve"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
            let env = [("THE_KEY", key.as_str()), ("THE_SECRET", secret.as_str())];
            let (code, said) = ends(command(folder.path(), &[subcommand], &env));
            assert_eq!(code, Some(2), "{subcommand} {key:?} {secret:?}: {said}");
            for word in [name, stray, "hint:", hint] {
                assert!(said.contains(word), "{word}: {said}");
            }
            assert!(!said.contains("opiedBadly"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_good_signature_costs_one_hash_of_its_body_at_the_most() {
    let shop = Shop::open(Backend::Embedded).await;
    let body = "x".repeat(500_000);
    let now = books::now();
    let wrong = "0".repeat(64);
    let headers = [
        format!("t={now}{}", ",v1=".repeat(15_000)),
        format!("t={now}{}", ",v1=00".repeat(10_000)),
        format!("t={now}{}", format!(",v1={wrong}").repeat(900)),
        format!("t={now}{}", ",".repeat(60_000)),
        format!("t={now}{}", format!(",t={now}").repeat(4_000)),
        format!("t={now},v1={wrong}"),
        format!("t={},v1={wrong}", now - 301),
    ];
    for header in &headers {
        let started = Instant::now();
        refused(&shop.send(&body, header).await, &header[..40]);
        // A hash of half a megabyte takes milliseconds, and thousands of them take many seconds.
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:.40} {:?}",
            header,
            started.elapsed()
        );
    }
    // Many such webhooks arrive at once, and the gateway serves meanwhile.
    shop.gateway.grant("alice", 100, "gift").await;
    let flood = (0..20).map(|_| shop.send(&body, &headers[5]));
    let calls = async {
        for _ in 0..10 {
            let started = Instant::now();
            shop.call("alice").await.expect(200);
            assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        }
    };
    tokio::join!(futures_util::future::join_all(flood), calls);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stripe_s_thin_events_and_pings_are_acknowledged() {
    let mut shop = Shop::open(Backend::Embedded).await;
    let related = json!({ "id": "ch_1", "type": "charge", "url": "/v1/charges/ch_1" });
    let thin = json!({ "id": "evt_65R9Ijk8dKEYZcXeRWn16R9A7j1FSQ3w3TGDPLLGSM4CW0",
        "object": "v2.core.event", "type": "v1.charge.refunded", "livemode": false,
        "created": "2026-11-29T22:10:55.000Z", "context": null, "related_object": related });
    let ping = json!({ "id": "evt_test_65R9Ijk8dKEYZcXeRWn", "object": "v2.core.event",
        "type": "v2.core.event_destination.ping", "created": "2026-11-29T22:10:55.000Z",
        "livemode": false, "context": null, "reason": null, "data": {},
        "related_object": { "id": "ed_test_1", "type": "v2.core.event_destination",
            "url": "/v2/core/event_destinations/ed_test_1" } });
    for event in [&thin, &ping] {
        let body = event.to_string();
        let good = signature::header(&body, WEBHOOK_SECRET, books::now());
        assert_eq!(shop.send(&body, &good).await.expect(200)["state"], "ignored");
        let other = signature::header(&body, "whsec_somebodyElse", books::now());
        refused(&shop.send(&body, &other).await, "a thin event of somebody else's");
    }
    // A seller who chose thin payloads by mistake reads what to do.
    shop.gateway.wait_until(|gateway| {
        let said = gateway.stdout() + &gateway.stderr();
        said.contains("v1.charge.refunded") && said.contains("snapshot")
    });
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_signed_and_no_event_breaks_nothing() {
    let shop = Shop::open(Backend::Embedded).await;
    let thin = json!({ "id": "evt_1", "object": "v2.core.event", "type": "v1.charge.refunded" });
    let bodies = [
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "{".to_owned(),
        "\u{feff}{}".to_owned(),
        r#"{"id":"evt_1","object":"event","type":"charge.refunded"}"#.to_owned(),
        r#"{"id":"evt_2","object":"event","type":"charge.refunded","data":{"object":[]}}"#.to_owned(),
        r#"{"id":"evt_3","object":"event","type":"charge.dispute.created","data":{"object":{}}}"#.to_owned(),
        r#"{"id":"evt_4","object":"event","type":"checkout.session.completed","data":{"object":{"id":7}}}"#.to_owned(),
        r#"{"id":"","object":"event","type":"","data":{}}"#.to_owned(),
        thin.to_string(),
        "[".repeat(50_000),
    ];
    for body in &bodies {
        let header = signature::header(body, WEBHOOK_SECRET, books::now());
        let answer = shop.send(body, &header).await;
        assert!(answer.status.as_u16() < 500, "{body:.60}: {}", answer.text);
    }
    shop.bought("alice").await;
    shop.close().await;
}
