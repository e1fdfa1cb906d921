//! Metered calls of clients that speak HTTP/2: the same holds, charges and ends as over HTTP/1.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::shop::{CHAT, body, model, routes};
use crate::support::ai::{
    Ai, DONE, Reply, Step, chat, chat_chunk, chat_events, chat_usage, chat_usage_chunk,
};
use crate::support::h2::{HOST, TLS, http2, read, write_certificate};
use crate::support::{TestGateway, config_with, eventually, token};

/// A gateway with TLS that sells `m`, whose streams hold 100 tokens of output at first; and a connection to it.
async fn shop(ai: &Ai, credits: u64) -> (TestGateway, SendRequest<Bytes>) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path());
    let tables = [routes(""), model("m", "hold_output_tokens = 100")].concat();
    let text = config_with(ai.address, TLS, "", &tables);
    let gateway = TestGateway::start_in(folder, &text).await;
    gateway.grant("alice", credits).await;
    let client = http2(gateway.public(), &certificate).await;
    (gateway, client)
}

/// Alice's credits, as the operator sees them: those that she has, or those that are held.
async fn credits(gateway: &TestGateway, of: &str) -> String {
    let account = gateway.admin(http::Method::GET, "/admin/accounts/alice", None).await;
    account[of].to_string()
}

/// Waits until nothing of alice is held; her balance.
async fn balance(gateway: &TestGateway) -> String {
    let settled = eventually(async || credits(gateway, "held").await == "0").await;
    assert!(settled, "still held: {}", credits(gateway, "held").await);
    credits(gateway, "balance").await
}

/// Opens a chat call of alice. Its body is still to be sent.
async fn open(
    client: &mut SendRequest<Bytes>,
    more: &[(&str, &str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("https://{HOST}{CHAT}"))
        .header("authorization", format!("Bearer {}", token("alice")))
        .header("content-type", "application/json");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    *client = client.clone().ready().await.unwrap();
    client.send_request(request.body(()).unwrap(), false).unwrap()
}

/// Sends a whole call; the head of its answer, and the body to be read.
async fn begin(
    client: &mut SendRequest<Bytes>,
    more: &[(&str, &str)],
    body: &str,
) -> (HeaderMap, RecvStream) {
    let (answer, mut stream) = open(client, more).await;
    stream.send_data(Bytes::from(body.to_owned()), true).unwrap();
    let (head, body) = answer.await.unwrap().into_parts();
    assert_eq!(head.status, 200, "{head:?}");
    (head.headers, body)
}

/// Reads until `mark` was read.
async fn read_up_to(body: &mut RecvStream, mark: &str) -> String {
    let mut all = String::new();
    while !all.contains(mark) {
        let data = body.data().await.unwrap_or_else(|| panic!("ended: {all}")).unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.push_str(std::str::from_utf8(&data).unwrap());
    }
    all
}

fn stream(more: &Value) -> String {
    let mut members = json!({ "stream": true });
    for (name, value) in more.as_object().unwrap() {
        members[name] = value.clone();
    }
    body(&members)
}

/// The bytes of `Q` in a text: those of the model.
fn delivered(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'Q').count()
}

/// An endless stream of 40 bytes of text an event.
fn endless() -> Reply {
    let mut reply = Reply::chunked("text/event-stream");
    let event = chat_chunk(&"Q".repeat(40));
    reply.0.extend((0..5000).map(|_| Step::Chunk(event.clone().into_bytes())));
    reply.then(Step::Hang)
}

#[tokio::test]
async fn a_whole_answer_is_charged_by_its_usage_before_its_head_goes_out() {
    let answer = chat("ok", &chat_usage(200, 100));
    let ai = Ai::answering(Reply::json(&answer)).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    let asked = body(&json!({ "max_tokens": 500 }));
    let (head, mut answered) = begin(&mut client, &[], &asked).await;
    assert_eq!(
        (&head["x-credits-cost"], &head["x-credits-remaining"]),
        (&"0.15".parse().unwrap(), &"99.85".parse().unwrap())
    );
    let read: Value = serde_json::from_slice(&read(&mut answered).await.unwrap()).unwrap();
    assert_eq!((read, ai.asked()[0].body.as_str()), (answer, asked.as_str()));
    assert_eq!(balance(&gateway).await, "99.85");
}

