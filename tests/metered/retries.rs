//! A retry of a metered call is charged once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::refusals::freeze;
use crate::shop::{CHAT, MESSAGES, balance, body, held, model, post, post_by, routes, shop, with};
use crate::support::ai::{
    Ai, DONE, Reply, Step, chat, chat_chunk, chat_events, chat_usage, message_events,
};
use crate::support::http::Answer;
use crate::support::wire::{Wire, post as raw_post};
use crate::support::{TestGateway, config_text, eventually, parse};

fn whole() -> String {
    body(&json!({ "max_tokens": 500 }))
}

fn stream(more: &Value) -> String {
    let mut members = json!({ "stream": true, "max_tokens": 500 });
    for (name, value) in more.as_object().unwrap() {
        members[name] = value.clone();
    }
    body(&members)
}

/// The whole answer to a POST of alice with a key.
async fn keyed(gateway: &TestGateway, path: &str, key: &str, body: &str) -> Answer {
    Answer::of(post(gateway, path, body).header("idempotency-key", key)).await
}

/// A raw client of alice that has sent its request, with more header lines.
async fn client(gateway: &TestGateway, path: &str, more: &str, body: &str) -> Wire {
    let mut client = Wire::connect(gateway.public()).await;
    let more = format!("{more}\r\ncontent-type: application/json\r\nhost:");
    client.send(raw_post(path, "alice", body).replace("host:", &more)).await;
    client
}

