//! The streams of an HTTP/2 connection, frame by frame: how they end, and that one does not end
//! another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use super::tls::{gateway, settled};
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, field, frame, number,
};
use crate::support::h2::{HOST, connect, http2, read, send};
use crate::support::wire::{LIMIT, RawUpstream, header};
use crate::support::{TestGateway, eventually, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const REFUSED_STREAM: u32 = 7;

/// Streams that a client may have open at a time.
const MAX_STREAMS: u32 = 100;

/// A connection on which the settings are exchanged; `settings` are the client's, as pairs of an id
/// and a value.
pub async fn frames(
    gateway: &TestGateway,
    certificate: &CertificateDer<'static>,
    settings: &[(u16, u32)],
) -> Frames {
    let stream = connect(gateway.public(), certificate, &["h2"]).await.unwrap();
    let mut frames = Frames::over(stream);
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frames.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await.unwrap();
    frames
}

/// The head of a request by alice.
pub fn head(stream: u32, flags: u8, method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", HOST),
        ("authorization", &format!("Bearer {}", token("alice"))),
    ] {
        field(&mut block, name, value);
    }
    frame(HEADERS, END_HEADERS | flags, stream, &block)
}

/// Everything that was received of one stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// How many frames of each kind.
    pub frames: BTreeMap<u8, usize>,
    pub body: Vec<u8>,
    pub reset: Option<u32>,
    /// The kind of the frame with END_STREAM.
    pub ended_by: Option<u8>,
}

/// Reads frames until `is_done`; what was received, by stream. GOAWAY's code is its own.
pub async fn receive(
    frames: &mut Frames,
    streams: &mut BTreeMap<u32, Stream>,
    mut is_done: impl FnMut(&BTreeMap<u32, Stream>, Option<u32>) -> bool,
) {
    let mut goaway = None;
    while !is_done(streams, goaway) {
        let next = tokio::time::timeout(LIMIT, frames.frame()).await;
        let next = next.unwrap_or_else(|_| panic!("nothing comes any more: {streams:?}"));
        let Some(Frame { kind, flags, stream, payload }) = next else {
            panic!("the connection has ended: {streams:?}")
        };
        let ends = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        let seen = streams.entry(stream).or_default();
        *seen.frames.entry(kind).or_default() += 1;
        seen.ended_by = seen.ended_by.or(ends.then_some(kind));
        match kind {
            DATA => seen.body.extend(payload),
            RST_STREAM => seen.reset = Some(number(&payload)),
            GOAWAY => goaway = Some(number(&payload[4..])),
            _ => {}
        }
    }
}