#[tokio::test]
async fn a_stream_hides_the_usage_chunk_and_reports_what_it_cost() {
    let ai =
        Ai::answering(Reply::events(&chat_events(&["one", "two"], &chat_usage(200, 100)))).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    let asked = stream(&json!({ "max_tokens": 500 }));
    let (head, mut answered) = begin(&mut client, &[("x-credits-report", "true")], &asked).await;
    assert_eq!(head["x-credits-held"], "0.15");
    assert!(!head.contains_key("x-credits-cost"), "{head:?}");
    let text = String::from_utf8(read(&mut answered).await.unwrap()).unwrap();
    let report = ": farebox {\"cost\":0.15,\"remaining\":99.85,\"usage\":{\"input\":200,\"output\":100}}\n\n";
    let shown = [&chat_chunk("one"), &chat_chunk("two"), report, DONE].concat();
    assert_eq!(text, shown);
    assert_eq!(balance(&gateway).await, "99.85");
}

#[tokio::test]
async fn a_stream_that_its_client_resets_pays_for_what_was_delivered() {
    let events = [chat_chunk(&"y".repeat(236)), chat_chunk("last")];
    let ai = Ai::answering(Reply::begin_events(&events).then(Step::Hang)).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    for n in 1..=3 {
        let (answer, mut sent) = open(&mut client, &[]).await;
        sent.send_data(Bytes::from(stream(&json!({ "max_tokens": 500 }))), true).unwrap();
        let mut answered = answer.await.unwrap().into_body();
        read_up_to(&mut answered, "last").await;
        if n == 2 {
            // The client forgets the stream, and gives no reason.
            drop(answered);
            drop(sent);
        } else {
            sent.send_reset(Reason::CANCEL);
        }
        let left = format!("{:.2}", 100.0 - 0.17 * f64::from(n));
        let paid = eventually(async || balance(&gateway).await == left).await;
        assert!(paid, "{n}: {}, not {left}", balance(&gateway).await);
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn an_answer_that_does_not_stream_is_read_to_its_end_for_a_client_that_resets_it() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply(vec![Step::Wait(permits.clone())]);
    reply.0.extend(Reply::json(&chat("ok", &chat_usage(200, 100))).0);
    let ai = Ai::answering(reply).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    let (answer, mut sent) = open(&mut client, &[]).await;
    sent.send_data(Bytes::from(body(&json!({ "max_tokens": 500 }))), true).unwrap();
    assert!(eventually(async || ai.asked().len() == 1).await);
    sent.send_reset(Reason::CANCEL);
    drop(answer);
    permits.add_permits(1);
    assert_eq!(balance(&gateway).await, "99.85");
}

/// A body is read whole before anything is held, so a client that resets its stream in the body is
/// not charged.
#[tokio::test]
async fn a_call_whose_body_is_reset_reaches_no_upstream() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    let whole = body(&json!({ "max_tokens": 500 }));
    for length in [None, Some(whole.len().to_string())] {
        let length = length.as_deref().map(|length| ("content-length", length));
        let (answer, mut sent) = open(&mut client, length.as_slice()).await;
        sent.send_data(Bytes::from(whole[..whole.len() - 1].to_owned()), false).unwrap();
        sent.send_reset(Reason::CANCEL);
        assert!(answer.await.is_err());
    }
    // A shorter body than its length is no body.
    let long = (whole.len() + 1).to_string();
    let (answer, mut sent) = open(&mut client, &[("content-length", &long)]).await;
    sent.send_data(Bytes::from(whole.clone()), true).unwrap();
    assert!(answer.await.is_err());
    // The connection serves on.
    let (_, mut answered) = begin(&mut client, &[], &whole).await;
    read(&mut answered).await.unwrap();
    assert_eq!((balance(&gateway).await.as_str(), ai.asked().len()), ("99.85", 1));
}

#[tokio::test]
async fn an_endless_stream_ends_with_an_error_event_when_nothing_is_left() {
    let (gateway, mut client) = shop(&Ai::answering(endless()).await, 1).await;
    let (head, mut answered) = begin(&mut client, &[], &stream(&json!({}))).await;
    assert_eq!(head["x-credits-held"], "0.15");
    let text = String::from_utf8(read(&mut answered).await.expect("it ends, unbroken")).unwrap();
    let last = text.strip_suffix("\n\n").unwrap().rsplit_once("data: ").unwrap().1;
    let data: Value = serde_json::from_str(last).unwrap();
    assert!(data["error"]["message"].as_str().unwrap().contains("no more credits"), "{data}");
    assert_eq!(delivered(&text), 1880, "all that could be paid for, and no more");
    assert_eq!(balance(&gateway).await, "0.01");
    gateway.assert_reconciled().await;
}