/// Waits until the gateway has noticed that its client left.
async fn noticed() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_whole_answer_is_replayed_with_what_it_cost_then() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let gateway = shop(&ai, "", 100).await;
    let first = keyed(&gateway, CHAT, "once", &whole()).await;
    assert_eq!(
        (first.header("x-credits-cost"), first.header("x-credits-remaining")),
        ("0.15", "99.85")
    );
    keyed(&gateway, CHAT, "another", &whole()).await.expect(200);
    let again = keyed(&gateway, CHAT, "once", &whole()).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
    assert_eq!(
        (again.header("x-credits-cost"), again.header("x-credits-remaining")),
        ("0.15", "99.7")
    );
    assert_eq!(again.header("content-type"), "application/json");
    assert_eq!(ai.asked().len(), 2);
    assert_eq!(balance(&gateway).await, "99.7");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_stream_is_replayed_as_its_client_saw_it_with_what_it_cost() {
    let usage = json!({ "input_tokens": 200, "output_tokens": 1 });
    let openai = chat_events(&["one", "two"], &chat_usage(200, 100));
    let anthropic = message_events(&["one", "two"], &usage, 100);
    for (path, events, reports) in
        [(CHAT, openai, false), (CHAT, vec![], true), (MESSAGES, anthropic, true)]
    {
        let events = if events.is_empty() {
            chat_events(&["one", "two"], &chat_usage(200, 100))
        } else {
            events
        };
        let ai = Ai::answering(Reply::events(&events)).await;
        let gateway = shop(&ai, "", 100).await;
        let send = || {
            let request = post(&gateway, path, &stream(&json!({})));
            let request = request.header("idempotency-key", "once");
            Answer::of(if reports { request.header("x-credits-report", "true") } else { request })
        };
        let first = send().await;
        assert_eq!((first.status.as_u16(), first.header("x-credits-held")), (200, "0.55"));
        assert_eq!(first.text.contains(": farebox "), reports, "{}", first.text);
        assert_eq!(balance(&gateway).await, "99.85", "charged before the stream's end was seen");
        let again = send().await;
        assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
        assert_eq!(again.header("x-credits-held"), "");
        assert_eq!(
            (again.header("x-credits-cost"), again.header("x-credits-remaining")),
            ("0.15", "99.85")
        );
        assert_eq!(ai.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_call_that_was_left_is_read_to_its_end_and_charged_by_its_usage() {
    let json = chat("ok", &chat_usage(200, 100)).to_string();
    let events = chat_events(&["one", "two"], &chat_usage(200, 100));
    let shown = [chat_chunk("one"), chat_chunk("two"), DONE.to_owned()].concat();
    for begun in [false, true] {
        for (is_stream, asked, text) in
            [(false, whole(), &json), (true, stream(&json!({})), &shown)]
        {
            let permits = Arc::new(Semaphore::new(0));
            let kind = if is_stream { "text/event-stream" } else { "application/json" };
            let parts: Vec<Vec<u8>> = if is_stream {
                events.iter().map(|event| event.clone().into_bytes()).collect()
            } else {
                json.as_bytes().chunks(50).map(<[u8]>::to_vec).collect()
            };
            let mut reply = Reply::chunked(kind);
            reply.0.extend(parts[..1].iter().cloned().map(Step::Chunk));
            reply.0.insert(if begun { 2 } else { 0 }, Step::Wait(permits.clone()));
            reply.0.extend(parts[1..].iter().cloned().map(Step::Chunk));
            let ai = Ai::answering(reply.then(Step::End)).await;
            let gateway = shop(&ai, "", 100).await;
            let mut left = client(&gateway, CHAT, "idempotency-key: once", &asked).await;
            assert!(eventually(async || ai.asked().len() == 1).await);
            if begun && is_stream {
                left.up_to("one").await.unwrap();
            }
            drop(left);
            noticed().await;
            assert_eq!(held(&gateway).await, "0.55", "stream: {is_stream} begun: {begun}");
            permits.add_permits(1);
            assert_eq!(balance(&gateway).await, "99.85", "stream: {is_stream} begun: {begun}");
            let retry = keyed(&gateway, CHAT, "once", &asked).await;
            assert_eq!((retry.header("idempotent-replayed"), &retry.text), ("true", text));
            assert_eq!(retry.header("x-credits-cost"), "0.15");
            assert_eq!(ai.asked().len(), 1);
            gateway.assert_reconciled().await;
        }
    }
}

#[tokio::test]
async fn the_retry_of_an_sdk_gets_the_answer_of_the_call_that_it_left() {
    let json = chat("ok", &chat_usage(200, 100)).to_string();
    let (first, rest) = json.split_at(30);
    for begun in [false, true] {
        let permits = Arc::new(Semaphore::new(0));
        let mut reply = Reply::chunked("application/json").then(Step::Chunk(first.into()));
        reply.0.insert(if begun { 2 } else { 0 }, Step::Wait(permits.clone()));
        let reply = reply.then(Step::Chunk(rest.into())).then(Step::End);
        let ai = Ai::answering(reply).await;
        let gateway = shop(&ai, "", 100).await;
        let left = client(&gateway, CHAT, "x-stainless-retry-count: 0", &whole()).await;
        assert!(eventually(async || ai.asked().len() == 1).await);
        // The head of a JSON answer is sent once its usage is known, so it was not sent yet.
        noticed().await;
        drop(left);
        noticed().await;
        permits.add_permits(5);
        let send =
            || Answer::of(post(&gateway, CHAT, &whole()).header("x-stainless-retry-count", 1));
        let retry = send().await;
        assert_eq!((retry.header("idempotent-replayed"), &retry.text), ("true", &json), "{begun}");
        assert_eq!((ai.asked().len(), balance(&gateway).await), (1, "99.85".to_owned()));
        assert_eq!(send().await.header("idempotent-replayed"), "", "an answer serves one retry");
        assert_eq!((ai.asked().len(), balance(&gateway).await), (2, "99.7".to_owned()));
    }
}

#[tokio::test]
async fn a_stream_whose_head_was_sent_is_not_replayed_to_an_sdk() {
    let permits = Arc::new(Semaphore::new(0));
    let events = chat_events(&["one", "two"], &chat_usage(200, 100));
    let mut reply = Reply::begin_events(&events[..1]).then(Step::Wait(permits.clone()));
    reply.0.extend(events[1..].iter().map(|event| Step::Chunk(event.clone().into_bytes())));
    let ai = Ai::answering(reply.then(Step::End)).await;
    let gateway = shop(&ai, "", 100).await;
    let asked = stream(&json!({}));
    let mut left = client(&gateway, CHAT, "x-stainless-retry-count: 0", &asked).await;
    left.up_to("one").await.unwrap();
    drop(left);
    noticed().await;
    permits.add_permits(2);
    let retry = Answer::of(post(&gateway, CHAT, &asked).header("x-stainless-retry-count", 1)).await;
    assert_eq!((retry.status.as_u16(), retry.header("idempotent-replayed")), (200, ""));
    assert_eq!(ai.asked().len(), 2);
}

#[tokio::test]
async fn refusals_come_in_the_shape_of_anthropic_where_that_is_the_meter() {
    let permits = Arc::new(Semaphore::new(0));
    let answer =
        crate::support::ai::message("ok", &json!({ "input_tokens": 200, "output_tokens": 100 }));
    let mut reply = Reply(vec![Step::Wait(permits.clone())]);
    reply.0.extend(Reply::json(&answer).0);
    let ai = Ai::answering(reply).await;
    let tables = [routes(""), model("m", ""), "[idempotency]\nmax_answer = \"1 KiB\"".into()];
    let gateway = with(&ai, &tables.concat(), 100).await;
    let first = tokio::spawn(Answer::of(
        post(&gateway, MESSAGES, &whole()).header("idempotency-key", "once"),
    ));
    assert!(eventually(async || ai.asked().len() == 1).await);
    let expect = |answer: &Answer, status: u16, code: &str, retry: &str| {
        let problem = answer.expect(status);
        assert_eq!((&problem["type"], &problem["code"]), (&"error".into(), &code.into()));
        assert_eq!(problem["error"]["type"], "invalid_request_error");
        assert_eq!(problem["error"]["message"], problem["detail"]);
        assert_eq!(answer.header("x-should-retry"), retry);
    };
    let busy = keyed(&gateway, MESSAGES, "once", &whole()).await;
    expect(&busy, 409, "IDEMPOTENCY_IN_PROGRESS", "true");
    assert_eq!(busy.header("retry-after"), "1");
    permits.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    let other = keyed(&gateway, MESSAGES, "once", &body(&json!({ "max_tokens": 7 }))).await;
    expect(&other, 422, "IDEMPOTENCY_CONFLICT", "false");
}

#[tokio::test]
async fn what_was_paid_for_is_answered_whatever_is_left_but_not_to_a_frozen_account() {
    // The account has 0.55 credits. All of them are held and used.
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 500)))).await;
    let gateway = shop(&ai, "", 0).await;
    let grant = json!({ "credits": 0.55, "id": "some", "reason": "test" });
    let grants = "/admin/accounts/alice/grants";
    gateway.admin(http::Method::POST, grants, Some(grant)).await;
    let first = keyed(&gateway, CHAT, "once", &whole()).await;
    assert_eq!((first.status.as_u16(), balance(&gateway).await), (200, "0".to_owned()));
    let again = keyed(&gateway, CHAT, "once", &whole()).await;
    assert_eq!(again.header("idempotent-replayed"), "true", "{}", again.text);
    let limited = post(&gateway, CHAT, &whole()).header("x-credits-max", "0.1");
    let limited = Answer::of(limited.header("idempotency-key", "once")).await;
    assert_eq!(limited.header("idempotent-replayed"), "true", "{}", limited.text);
    keyed(&gateway, CHAT, "new", &whole()).await.problem(402, "INSUFFICIENT_CREDITS");
    let other = post_by(&gateway, "bob", CHAT, &whole()).header("idempotency-key", "once");
    Answer::of(other).await.problem(402, "INSUFFICIENT_CREDITS");
    freeze(&gateway).await;
    keyed(&gateway, CHAT, "once", &whole()).await.problem(403, "ACCOUNT_FROZEN");
    assert_eq!(ai.asked().len(), 1);
}

