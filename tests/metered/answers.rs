//! Answers that do not stream: kept until their usage is known, or passed on with what is held.

use std::io::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::shop::{CHAT, ask, balance, body, held, post, shop};
use crate::support::ai::{Ai, Reply, Step, chat, chat_usage};
use crate::support::eventually;
use crate::support::http::Answer;

const MIB: usize = 1 << 20;

fn limit() -> String {
    body(&json!({ "max_tokens": 5000 }))
}

/// A chat completion of exactly this number of bytes, with a usage worth 0.55.
fn chat_of(bytes: usize) -> String {
    let empty = chat("", &chat_usage(200, 500)).to_string().len();
    let answer = chat(&"y".repeat(bytes - empty), &chat_usage(200, 500)).to_string();
    assert_eq!(answer.len(), bytes);
    answer
}

#[tokio::test]
async fn a_json_answer_of_up_to_1_mib_has_its_exact_cost_in_its_head() {
    for (bytes, is_exact) in [(2000, true), (MIB, true), (MIB + 1, false), (3 * MIB, false)] {
        for chunked in [false, true] {
            let answer = chat_of(bytes);
            let reply = if chunked {
                let mut reply = Reply::chunked("application/json");
                let parts = answer.as_bytes().chunks(60_000);
                reply.0.extend(parts.map(|part| Step::Chunk(part.to_vec())));
                reply.then(Step::End)
            } else {
                Reply::whole(200, "content-type: application/json\r\n", &answer)
            };
            let gateway = shop(&Ai::answering(reply).await, "", 100).await;
            let answered = ask(&gateway, CHAT, &limit()).await;
            answered.expect(200);
            assert!(answered.text == answer, "{bytes} chunked: {chunked}");
            let headers = ["x-credits-cost", "x-credits-remaining", "x-credits-held"];
            let told = headers.map(|name| answered.header(name).to_owned());
            let expected = if is_exact { ["0.55", "99.45", ""] } else { ["", "", "5.05"] };
            assert_eq!(told, expected, "{bytes} chunked: {chunked}");
            assert_eq!(balance(&gateway).await, "99.45", "{bytes} chunked: {chunked}");
        }
    }
}

#[tokio::test]
async fn nothing_of_a_kept_answer_is_seen_before_it_was_charged() {
    let permits = Arc::new(Semaphore::new(0));
    let answer = chat_of(100_000);
    let (first, last) = answer.split_at(99_999);
    let mut reply = Reply::chunked("application/json");
    reply.0.push(Step::Chunk(first.into()));
    reply.0.extend([Step::Wait(permits.clone()), Step::Chunk(last.into()), Step::End]);
    let ai = Ai::answering(reply).await;
    let gateway = shop(&ai, "", 100).await;
    let call = tokio::spawn(post(&gateway, CHAT, &limit()).send());
    assert!(eventually(async || ai.asked().len() == 1).await);
    assert_eq!(held(&gateway).await, "5.05");
    permits.add_permits(1);
    let answered = call.await.unwrap().unwrap();
    // The head has come; the body may not have been read yet.
    assert_eq!(answered.headers()["x-credits-cost"], "0.55");
    assert_eq!(gateway.balance("alice").await["balance"].to_string(), "99.45");
    assert_eq!(answered.text().await.unwrap(), answer);
}

