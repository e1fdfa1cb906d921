//! Answers that the meter cannot read, or cannot read whole. Each costs at least as much as if the meter could read
//! it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::shop::{CHAT, ask, balance, body, held, model, post, routes, shop, with};
use crate::support::ai::{Ai, DONE, Reply, Step, chat, chat_chunk, chat_events, chat_usage};
use crate::support::wire::{Wire, header, request, status};
use crate::support::{TestGateway, config_with};

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// The balance of 100 credits after one call with this answer.
async fn left(answer: Reply, asked: &str) -> String {
    let gateway = shop(&Ai::answering(answer).await, "", 100).await;
    ask(&gateway, CHAT, asked).await.expect(200);
    balance(&gateway).await
}

fn encoded(kind: &str, encoding: &str, body: &[u8]) -> Reply {
    let headers = format!("content-type: {kind}\r\ncontent-encoding: {encoding}\r\n");
    Reply::whole(200, &headers, body)
}

/// The hold has 200 tokens of input and 500 of output.
#[tokio::test]
async fn an_answer_that_cannot_be_decoded_costs_what_was_held_at_least() {
    let whole = chat("ok", &chat_usage(200, 500)).to_string();
    let events = chat_events(&["ok"], &chat_usage(200, 500)).concat();
    let asked = body(&json!({ "max_tokens": 500 }));
    let streamed = body(&json!({ "max_tokens": 500, "stream": true }));
    for (kind, text, asked) in
        [("application/json", &whole, &asked), ("text/event-stream", &events, &streamed)]
    {
        for encoding in ["deflate", "gzip, br", "zlib", "gzip", "br", "zstd"] {
            // These bytes are no text in any of the encodings.
            let answer = encoded(kind, encoding, b"Z".repeat(text.len()).as_slice());
            assert_eq!(left(answer, asked).await, "99.45", "{kind} {encoding}");
        }
    }
}

/// The client may know an encoding that Farebox does not. The encoded bytes count as the least length of the text.
#[tokio::test]
async fn a_stream_that_cannot_be_decoded_holds_more_as_its_bytes_pass() {
    let asked = body(&json!({ "stream": true }));
    let answer = encoded("text/event-stream", "deflate", &[7; 10_000]);
    // 200 tokens of input, and 5 000 of output.
    assert_eq!(left(answer, &asked).await, "94.95");
    // A client that leaves in the middle pays for the bytes that it has.
    let headers = "content-type: text/event-stream\r\ncontent-encoding: deflate\r\n";
    let head = format!("HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n");
    let reply = Reply(vec![
        Step::Raw(head.into_bytes()),
        Step::Chunk([b"Z".repeat(9_996).as_slice(), b"last"].concat()),
        Step::Hang,
    ]);
    let gateway = shop(&Ai::answering(reply).await, "", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(crate::support::wire::post(CHAT, "alice", &asked)).await;
    client.up_to("last").await.unwrap();
    drop(client);
    assert_eq!(balance(&gateway).await, "94.95");
}

#[tokio::test]
async fn a_part_of_an_answer_costs_what_was_held_at_least() {
    let whole = chat(&"y".repeat(900), &chat_usage(200, 500)).to_string();
    let asked = body(&json!({ "max_tokens": 500 }));
    for part in [&whole[..1], &whole[..whole.len() - 1], "{}", r#"{"usage":{"prompt_tokens":1}}"#] {
        let headers = "content-type: application/json\r\ncontent-range: bytes 0-0/*\r\n";
        let ai = Ai::answering(Reply::whole(206, headers, part)).await;
        let gateway = shop(&ai, "", 100).await;
        ask(&gateway, CHAT, &asked).await.expect(206);
        assert_eq!(balance(&gateway).await, "99.45", "{part}");
    }
}

#[tokio::test]
async fn no_upstream_is_asked_for_a_part_or_for_what_is_new() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 500)))).await;
    let gateway = shop(&ai, "", 100).await;
    let conditions = [
        ("range", "bytes=0-0"),
        ("if-range", "\"a\""),
        ("if-match", "\"a\""),
        ("if-none-match", "*"),
        ("if-modified-since", "Mon, 30 Nov 2026 09:00:00 GMT"),
        ("if-unmodified-since", "Mon, 30 Nov 2026 09:00:00 GMT"),
        ("a-im", "vcdiff"),
    ];
    let mut request = post(&gateway, CHAT, &body(&json!({ "max_tokens": 500 })));
    for (name, value) in conditions {
        request = request.header(name, value);
    }
    crate::support::http::Answer::of(request.header("x-other", "kept")).await.expect(200);
    let asked = &ai.asked()[0];
    for (name, _) in conditions {
        assert_eq!(asked.header(name), None, "{name}");
    }
    assert_eq!(asked.header("x-other"), Some("kept"));
}