/// Twenty streams of one connection on one balance: each ends by itself, and none takes it below zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_connection_never_outrun_their_balance() {
    let (gateway, client) = shop(&Ai::answering(endless()).await, 2).await;
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move {
            let (answer, mut sent) = open(&mut client, &[]).await;
            sent.send_data(Bytes::from(stream(&json!({}))), true).unwrap();
            let (head, mut body) = answer.await.unwrap().into_parts();
            (head.status.as_u16(), String::from_utf8(read(&mut body).await.unwrap()).unwrap())
        }
    });
    let answers = futures_util::future::join_all(calls).await;
    let passed = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!((1..=13).contains(&passed), "{passed}");
    let left: f64 = balance(&gateway).await.parse().unwrap();
    assert!((0.0..0.4).contains(&left), "{left}");
    let paid: usize = answers.iter().map(|(_, text)| delivered(text) / 2).sum();
    let paid = passed as f64 * 0.05 + paid as f64 / 1000.0;
    assert!((2.0 - left - paid).abs() < 1e-6, "{left} are left, {paid} were delivered");
    gateway.assert_reconciled().await;
}

/// A client that opens no window gets nothing, and the gateway reads no more than it can keep. The client pays for
/// the bytes that the gateway keeps for it.
#[tokio::test]
async fn a_client_that_does_not_read_holds_no_more_than_the_gateway_keeps_for_it() {
    let ai = Ai::answering(endless()).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    let (_, answered) = begin(&mut client, &[], &stream(&json!({}))).await;
    // The client opens its window no further. The 64 KiB fill up, and the stream stands still.
    let mut last = String::new();
    let stands_still = eventually(async || {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let now = credits(&gateway, "held").await;
        std::mem::replace(&mut last, now.clone()) == now
    });
    assert!(stands_still.await);
    drop(answered);
    let left: f64 = balance(&gateway).await.parse().unwrap();
    let held: f64 = last.parse().unwrap();
    assert!(
        (100.0 - held - 1e-9..99.95).contains(&left),
        "{left} are left of 100, {held} were held"
    );
}

/// The usage chunk and the end may come in one part with text, or byte by byte.
#[tokio::test]
async fn the_frames_of_a_stream_do_not_matter() {
    let text =
        [chat_chunk("one"), chat_usage_chunk(&chat_usage(200, 100)), DONE.to_owned()].concat();
    for size in [1, 7, text.len()] {
        let mut reply = Reply::chunked("text/event-stream");
        reply.0.extend(text.as_bytes().chunks(size).map(|part| Step::Chunk(part.to_vec())));
        let ai = Ai::answering(reply.then(Step::End)).await;
        let (gateway, mut client) = shop(&ai, 100).await;
        let asked = stream(&json!({ "max_tokens": 500 }));
        let (_, mut answered) = begin(&mut client, &[], &asked).await;
        let shown = String::from_utf8(read(&mut answered).await.unwrap()).unwrap();
        assert_eq!(shown, [&chat_chunk("one"), DONE].concat(), "{size}");
        assert_eq!(balance(&gateway).await, "99.85");
    }
}

/// A head that an upstream might read in another way than Farebox is refused over HTTP/2, too. Trailers are not
/// forwarded.
#[tokio::test]
async fn a_head_that_is_refused_over_http_1_is_refused_over_http_2() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let (gateway, mut client) = shop(&ai, 100).await;
    let whole = body(&json!({ "max_tokens": 500 }));
    let ask = async |client: &mut SendRequest<Bytes>, query: &str, more: &[(&str, &str)]| {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("https://{HOST}{CHAT}{query}"))
            .header("authorization", format!("Bearer {}", token("alice")));
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        *client = client.clone().ready().await.unwrap();
        let (answer, mut sent) = client.send_request(request.body(()).unwrap(), false).unwrap();
        sent.send_data(Bytes::from(whole.clone()), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-model", "dear".parse().unwrap());
        // The gateway may have refused the call by now.
        let _ = sent.send_trailers(trailers);
        let (head, mut body) = answer.await.unwrap().into_parts();
        let _ = read(&mut body).await;
        head.status.as_u16()
    };
    let (json, other) = (("content-type", "application/json"), ("content-type", "text/plain"));
    for (query, more, status) in [
        ("?model=dear", &[json][..], 400),
        ("?%6dodel[]=dear", &[json], 400),
        ("", &[json, other], 400),
        ("", &[json, ("content-encoding", "gzip")], 400),
        ("", &[json, ("content-encoding", "identity"), ("content-encoding", "br")], 400),
        ("", &[json, ("x-credits-max", "0.5")], 402),
        ("", &[json, ("x-credits-max", "many")], 400),
        ("", &[json, ("expect", "100-continue")], 200),
        ("?api-version=1", &[other, ("range", "bytes=0-0")], 200),
    ] {
        assert_eq!(ask(&mut client, query, more).await, status, "{query} {more:?}");
    }
    assert_eq!((ai.asked().len(), balance(&gateway).await.as_str()), (2, "99.7"));
    for asked in ai.asked() {
        assert!(!asked.head.contains("dear") && asked.header("range").is_none(), "{}", asked.head);
        assert_eq!((asked.body.as_str(), asked.header("expect")), (whole.as_str(), None));
    }
}
