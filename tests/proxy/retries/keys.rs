//! Calls with an idempotency key.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::{Counting, PATH, ROUTE, ask, assert_replays, gateway, keyed};
use crate::support::h2::{http2, read};
use crate::support::http::{Answer, admin, plain_client};
use crate::support::wire::{RawUpstream, Wire, post, status};
use crate::support::{TestGateway, config_text, eventually, token};

#[tokio::test]
async fn a_retry_gets_the_answer_that_was_paid_for() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let first = ask(&gateway, "once", "{}").await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    assert_eq!((first.header("x-credits-cost"), first.header("x-credits-remaining")), ("5", "95"));
    let another = ask(&gateway, "another", "{}").await;
    assert_eq!(another.header("x-call"), "2");
    for key in ["once", "\"once\""] {
        let again = ask(&gateway, key, "{}").await;
        assert_replays(&first, &again);
        assert_eq!(again.header("x-credits-remaining"), "90", "as it is now");
        assert_eq!(again.header("content-length"), first.text.len().to_string());
    }
    assert_eq!(counting.calls(), 2);
    assert_eq!(gateway.settled_balance("alice").await, 90);
    let metrics = gateway.client.get(gateway.admin_url("/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let series = "farebox_replays_total{route=\"/x/{*rest}\"} 2";
    assert!(metrics.contains(series), "{metrics}");
    gateway.assert_reconciled().await;
}

fn wall_ms() -> i128 {
    time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000
}

#[tokio::test]
async fn the_entry_of_a_call_says_how_often_its_answer_was_sent_again() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    assert_eq!(ask(&gateway, "never-repeated", "{}").await.status, 200);
    assert_eq!(ask(&gateway, "once", "{}").await.status, 200);
    // Each of alice's entries, newest first, in three lists: her own, and two of the operator's.
    let lines = async || -> Vec<[Value; 3]> {
        let own = gateway.client.get(gateway.url("/credits/transactions"));
        let own = Answer::of(own.bearer_auth(token("alice"))).await;
        let of_her = admin(&gateway, Method::GET, "/admin/accounts/alice/transactions", "").await;
        let newest = admin(&gateway, Method::GET, "/admin/entries", "").await;
        let lists = [(own, "transactions"), (of_her, "transactions"), (newest, "entries")];
        let [own, of_her, newest] =
            lists.map(|(answer, list)| answer.expect(200)[list].as_array().unwrap().clone());
        let all = own.into_iter().zip(of_her).zip(newest);
        all.map(|((own, of_her), newest)| [own, of_her, newest]).collect()
    };
    for line in lines().await.iter().flatten() {
        assert!(line.get("replays").is_none() && line.get("replayed_at").is_none(), "{line}");
    }
    let before = wall_ms();
    let mut times = 0;
    for more in [1, 2] {
        for _ in 0..more {
            assert_eq!(ask(&gateway, "once", "{}").await.header("idempotent-replayed"), "true");
        }
        times += more;
        let told = async || lines().await[0].iter().all(|line| line["replays"] == times);
        assert!(eventually(told).await, "{times}: {:?}", lines().await);
    }
    for line in &lines().await[0] {
        let at = line["replayed_at"].as_str().unwrap();
        let at =
            time::OffsetDateTime::parse(at, &Rfc3339).unwrap().unix_timestamp_nanos() / 1_000_000;
        assert!((before..=wall_ms()).contains(&at), "{line}");
    }
    for lines in &lines().await[1..] {
        assert!(
            lines.iter().all(|line| line.get("replays").is_none()),
            "of other entries: {lines:?}"
        );
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn every_status_that_is_charged_is_replayed_with_or_without_a_body() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let client = plain_client().redirect(reqwest::redirect::Policy::none());
    let client = client.build().unwrap();
    for code in [201, 204, 302, 304] {
        for method in [Method::POST, Method::GET, Method::HEAD] {
            let ask = || {
                let request = client.request(method.clone(), gateway.url(PATH));
                let key = format!("{method}-{code}");
                request.bearer_auth(token("alice")).header("idempotency-key", key)
            };
            counting.statuses.lock().unwrap().push_back(code);
            let calls = counting.calls();
            let first = Answer::of(ask()).await;
            assert_eq!(first.status, code);
            let again = Answer::of(ask()).await;
            assert_replays(&first, &again);
            assert_eq!(
                again.headers.get("content-length"),
                first.headers.get("content-length"),
                "{method} {code}"
            );
            assert_eq!(counting.calls(), calls + 1);
        }
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_stream_is_replayed_whole() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let ask = || {
        let request = gateway.client.post(gateway.url(&format!("{PATH}?stream")));
        request.bearer_auth(token("alice")).header("idempotency-key", "once").body("{}")
    };
    let first = Answer::of(ask()).await;
    assert!(!first.headers.contains_key("content-length"), "its length was not known");
    assert_replays(&first, &Answer::of(ask()).await);
    assert_eq!(counting.calls(), 1);
}

#[tokio::test]
async fn another_request_under_the_key_is_422() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let send = |method: Method, path: &str, kind: &str, body: &'static str| {
        let request = gateway.client.request(method, gateway.url(path)).bearer_auth(token("alice"));
        let request = request.header("idempotency-key", "once").header("content-type", kind);
        Answer::of(request.body(body))
    };
    let first = send(Method::POST, PATH, "application/json", "{}").await;
    assert_eq!(first.status, 200, "{}", first.text);
    for (method, path, kind, body) in [
        (Method::PUT, PATH, "application/json", "{}"),
        (Method::POST, "/x/other", "application/json", "{}"),
        (Method::POST, "/x/generate?a=1", "application/json", "{}"),
        (Method::POST, PATH, "text/plain", "{}"),
        (Method::POST, PATH, "application/json", "[]"),
        (Method::POST, PATH, "application/json", ""),
    ] {
        let other = send(method, path, kind, body).await;
        other.problem(422, "IDEMPOTENCY_CONFLICT");
        assert_eq!(other.header("x-should-retry"), "false");
    }
    assert_replays(&first, &send(Method::POST, PATH, "application/json", "{}").await);
    assert_eq!(counting.calls(), 1);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn the_key_of_another_account_or_api_key_is_its_own() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    gateway.grant("bob", 100).await;
    let mut credentials = vec![token("alice"), token("bob")];
    for (account, service) in [("alice", false), ("alice", false), ("bob", false), ("shop", true)] {
        credentials.push(gateway.key(account, service).await);
    }
    let send = |credential: &str| {
        let request = gateway.client.post(gateway.url(PATH)).bearer_auth(credential);
        let request = request.header("idempotency-key", "once").body("{}");
        // Only the service key may name an account.
        Answer::of(request.header("x-farebox-account", "alice"))
    };
    let mut firsts = Vec::new();
    for (index, credential) in credentials.iter().enumerate() {
        let first = send(credential).await;
        assert_eq!(first.header("x-call"), (index + 1).to_string(), "{}", first.text);
        firsts.push(first);
    }
    for (credential, first) in credentials.iter().zip(&firsts) {
        assert_replays(first, &send(credential).await);
    }
    assert_eq!(counting.calls(), credentials.len());
    // Another token of the same account is the same credential.
    let again = send(&crate::support::token_for("alice", 1800)).await;
    assert_replays(&firsts[0], &again);
}

#[tokio::test]
async fn while_the_first_call_runs_another_is_409_and_a_retry_that_says_so_waits() {
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    let first = tokio::spawn(Answer::of(keyed(&gateway, "once", "{}")));
    assert!(eventually(async || counting.calls() == 1).await);
    let busy = ask(&gateway, "once", "{}").await;
    busy.problem(409, "IDEMPOTENCY_IN_PROGRESS");
    assert_eq!((busy.header("retry-after"), busy.header("x-should-retry")), ("1", "true"));
    let french = keyed(&gateway, "once", "{}").header("accept-language", "fr");
    let french = Answer::of(french).await.problem(409, "IDEMPOTENCY_IN_PROGRESS");
    assert!(french["detail"].as_str().unwrap().contains("en cours"), "{french}");
    ask(&gateway, "once", "other").await.problem(422, "IDEMPOTENCY_CONFLICT");
    let waiting = keyed(&gateway, "once", "{}").header("x-stainless-retry-count", "1");
    let waiting = tokio::spawn(Answer::of(waiting));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished() && !first.is_finished());
    counting.answer_one();
    let first = first.await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text);
    assert_replays(&first, &waiting.await.unwrap());
    assert_eq!(counting.calls(), 1);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn a_retry_waits_no_longer_than_for_an_upstream() {
    let counting = Counting::slow().await;
    let text = ROUTE.replace("credits = 5", "credits = 5\nread_timeout = \"400ms\"");
    let gateway = TestGateway::start(&config_text(counting.upstream.address, &text)).await;
    gateway.grant("alice", 100).await;
    let first = tokio::spawn(Answer::of(keyed(&gateway, "once", "{}")));
    assert!(eventually(async || counting.calls() == 1).await);
    let waiting = keyed(&gateway, "once", "{}").header("x-stainless-retry-count", "1");
    let waiting = Answer::of(waiting).await;
    // The first call fails at about the same time; its retry then runs, and fails as well.
    assert!(matches!(waiting.status.as_u16(), 409 | 504), "{} {}", waiting.status, waiting.text);
    first.await.unwrap().problem(504, "UPSTREAM_TIMEOUT");
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn an_answer_that_was_not_charged_is_forgotten() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    counting.statuses.lock().unwrap().extend([500, 429, 404]);
    for code in [500, 429, 404] {
        let failed = ask(&gateway, "once", "{}").await;
        assert_eq!(failed.status, code);
        assert!(!failed.headers.contains_key("idempotent-replayed"));
        assert_eq!(gateway.settled_balance("alice").await, 100);
    }
    // After a call that cost nothing, the key may be used for another request.
    let first = ask(&gateway, "once", "other").await;
    assert_eq!((first.status.as_u16(), first.header("x-call")), (200, "4"));
    assert_replays(&first, &ask(&gateway, "once", "other").await);
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn an_account_without_credits_gets_what_it_has_paid_for_and_no_more() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    gateway.grant("poor", 5).await;
    let send = |key: &str| {
        let request = gateway.client.post(gateway.url(PATH)).bearer_auth(token("poor"));
        Answer::of(request.header("idempotency-key", key).body("{}"))
    };
    let first = send("once").await;
    assert_eq!(first.header("x-credits-remaining"), "0");
    assert_replays(&first, &send("once").await);
    send("new").await.problem(402, "INSUFFICIENT_CREDITS");
    // A refused call leaves no claim.
    gateway.grant("poor", 5).await;
    assert_eq!(send("new").await.header("x-call"), "2");
    // A client's own limit does not stand between it and what it has paid for.
    let limited = gateway.client.post(gateway.url(PATH)).bearer_auth(token("poor"));
    let limited = |key: &str| {
        let request = limited.try_clone().unwrap().header("idempotency-key", key).body("{}");
        Answer::of(request.header("x-credits-max", "1"))
    };
    assert_replays(&first, &limited("once").await);
    gateway.grant("poor", 5).await;
    limited("newer").await.problem(402, "PRICE_OVER_LIMIT");
    assert_eq!(gateway.settled_balance("poor").await, 5);
    assert_eq!(counting.calls(), 2);
}