/// A client may ask for another form of answer with `accept`.
#[tokio::test]
async fn an_answer_in_a_form_that_is_not_known_costs_its_bytes() {
    let asked = body(&json!({ "max_tokens": 500 }));
    for kind in ["application/xml", "application/msgpack", "application/x-protobuf", "text/csv"] {
        let answer = Reply::whole(200, &format!("content-type: {kind}\r\n"), "y".repeat(240));
        // 200 tokens of input, and 120 of output.
        assert_eq!(left(answer, &asked).await, "99.83", "{kind}");
    }
    // A file is no text: its bytes say nothing about tokens.
    for kind in ["audio/mpeg", "image/png", "video/mp4", "application/octet-stream"] {
        let answer = Reply::whole(200, &format!("content-type: {kind}\r\n"), "y".repeat(240));
        assert_eq!(left(answer, &asked).await, "99.95", "{kind}");
    }
}

#[tokio::test]
async fn a_text_costs_its_decoded_bytes() {
    let asked = body(&json!({ "max_tokens": 8000 }));
    let text = "y".repeat(20_000);
    for encoding in ["gzip", "zstd"] {
        let bytes = if encoding == "gzip" {
            gzip(&text)
        } else {
            zstd::encode_all(text.as_bytes(), 3).unwrap()
        };
        let answer = encoded("text/plain", encoding, &bytes);
        // The charge is no more than the request allows.
        assert_eq!(left(answer, &asked).await, "91.95", "{encoding}");
    }
}

/// RFC 1952, 2.2: a file is one member after the other. Some servers end one at each flush.
#[tokio::test]
async fn members_of_gzip_that_follow_each_other_are_all_read() {
    let events = chat_events(&["one", "two"], &chat_usage(200, 100));
    let members: Vec<u8> = events.iter().flat_map(|event| gzip(event)).collect();
    let asked = body(&json!({ "max_tokens": 500, "stream": true }));
    let answer = encoded("text/event-stream", "gzip", &members);
    assert_eq!(left(answer, &asked).await, "99.85");
    let whole = chat("ok", &chat_usage(200, 100)).to_string();
    let (first, second) = whole.split_at(whole.len() / 2);
    let members = [gzip(first), gzip(second)].concat();
    let asked = body(&json!({ "max_tokens": 500 }));
    assert_eq!(left(encoded("application/json", "gzip", &members), &asked).await, "99.85");
}

/// The answer to a HEAD tells no usage.
#[tokio::test]
async fn a_head_request_costs_what_was_held() {
    let ai = Ai::answering(Reply(vec![Step::Raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 300\r\n\r\n"
            .to_vec(),
    )]))
    .await;
    let any_method = routes("").replace("methods = [\"POST\"]\n", "");
    let gateway = with(&ai, &[any_method, model("m", "")].concat(), 100).await;
    let asked = body(&json!({ "max_tokens": 500 }));
    let mut client = Wire::connect(gateway.public()).await;
    let length = format!("content-length: {}\r\n", asked.len());
    client.send(request(&format!("HEAD {CHAT}"), "alice", &length, &asked)).await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), 200, "{head}");
    assert_eq!(header(&head, "x-credits-cost"), Some("0.55"), "{head}");
    assert_eq!(balance(&gateway).await, "99.45");
}

/// A stream for which there is no memory is passed on as it comes.
#[tokio::test]
async fn the_pieces_that_a_stream_keeps_back_are_within_the_memory_for_bodies() {
    let long = chat_chunk(&"y".repeat(400 << 10));
    let (begin, end) = long.split_at(350 << 10);
    for (memory, passes) in [("256 MiB", false), ("1 MiB", true)] {
        let reply = Reply::begin_events(&[begin.to_owned()]).then(Step::Hang);
        let ai = Ai::answering(reply).await;
        let text = config_with(
            ai.address,
            &format!("body_memory = \"{memory}\""),
            "",
            &[routes(""), model("m", "hold_output_tokens = 2048")].concat(),
        );
        let gateway = TestGateway::start(&text).await;
        gateway.grant("alice", 1000).await;
        let asked = body(&json!({ "stream": true }));
        let mut client = Wire::connect(gateway.public()).await;
        client.send(crate::support::wire::post(CHAT, "alice", &asked)).await;
        client.head().await.unwrap();
        assert_eq!(held(&gateway).await, "2.098");
        let first =
            tokio::time::timeout(std::time::Duration::from_millis(500), client.up_to("yyyy"));
        assert_eq!(first.await.is_ok(), passes, "{memory}");
        drop(client);
        assert!(balance(&gateway).await.starts_with("999."), "{}", end.len());
    }
    // Memory that was given back is there for the next stream.
    let events: Vec<String> = [long.clone(), long, DONE.to_owned()].into();
    let reply = Reply::events(&events);
    let ai = Ai::answering(reply).await;
    let text = config_with(
        ai.address,
        "body_memory = \"2 MiB\"",
        "",
        &[routes(""), model("m", "")].concat(),
    );
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 1000).await;
    for _ in 0..8 {
        let asked = body(&json!({ "stream": true, "max_tokens": 8000 }));
        let answer = ask(&gateway, CHAT, &asked).await;
        assert_eq!(answer.text, events.concat());
    }
    balance(&gateway).await;
    let _: Value = gateway.balance("alice").await;
}