/// A JSON answer above 1 MiB is not kept back until its usage is known, but may be kept for retries.
#[tokio::test]
async fn a_long_answer_is_replayed_where_there_is_room_and_its_client_may_leave() {
    let text = "w".repeat(3 << 20);
    let json = chat(&text, &chat_usage(200, 100)).to_string();
    for leaves in [false, true] {
        let permits = Arc::new(Semaphore::new(0));
        let mut reply = Reply::chunked("application/json");
        let parts = json.as_bytes().chunks(100_000).map(|part| Step::Chunk(part.to_vec()));
        reply.0.extend(parts);
        reply.0.insert(15, Step::Wait(permits.clone()));
        let ai = Ai::answering(reply.then(Step::End)).await;
        let room = "[idempotency]\nmax_answer = \"8 MiB\"".to_owned();
        let tables = [routes(""), model("m", ""), room].concat();
        let gateway = with(&ai, &tables, 100).await;
        if leaves {
            // This client reads nothing, so that most of the answer still lies in memory when it leaves.
            let left = client(&gateway, CHAT, "idempotency-key: once", &whole()).await;
            assert!(eventually(async || ai.asked().len() == 1).await);
            noticed().await;
            drop(left);
            permits.add_permits(1);
        } else {
            permits.add_permits(1);
            let first = keyed(&gateway, CHAT, "once", &whole()).await;
            assert!(first.text == json, "{} bytes", first.text.len());
            assert_ne!(first.header("x-credits-held"), "");
        }
        assert_eq!(balance(&gateway).await, "99.85", "leaves: {leaves}");
        let again = keyed(&gateway, CHAT, "once", &whole()).await;
        assert_eq!(
            again.header("idempotent-replayed"),
            "true",
            "leaves: {leaves} {}",
            again.status
        );
        assert!(again.text == json, "{} of {} bytes", again.text.len(), json.len());
        assert_eq!(ai.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_call_that_used_nothing_is_forgotten() {
    let ai = Ai::answering(Reply::json(&chat("", &chat_usage(0, 0)))).await;
    let gateway = shop(&ai, "", 100).await;
    for calls in [1, 2] {
        assert_eq!(keyed(&gateway, CHAT, "once", &whole()).await.status, 200);
        assert_eq!(balance(&gateway).await, "100");
        assert_eq!(ai.asked().len(), calls);
    }
}

#[tokio::test]
async fn another_model_under_the_key_is_another_request() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let dear = "\n[[models]]\nmatch = \"dear\"\ninput = 9000\noutput = 9000\n";
    let in_path = "[[routes]]\npath = \"/models/{model}\"\nupstream = \"ai\"\nmeter = \"openai\"\nprice = \"models\"\n";
    let tables = [&routes(""), in_path, &model("m", ""), dear].concat();
    let gateway = with(&ai, &tables, 100).await;
    keyed(&gateway, CHAT, "once", &whole()).await.expect(200);
    for (path, asked) in [
        (CHAT, whole().replace("\"model\":\"m\"", "\"model\":\"dear\"")),
        (CHAT, whole().replace("\"model\":\"m\"", "\"model\":\"M\"")),
        (CHAT, whole().replace(":500", ":501")),
        (MESSAGES, whole()),
        ("/models/m", whole()),
    ] {
        let problem = keyed(&gateway, path, "once", &asked).await.expect(422);
        assert_eq!(problem["code"], "IDEMPOTENCY_CONFLICT", "{path} {asked}");
    }
    // A model in the path is a part of the request as well.
    let without = json!({ "messages": [], "max_tokens": 500 }).to_string();
    keyed(&gateway, "/models/m", "path", &without).await.expect(200);
    let other = keyed(&gateway, "/models/dear", "path", &without).await;
    other.problem(422, "IDEMPOTENCY_CONFLICT");
    assert_eq!((ai.asked().len(), balance(&gateway).await), (2, "99.7".to_owned()));
}

/// The credits that came meanwhile buy the rest with a new key only.
#[tokio::test]
async fn a_stream_that_ran_dry_is_replayed_as_far_as_it_was_paid_for() {
    let endless = Reply::begin_events(&vec![chat_chunk(&"Q".repeat(40)); 500]).then(Step::Hang);
    let ai = Ai::answering(endless).await;
    let tables = [routes(""), model("m", "hold_output_tokens = 100")].concat();
    let gateway = with(&ai, &tables, 1).await;
    let asked = body(&json!({ "stream": true }));
    let first = keyed(&gateway, CHAT, "once", &asked).await;
    assert!(first.text.contains("no more credits"), "{}", first.text);
    assert_eq!(balance(&gateway).await, "0.01");
    gateway.grant("alice", 10).await;
    let again = keyed(&gateway, CHAT, "once", &asked).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
    assert_eq!(again.header("x-credits-cost"), "0.99");
    assert_eq!((ai.asked().len(), balance(&gateway).await), (1, "10.01".to_owned()));
    gateway.assert_reconciled().await;
}

/// An encoded stream whose credits run out breaks off, since no error event can follow. No retry gets its part as a
/// whole answer.
#[tokio::test]
async fn an_encoded_stream_that_ran_dry_is_not_replayed() {
    let headers = "content-type: text/event-stream\r\ncontent-encoding: deflate\r\n";
    let head = format!("HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n");
    let mut reply = Reply(vec![Step::Raw(head.into_bytes())]);
    reply.0.extend((0..500).map(|_| Step::Chunk(vec![b'Z'; 40])));
    let ai = Ai::answering(reply.then(Step::Hang)).await;
    let tables = [routes(""), model("m", "hold_output_tokens = 100")].concat();
    let gateway = with(&ai, &tables, 1).await;
    let asked = body(&json!({ "stream": true }));
    let sent = post(&gateway, CHAT, &asked).header("idempotency-key", "once").send().await;
    assert!(sent.unwrap().bytes().await.is_err(), "the stream breaks off");
    let left = balance(&gateway).await;
    gateway.grant("alice", 10).await;
    let again = keyed(&gateway, CHAT, "once", &asked).await;
    again.problem(409, "IDEMPOTENCY_NOT_KEPT");
    assert_eq!(ai.asked().len(), 1, "{left} were left");
}

#[tokio::test]
async fn a_shortened_call_is_replayed_and_not_shortened_again() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 900)))).await;
    let gateway = shop(&ai, "on_short = \"shorten\"", 1).await;
    let asked = body(&json!({}));
    let first = keyed(&gateway, CHAT, "once", &asked).await;
    assert_eq!((first.status.as_u16(), first.header("x-credits-cost")), (200, "0.95"));
    let again = keyed(&gateway, CHAT, "once", &asked).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
    keyed(&gateway, CHAT, "new", &asked).await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!((ai.asked().len(), balance(&gateway).await), (1, "0.05".to_owned()));
    assert_eq!(ai.asked()[0].json()["max_completion_tokens"], 950);
}