#[tokio::test]
async fn an_encoded_answer_is_metered_by_a_decoded_copy_and_passes_as_it_is() {
    let answer = chat_of(20_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(answer.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let ai = Ai::answering(Reply::whole(200, headers, &gzip)).await;
    let gateway = shop(&ai, "", 100).await;
    let answered = post(&gateway, CHAT, &limit()).header("accept-encoding", "gzip");
    let answered = answered.send().await.unwrap();
    assert_eq!(answered.headers()["x-credits-cost"], "0.55");
    assert_eq!(answered.headers()["content-encoding"], "gzip");
    assert_eq!(answered.bytes().await.unwrap(), gzip);
    assert_eq!(balance(&gateway).await, "99.45");
    assert_eq!(ai.asked()[0].header("accept-encoding"), Some("identity"));

    // A coding that is not known hides the usage, and is no way to pay less than an estimate.
    let headers = "content-type: application/json\r\ncontent-encoding: deflate\r\n";
    let ai = Ai::answering(Reply::whole(200, headers, b"who knows")).await;
    let gateway = shop(&ai, "on_missing_usage = \"hold\"", 100).await;
    let answered = ask(&gateway, CHAT, &limit()).await;
    assert_eq!(answered.header("x-credits-cost"), "5.05");
}

#[tokio::test]
async fn audio_passes_at_once_and_says_what_is_held() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply::chunked("audio/mpeg");
    reply.0.push(Step::Chunk(vec![7; 1000]));
    reply.0.extend([Step::Wait(permits.clone()), Step::Chunk(vec![8; 1000]), Step::End]);
    let gateway = shop(&Ai::answering(reply).await, "", 100).await;
    let mut answered = post(&gateway, CHAT, &limit()).send().await.unwrap();
    assert_eq!(answered.headers()["x-credits-held"], "5.05");
    assert!(!answered.headers().contains_key("x-credits-cost"));
    assert!(!answered.headers().contains_key("x-credits-remaining"));
    assert_eq!(answered.chunk().await.unwrap().unwrap(), vec![7; 1000]);
    permits.add_permits(1);
    assert_eq!(answered.bytes().await.unwrap(), vec![8; 1000]);
    // There is no usage and no text: the input is charged.
    assert_eq!(balance(&gateway).await, "99.95");
}

#[tokio::test]
async fn a_json_answer_that_is_broken_off_is_a_502_and_free() {
    let answer = chat_of(50_000);
    for reply in [
        Reply(vec![
            Step::Raw(
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
                    answer.len(),
                    &answer[..answer.len() - 1]
                )
                .into_bytes(),
            ),
            Step::Break,
        ]),
        Reply::chunked("application/json").then(Step::Chunk(answer.into_bytes())).then(Step::Break),
    ] {
        let gateway = shop(&Ai::answering(reply).await, "", 100).await;
        let answered = ask(&gateway, CHAT, &limit()).await;
        answered.problem(502, "UPSTREAM_FAILED");
        assert_eq!(balance(&gateway).await, "100");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_has_its_cost_in_its_head() {
    let reply = Reply(vec![Step::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]);
    let gateway = shop(&Ai::answering(reply).await, "", 100).await;
    let answered = ask(&gateway, CHAT, &limit()).await;
    answered.expect(204);
    assert_eq!(answered.header("x-credits-cost"), "0.05", "the input");
    assert_eq!(balance(&gateway).await, "99.95");
}

#[tokio::test]
async fn the_same_bytes_go_upstream_in_one_framing_declared_as_json() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(1, 1)))).await;
    let gateway = shop(&ai, "", 100).await;
    let odd = "{ \"messages\":[] ,\n\t\"model\" : \"m\",\"max_tokens\":5, \"x\": \"\\u00e9\" }";
    for (content_type, forwarded) in [
        (None, "application/json"),
        (Some("application/json"), "application/json"),
        (Some("application/json; charset=utf-8"), "application/json; charset=utf-8"),
        (Some("application/x-www-form-urlencoded"), "application/json"),
        (Some("text/plain"), "application/json"),
    ] {
        let mut request = gateway.client.post(gateway.url(CHAT)).body(odd);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.bearer_auth(crate::support::token("alice"));
        Answer::of(request).await.expect(200);
        let asked = ai.asked().pop().unwrap();
        assert_eq!(asked.body, odd);
        assert_eq!(asked.header("content-type"), Some(forwarded), "{content_type:?}");
        assert_eq!(asked.header("content-length"), Some(&*odd.len().to_string()));
        assert_eq!(asked.header("transfer-encoding"), None);
        assert_eq!(asked.header("x-credits-max"), None);
    }
    let _: Value = gateway.balance("alice").await;
}
