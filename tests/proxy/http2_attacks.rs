//! Clients that turn HTTP/2 against the gateway: heads without an end, resets in bursts, control frames without a reader.
//! Each of them loses its connection or its own streams. The others are served, nothing stays held, and the memory
//! stays flat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;

use super::http2_streams::{Stream, frames, head, receive};
use super::tls::{gateway, settled};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, field, frame,
};
use crate::support::h2::{http2, read, send};
use crate::support::wire::{LIMIT, RawUpstream};
use crate::support::{TestGateway, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const MIB: usize = 1 << 20;

/// The memory that this process has, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Another client is served at once.
async fn assert_served(gateway: &TestGateway, certificate: &CertificateDer<'static>) {
    let call = async {
        let mut client = http2(gateway.public(), certificate).await;
        let (answer, _) = send(&mut client, "GET", "/x/other", "alice", true);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
    };
    tokio::time::timeout(LIMIT, call).await.expect("the others wait");
}

/// Sends `bytes` again and again, up to `most` of them in all, until the gateway ends the connection or takes no more.
/// Returns how many were sent.
async fn flood(client: &mut Frames, bytes: &[u8], most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        match tokio::time::timeout(Duration::from_secs(1), client.send(bytes)).await {
            Ok(Ok(())) => sent += bytes.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    sent
}

/// Reads until the gateway ends the connection.
async fn assert_ended(client: &mut Frames) {
    let ended = async { while client.frame().await.is_some() {} };
    tokio::time::timeout(LIMIT, ended).await.expect("the connection stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_continuations_without_an_end_ends_its_connection() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    assert_served(&gateway, &certificate).await;
    let mut fields = Vec::new();
    for n in 0..16 {
        field(&mut fields, &format!("x-filler-{n}"), &"f".repeat(900));
    }
    let empty = frame(CONTINUATION, 0, 1, &[]).repeat(1000);
    let small = frame(CONTINUATION, 0, 1, b"\0\x01a\x01b").repeat(1000);
    let large = frame(CONTINUATION, 0, 1, &fields);
    for (name, one) in [("empty", empty), ("small", small), ("large", large)] {
        let before = resident();
        let mut client = frames(&gateway, &certificate, &[]).await;
        let mut begun = head(1, END_STREAM, "GET", "/x/y");
        begun[4] &= !END_HEADERS;
        client.send(&begun).await.unwrap();
        let sent = flood(&mut client, &one, 64 * MIB).await;
        assert!(sent < 16 * MIB, "{name}: {sent} bytes of one head were taken");
        assert_ended(&mut client).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 * MIB, "{name}: {grown} bytes");
        assert_served(&gateway, &certificate).await;
    }
    assert!(!upstream.seen().concat().contains("/x/y"));
}

/// A field of 4 kB is stored in the connection's table once, and then named again and again by one byte each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_head_that_unpacks_to_a_huge_one_is_refused_and_takes_no_memory() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = frames(&gateway, &certificate, &[]).await;
    let before = resident();
    // A literal that is stored (RFC 7541, 6.2.1). It becomes the first entry of the dynamic table: index 62.
    let mut stored = Vec::new();
    field(&mut stored, "x-bomb", &"b".repeat(3900));
    stored[0] = 0x40;
    for n in 0..50 {
        let mut bytes = head(2 * n + 1, END_STREAM, "GET", "/x/bomb");
        let mut block = bytes.split_off(9);
        if n == 0 {
            block.extend(&stored);
        }
        block.extend([0x80 | 62; 8 * 1024]);
        // The gateway ends such a connection.
        let bomb = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block);
        if client.send(&bomb).await.is_err() {
            break;
        }
    }
    assert_ended(&mut client).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes");
    assert!(!upstream.seen().concat().contains("/x/bomb"));
    assert_eq!(settled(&gateway).await, 100);
    assert_served(&gateway, &certificate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_in_bursts_leave_no_call_and_no_hold() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let credits = serde_json::json!({ "credits": 1_000_000, "id": "more", "reason": "test" });
    gateway.admin(http::Method::POST, "/admin/accounts/alice/grants", Some(credits)).await;
    assert_served(&gateway, &certificate).await;
    let before = resident();
    for burst in [1, 10, 90] {
        let mut client = frames(&gateway, &certificate, &[]).await;
        let mut stream = 1;
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let mut bytes = Vec::new();
            for _ in 0..burst {
                bytes.extend(head(stream, END_STREAM, "GET", "/x/reset"));
                bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
                stream += 2;
            }
            // The gateway may have had enough of this connection.
            if client.send(&bytes).await.is_err() {
                client = frames(&gateway, &certificate, &[]).await;
                stream = 1;
            }
        }
        assert_served(&gateway, &certificate).await;
    }
    assert!(eventually(async || gateway.gateway.metrics().calls_in_flight.get() == 0).await);
    settled(&gateway).await;
    gateway.assert_reconciled().await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes");
}

/// The gateway answers each of these frames with one. It stops reading from a client that does not read the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frames_whose_answers_nobody_reads_take_no_memory() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    assert_served(&gateway, &certificate).await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    for (name, one) in [("PING", frame(PING, 0, 0, b"are you?")), ("SETTINGS", settings)] {
        let before = resident();
        let mut client = frames(&gateway, &certificate, &[]).await;
        let sent = flood(&mut client, &one.repeat(1000), 64 * MIB).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 * MIB, "{name}: {grown} bytes after {sent}");
        assert_served(&gateway, &certificate).await;
    }
}

/// The window shrinks below zero once a part of the answer has come, and then opens byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_client_opens_its_window_byte_by_byte_is_whole() {
    const LENGTH: usize = 500;
    const FIRST: usize = 100;
    let body: String = (0..LENGTH).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n{body}").leak();
    let upstream = RawUpstream::answering(answer).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = frames(&gateway, &certificate, &[(4, FIRST as u32)]).await;
    client.send(&head(1, END_STREAM, "GET", "/x/y")).await.unwrap();
    let mut streams = BTreeMap::new();
    let has = |streams: &BTreeMap<u32, Stream>, bytes: usize| {
        streams.get(&1).is_some_and(|stream| stream.body.len() >= bytes)
    };
    receive(&mut client, &mut streams, |streams, _| has(streams, FIRST)).await;
    // The window of stream 1 is at -100 after this.
    client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    let byte = frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes());
    client.send(&byte.repeat(FIRST)).await.unwrap();
    for n in FIRST..LENGTH {
        client.send(&byte).await.unwrap();
        receive(&mut client, &mut streams, |streams, _| has(streams, n + 1)).await;
        assert_eq!(streams[&1].body.len(), n + 1, "beyond the window");
    }
    receive(&mut client, &mut streams, |streams, _| streams[&1].ended_by.is_some()).await;
    assert_eq!(streams[&1].body, body.as_bytes());
    assert_eq!(settled(&gateway).await, 95);
}

/// Frames without content, and frames of padding alone, cost their sender as much as they cost the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_frames_without_an_end_take_no_memory_and_keep_nobody_out() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "body_timeout = \"2s\"", "").await;
    assert_served(&gateway, &certificate).await;
    let before = resident();
    let mut client = frames(&gateway, &certificate, &[]).await;
    client.send(&head(1, 0, "POST", "/x/y")).await.unwrap();
    let sent = flood(&mut client, &frame(DATA, 0, 1, &[]).repeat(1000), 8 * MIB).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{grown} bytes after {sent}");
    assert_served(&gateway, &certificate).await;
    drop(client);
    settled(&gateway).await;
    assert!(eventually(async || gateway.gateway.metrics().calls_in_flight.get() == 0).await);
}