/// An upstream that answers each request with `answer`, once the test says so.
async fn held_up(answer: &'static str) -> (RawUpstream, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let waits = go.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let go = waits.clone();
        async move {
            while wire.head().await.is_some() {
                go.notified().await;
                if wire.try_send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, go)
}

#[tokio::test]
async fn a_stop_says_goaway_and_the_streams_that_run_are_answered() {
    let (upstream, go) = held_up(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
    assert!(eventually(async || !upstream.seen().is_empty()).await);
    let stopping = tokio::spawn(gateway.stop());
    // A client that heard it takes its next request elsewhere.
    let mut said = None;
    let heard = eventually(async || {
        said = client.clone().ready().await.err();
        said.is_some()
    });
    assert!(heard.await, "there is no GOAWAY");
    let said = said.unwrap();
    assert!(said.is_go_away() && said.reason() == Some(Reason::NO_ERROR), "{said}");
    assert!(!stopping.is_finished());
    go.notify_one();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
    tokio::time::timeout(LIMIT, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_says_goaway_still_gets_its_answers() {
    let (upstream, go) = held_up(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = frames(&gateway, &certificate, &[]).await;
    let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
    client.send(&[head(1, END_STREAM, "GET", "/x/y"), goaway].concat()).await.unwrap();
    assert!(eventually(async || !upstream.seen().is_empty()).await);
    go.notify_one();
    let mut streams = BTreeMap::new();
    receive(&mut client, &mut streams, |streams, _| {
        streams.get(&1).is_some_and(|stream| stream.ended_by.is_some())
    })
    .await;
    assert_eq!(streams[&1].body, b"ok");
    assert_eq!(settled(&gateway).await, 95);
    // No more frames can come, so the connection ends.
    let ended = async { while client.frame().await.is_some() {} };
    tokio::time::timeout(LIMIT, ended).await.expect("it stays open");
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_and_may_be_sent_again_and_the_others_go_on() {
    let (upstream, go) = held_up(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let credits = serde_json::json!({ "credits": 10_000, "id": "more", "reason": "test" });
    gateway.admin(http::Method::POST, "/admin/accounts/alice/grants", Some(credits)).await;
    let mut client = frames(&gateway, &certificate, &[]).await;
    let mut bytes = Vec::new();
    for n in 0..MAX_STREAMS {
        bytes.extend(head(2 * n + 1, END_STREAM, "GET", "/x/y"));
    }
    let beyond = 2 * MAX_STREAMS + 1;
    bytes.extend(head(beyond, END_STREAM, "GET", "/x/beyond"));
    client.send(&bytes).await.unwrap();
    let mut streams = BTreeMap::new();
    receive(&mut client, &mut streams, |streams, _| {
        streams.get(&beyond).is_some_and(|stream| stream.reset.is_some())
    })
    .await;
    assert_eq!(streams[&beyond].reset, Some(REFUSED_STREAM), "it may be sent again");
    assert!(eventually(async || upstream.seen().len() == MAX_STREAMS as usize).await);
    let held = async || {
        let account = gateway.admin(http::Method::GET, "/admin/accounts/alice", None).await;
        account["held"].as_u64().unwrap()
    };
    assert_eq!(held().await, u64::from(5 * MAX_STREAMS), "nothing is held for it");
    // One ends, and there is room for another one.
    go.notify_one();
    let mut ended = 0;
    receive(&mut client, &mut streams, |streams, _| {
        ended = streams.values().filter(|stream| stream.ended_by.is_some()).count();
        ended == 1
    })
    .await;
    client.send(&head(beyond + 2, END_STREAM, "GET", "/x/again")).await.unwrap();
    assert!(eventually(async || upstream.seen().concat().contains("GET /x/again ")).await);
    for _ in 0..MAX_STREAMS {
        go.notify_one();
        ended += 1;
        receive(&mut client, &mut streams, |streams, _| {
            streams.values().filter(|stream| stream.ended_by.is_some()).count() >= ended
        })
        .await;
    }
    assert!(!upstream.seen().concat().contains("beyond"));
    let resets = streams.values().filter(|stream| stream.reset.is_some()).count();
    assert_eq!(resets, 1, "the others were answered whole");
    assert_eq!(settled(&gateway).await, 10_100 - 5 * i64::from(MAX_STREAMS + 1));
}

#[tokio::test]
async fn a_stream_that_its_client_resets_ends_its_upstream_s_connection_and_no_other_stream() {
    let left = Arc::new(Notify::new());
    let (signal, go) = (left.clone(), Arc::new(Notify::new()));
    let goes = go.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let (left, go) = (signal.clone(), goes.clone());
        async move {
            let head = wire.head().await.unwrap();
            if head.starts_with("GET /x/left") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
                wire.rest().await;
                left.notify_one();
            } else {
                go.notified().await;
                wire.send(OK).await;
            }
        }
    })
    .await;
    let (gateway, certificate) =
        gateway(upstream.address, "", "on_client_abort = \"release\"").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (stays, _) = send(&mut client, "GET", "/x/stays", "alice", true);
    client = client.ready().await.unwrap();
    let (answer, _) = send(&mut client, "GET", "/x/left", "alice", true);
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "part");
    drop(body);
    tokio::time::timeout(LIMIT, left.notified()).await.expect("the upstream goes on working");
    go.notify_one();
    let answer = stays.await.unwrap();
    assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
    assert_eq!(settled(&gateway).await, 95, "one was answered, one was left");
}

#[tokio::test]
async fn an_answer_that_its_upstream_breaks_off_is_reset_with_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\nnonsense\r\n",
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            wire.head().await;
            wire.send(answer).await;
        })
        .await;
        let (gateway, certificate) = gateway(upstream.address, "", "").await;
        let mut client = frames(&gateway, &certificate, &[]).await;
        client.send(&head(1, END_STREAM, "GET", "/x/y")).await.unwrap();
        let mut streams = BTreeMap::new();
        receive(&mut client, &mut streams, |streams, _| {
            streams.get(&1).is_some_and(|stream| stream.reset.is_some())
        })
        .await;
        let stream = &streams[&1];
        assert_ne!(stream.reset, Some(0), "NO_ERROR stands behind a whole answer: {answer:?}");
        assert_eq!(stream.ended_by, None, "{answer:?}");
        assert_eq!(settled(&gateway).await, 100);
    }
}