/// The seller takes the model out of the table, and the buyer's limit falls. What was paid for is answered all the same,
/// and nothing else is.
#[tokio::test]
async fn an_answer_that_was_paid_for_outlives_its_models_price() {
    let in_path = "[[routes]]\npath = \"/models/{model}\"\nupstream = \"ai\"\nmeter = \"openai\"\nprice = \"models\"\n";
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let tables = |name: &str| [&routes(""), in_path, &model(name, "")].concat();
    let gateway = with(&ai, &tables("m"), 100).await;
    let without = json!({ "messages": [], "max_tokens": 500 }).to_string();
    let calls = [(CHAT, "once", whole()), ("/models/m", "path", without)];
    let mut firsts = Vec::new();
    for (path, key, asked) in &calls {
        firsts.push(keyed(&gateway, path, key, asked).await);
        assert_eq!(firsts.last().unwrap().status, 200);
    }
    let paid = balance(&gateway).await;
    let config = parse(&config_text(ai.address, &tables("other")), gateway.folder.path());
    gateway.gateway.reload(&config).await.unwrap();
    for ((path, key, asked), first) in calls.iter().zip(&firsts) {
        let again = keyed(&gateway, path, key, asked).await;
        assert_eq!(again.header("idempotent-replayed"), "true", "{path}: {}", again.text);
        assert_eq!(
            (&again.text, again.header("x-credits-cost")),
            (&first.text, first.header("x-credits-cost"))
        );
        keyed(&gateway, path, "new", asked).await.problem(404, "MODEL_NOT_PRICED");
        let other = asked.replace(":500", ":501");
        keyed(&gateway, path, key, &other).await.problem(404, "MODEL_NOT_PRICED");
        let stranger = post_by(&gateway, "bob", path, asked).header("idempotency-key", *key);
        Answer::of(stranger).await.problem(404, "MODEL_NOT_PRICED");
    }
    assert_eq!((ai.asked().len(), balance(&gateway).await), (2, paid));
    freeze(&gateway).await;
    keyed(&gateway, CHAT, "once", &whole()).await.problem(403, "ACCOUNT_FROZEN");
    keyed(&gateway, CHAT, "new", &whole()).await.problem(403, "ACCOUNT_FROZEN");
}