#[tokio::test]
async fn a_revoked_key_gets_its_refusal_and_no_answer() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let made = json!({ "name": "test", "service": false });
    let made = gateway.admin(Method::POST, "/admin/accounts/alice/keys", Some(made)).await;
    let send = || {
        let request = gateway.client.post(gateway.url(PATH));
        let request = request.bearer_auth(made["key"].as_str().unwrap());
        Answer::of(request.header("idempotency-key", "once").body("{}"))
    };
    send().await.expect(200);
    let path = format!("/admin/keys/{}", made["id"].as_str().unwrap());
    assert!(admin(&gateway, Method::DELETE, &path, "").await.status.is_success());
    send().await.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_400_and_two_are_too() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let long = "x".repeat(256);
    for key in ["", "two words", "\"open", long.as_str()] {
        ask(&gateway, key, "{}").await.problem(400, "BAD_REQUEST");
    }
    let two = keyed(&gateway, "one", "{}").header("idempotency-key", "two");
    Answer::of(two).await.problem(400, "BAD_REQUEST");
    assert_eq!(counting.calls(), 0);
}

#[tokio::test]
async fn the_upstream_sees_a_key_only_where_farebox_does_not_read_it() {
    let counting = Counting::quick().await;
    let on = gateway(&counting, "").await;
    let first = ask(&on, "once", "{}").await;
    assert_eq!(first.status, 200);
    let off = gateway(&counting, "[idempotency]\nenabled = false").await;
    for call in ["2", "3"] {
        assert_eq!(ask(&off, "\"not a key\"", "{}").await.header("x-call"), call);
    }
    let seen = counting.upstream.seen();
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key")).collect();
    assert_eq!(keys, [None, Some("\"not a key\""), Some("\"not a key\"")]);
    assert_eq!(off.settled_balance("alice").await, 90);
    // No key is needed on a free route.
    let free = ROUTE.replace("/x/", "/free/").replace("credits = 5", "credits = 0");
    let gateway = TestGateway::start(&config_text(counting.upstream.address, &free)).await;
    let request = gateway.client.post(gateway.url("/free/x")).bearer_auth(token("alice"));
    let request = request.header("idempotency-key", "two words");
    assert_eq!(Answer::of(request).await.status, 200);
    let seen = counting.upstream.seen();
    assert_eq!(seen.last().unwrap().header("idempotency-key"), Some("two words"));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_paid_for_once_and_said_to_be_gone() {
    let body = "x".repeat(10_000);
    let raw = RawUpstream::start(move |mut wire| {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        async move {
            while wire.message().await.is_some() {
                wire.send(&answer).await;
            }
        }
    })
    .await;
    let more = [ROUTE, "[idempotency]\nmax_answer = \"1 KiB\""].concat();
    let gateway = TestGateway::start(&config_text(raw.address, &more)).await;
    gateway.grant("alice", 100).await;
    assert_eq!(ask(&gateway, "once", "{}").await.text.len(), 10_000);
    for _ in 0..2 {
        let gone = ask(&gateway, "once", "{}").await;
        gone.problem(409, "IDEMPOTENCY_NOT_KEPT");
        assert_eq!(gone.header("x-should-retry"), "false");
        assert!(!gone.headers.contains_key("retry-after"));
    }
    ask(&gateway, "once", "other").await.problem(422, "IDEMPOTENCY_CONFLICT");
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn keys_work_over_http_2() {
    let counting = Counting::quick().await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = crate::support::h2::write_certificate(folder.path());
    let address = counting.upstream.address;
    let text = crate::support::config_with(address, crate::support::h2::TLS, "", ROUTE);
    let gateway = TestGateway::start_in(folder, &text).await;
    gateway.grant("alice", 100).await;
    let mut client = http2(gateway.public(), &certificate).await;
    let mut answers = Vec::new();
    for (key, body) in [("once", &b"{}"[..]), ("once", b"{}"), ("once", b"[]")] {
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("https://{}{PATH}", crate::support::h2::HOST))
            .header("authorization", format!("Bearer {}", token("alice")))
            .header("idempotency-key", key)
            .body(())
            .unwrap();
        let (answer, mut send) = client.send_request(request, false).unwrap();
        send.send_data(bytes::Bytes::from_static(body), true).unwrap();
        let answer = answer.await.unwrap();
        let (head, mut body) = answer.into_parts();
        answers.push((head, read(&mut body).await.unwrap()));
    }
    let [(first, words), (again, same), (other, _)] = &answers[..] else { panic!() };
    assert_eq!(
        (first.status.as_u16(), again.status.as_u16(), other.status.as_u16()),
        (200, 200, 422)
    );
    assert_eq!(words, same);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.headers["x-call"], first.headers["x-call"]);
    assert_eq!(counting.calls(), 1);
}

#[tokio::test]
async fn a_connection_serves_on_after_a_replay() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    let request = post(PATH, "alice", "{}").replace("host:", "idempotency-key: once\r\nhost:");
    let mut texts = Vec::new();
    for _ in 0..3 {
        client.send(&request).await;
        let (head, body) = client.message().await.unwrap();
        assert_eq!(status(&head), 200);
        texts.push(body);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert_eq!(counting.calls(), 1);
}