/// A DATA frame that says nothing but the end would cost each such answer a frame.
#[tokio::test]
async fn an_answer_without_a_body_ends_with_its_head_and_a_whole_one_with_its_last_bytes() {
    for (method, answer, body) in [
        ("GET", "204 No Content\r\n\r\n", ""),
        ("GET", "304 Not Modified\r\n\r\n", ""),
        ("GET", "304 Not Modified\r\ncontent-length: 10\r\n\r\n", ""),
        ("HEAD", "200 OK\r\ncontent-length: 10\r\n\r\n", ""),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked\r\n\r\n", ""),
        ("GET", "200 OK\r\ncontent-length: 0\r\n\r\n", ""),
        ("POST", "200 OK\r\ncontent-length: 2\r\n\r\nok", "ok"),
        ("POST", "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            while wire.head().await.is_some() {
                wire.send(format!("HTTP/1.1 {answer}")).await;
            }
        })
        .await;
        let (gateway, certificate) = gateway(upstream.address, "", "").await;
        let mut client = frames(&gateway, &certificate, &[]).await;
        // The request's own head is all of it too.
        client.send(&head(1, END_STREAM, method, "/x/y")).await.unwrap();
        let mut streams = BTreeMap::new();
        receive(&mut client, &mut streams, |streams, _| {
            streams.get(&1).is_some_and(|stream| stream.ended_by.is_some())
        })
        .await;
        let stream = &streams[&1];
        let expected = if body.is_empty() { HEADERS } else { DATA };
        assert_eq!(stream.ended_by, Some(expected), "{method} {answer}");
        assert_eq!(stream.frames.get(&DATA).copied(), (!body.is_empty()).then_some(1), "{answer}");
        assert_eq!(stream.body, body.as_bytes(), "{method} {answer}");
        let seen = upstream.seen().concat();
        assert_eq!(header(&seen, "transfer-encoding"), None, "{seen}");
        assert!(seen.ends_with("\r\n\r\n"), "{seen}");
        assert_eq!(settled(&gateway).await, 95, "{method} {answer}");
    }
}

/// A window of zero makes its own stream wait. The client's other streams have windows of their
/// own.
#[tokio::test]
async fn a_stream_without_a_window_waits_alone_and_is_whole_once_it_has_one() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = frames(&gateway, &certificate, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    client.send(&head(1, END_STREAM, "GET", "/x/waits")).await.unwrap();
    let mut streams = BTreeMap::new();
    receive(&mut client, &mut streams, |streams, _| {
        streams.get(&1).is_some_and(|stream| stream.frames.contains_key(&HEADERS))
    })
    .await;
    let window = |stream: u32| frame(WINDOW_UPDATE, 0, stream, &2_u32.to_be_bytes());
    for stream in [3, 5] {
        let both = [head(stream, END_STREAM, "GET", "/x/goes"), window(stream)].concat();
        client.send(&both).await.unwrap();
        receive(&mut client, &mut streams, |streams, _| {
            streams.get(&stream).is_some_and(|stream| stream.ended_by.is_some())
        })
        .await;
        assert_eq!(streams[&stream].body, b"ok");
    }
    assert_eq!((streams[&1].ended_by, &*streams[&1].body), (None, &b""[..]));
    // Its upstream's answer has ended, and is paid for.
    assert_eq!(settled(&gateway).await, 85);
    client.send(&window(1)).await.unwrap();
    receive(&mut client, &mut streams, |streams, _| streams[&1].ended_by.is_some()).await;
    assert_eq!(streams[&1].body, b"ok");
    let still_there = tokio::time::timeout(Duration::from_millis(100), client.frame()).await;
    assert!(!matches!(still_there, Ok(None)), "the connection goes on");
}

/// The upstream has answered and reads no more. The client may send the rest of its request for five seconds, and is
/// then cut off.
#[tokio::test]
async fn a_stream_that_sends_on_after_its_answer_is_cut_off_in_time() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        // The deadlines are looked at every five seconds at least. This answer comes in between.
        tokio::time::sleep(Duration::from_secs(2)).await;
        wire.send("HTTP/1.1 403 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").await;
        wire.rest().await;
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, mut request) = send(&mut client, "POST", "/x/y", "alice", false);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"no");
    let answered = std::time::Instant::now();
    while request.send_data(bytes::Bytes::from_static(b"x"), false).is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(answered.elapsed() < Duration::from_millis(7500), "it goes on and on");
    }
    assert!(answered.elapsed() > Duration::from_secs(3), "{:?}", answered.elapsed());
    assert_eq!(settled(&gateway).await, 100);
}