/// An SDK waits for the first attempt, whose model has left the table meanwhile.
#[tokio::test]
async fn an_sdks_retry_is_answered_whatever_became_of_the_models_price() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply(vec![Step::Wait(permits.clone())]);
    reply.0.extend(Reply::json(&chat("ok", &chat_usage(200, 100))).0);
    let ai = Ai::answering(reply).await;
    let gateway = shop(&ai, "", 100).await;
    let left = client(&gateway, CHAT, "x-stainless-retry-count: 0", &whole()).await;
    assert!(eventually(async || ai.asked().len() == 1).await);
    drop(left);
    let gone = [routes(""), model("other", "")].concat();
    let config = parse(&config_text(ai.address, &gone), gateway.folder.path());
    gateway.gateway.reload(&config).await.unwrap();
    noticed().await;
    let retry = post(&gateway, CHAT, &whole()).header("x-stainless-retry-count", "1");
    let retry = tokio::spawn(Answer::of(retry));
    noticed().await;
    permits.add_permits(1);
    let retry = retry.await.unwrap();
    assert_eq!(retry.header("idempotent-replayed"), "true", "{}", retry.text);
    assert_eq!((ai.asked().len(), balance(&gateway).await), (1, "99.85".to_owned()));
    let retry = post(&gateway, CHAT, &whole()).header("x-stainless-retry-count", "1");
    Answer::of(retry).await.problem(404, "MODEL_NOT_PRICED");
}

/// A limit that is lower than the price is a refusal, and leaves the key free.
#[tokio::test]
async fn a_key_whose_call_was_above_the_clients_limit_is_free_again() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let gateway = shop(&ai, "", 100).await;
    let limited = post(&gateway, CHAT, &whole()).header("x-credits-max", "0.1");
    let limited = Answer::of(limited.header("idempotency-key", "once")).await;
    limited.problem(402, "PRICE_OVER_LIMIT");
    assert_eq!((ai.asked().len(), balance(&gateway).await), (0, "100".to_owned()));
    keyed(&gateway, CHAT, "once", &whole()).await.expect(200);
    assert_eq!((ai.asked().len(), balance(&gateway).await), (1, "99.85".to_owned()));
}
