//! Requests with bodies over HTTP/2, which an upstream gets over HTTP/1.1.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::framing::requests;
use super::tls::{gateway, settled};
use crate::support::TestGateway;
use crate::support::h2::{HOST, connect, http2, read, send};
use crate::support::relay::Relay;
use crate::support::token;
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};
use bytes::Bytes;
use h2::SendStream;
use h2::client::SendRequest;
use http::HeaderMap;
use tokio::sync::Notify;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Reads each request to the end that its framing gives it, and answers 200.
async fn keeping_alive() -> RawUpstream {
    RawUpstream::start(|mut wire| async move {
        while let Some(head) = wire.head().await {
            if header(&head, "transfer-encoding").is_some() {
                while let Some(size) = wire.up_to("\r\n").await {
                    let Ok(size) = usize::from_str_radix(size.trim(), 16) else { return };
                    wire.exactly(size + 2).await;
                    if size == 0 {
                        break;
                    }
                }
            } else {
                let length =
                    header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
                wire.exactly(length).await;
            }
            if wire.try_send(OK).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn grant(gateway: &TestGateway, account: &str) {
    let body = serde_json::json!({ "credits": 100, "id": account, "reason": "test" });
    let path = format!("/admin/accounts/{account}/grants");
    gateway.admin(http::Method::POST, &path, Some(body)).await;
}

/// One piece of a request's body.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// A DATA frame.
    Data(&'static str),
    /// A DATA frame that ends the body.
    Last(&'static str),
    /// Trailers, which end the body.
    Trailers,
}

#[tokio::test]
async fn an_empty_data_frame_is_no_end_of_a_body_and_its_end_is_told_once() {
    use Part::{Data, Last, Trailers};
    let bodies: [(&[Part], &str); 9] = [
        (&[Last("")], ""),
        (&[Data("body"), Last("")], "body"),
        (&[Data(""), Data("body"), Last("")], "body"),
        (&[Data("bo"), Data(""), Data("dy"), Last("")], "body"),
        (&[Data("bo"), Data(""), Data(""), Last("dy")], "body"),
        (&[Data(""), Data(""), Last("")], ""),
        (&[Data("body"), Data(""), Trailers], "body"),
        (&[Data(""), Trailers], ""),
        (&[Trailers], ""),
    ];
    let upstream = keeping_alive().await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    grant(&gateway, "bob").await;
    let mut alice = http2(gateway.public(), &certificate).await;
    let mut bob = http2(gateway.public(), &certificate).await;
    let mut expected = Vec::new();
    for (parts, body) in bodies {
        for declared in [false, true] {
            alice = alice.ready().await.unwrap();
            let length = declared.then_some(body.len());
            let (answer, mut stream) = open(&mut alice, "/x/alice", "alice", length);
            for part in parts {
                match *part {
                    Data(data) => stream.send_data(Bytes::from_static(data.as_bytes()), false),
                    Last(data) => stream.send_data(Bytes::from_static(data.as_bytes()), true),
                    Trailers => stream.send_trailers(HeaderMap::new()),
                }
                .unwrap();
            }
            assert_eq!(answer.await.unwrap().status(), 200, "{parts:?}");
            expected.push(("POST /x/alice HTTP/1.1".to_owned(), body.to_owned()));
            // Another account's call on the same connection to the upstream.
            bob = bob.ready().await.unwrap();
            let (answer, _) = send(&mut bob, "GET", "/x/bob", "bob", true);
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200, "after {parts:?}");
            assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
            expected.push(("GET /x/bob HTTP/1.1".to_owned(), String::new()));
        }
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1, "every call took the pooled connection");
    assert_eq!(requests(&seen[0]), expected);
    assert_eq!(settled(&gateway).await, 100 - 18 * 5);
}

/// Sends the head of a POST, with a `content-length` if a length is given.
fn open(
    client: &mut SendRequest<Bytes>,
    path: &str,
    account: &str,
    length: Option<usize>,
) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let mut request = http::Request::post(format!("https://{HOST}{path}"))
        .header("authorization", format!("Bearer {}", token(account)));
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    client.send_request(request.body(()).unwrap(), false).unwrap()
}

#[tokio::test]
async fn curl_s_uploads_of_unknown_length_arrive_whole_and_end_once() {
    let upstream = keeping_alive().await;
    let (gateway, _certificate) = gateway(upstream.address, "", "").await;
    let port = gateway.public().port();
    let mut expected = Vec::new();
    for length in [0, 1, 5, 100_000] {
        // From a pipe, so that curl cannot know the length.
        let (stdin, mut into) = std::io::pipe().unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http2", "--max-time", "20", "-X", "POST", "-T", "-"])
            .args(["-w", " %{http_version} %{http_code}"])
            .arg("--cacert")
            .arg(gateway.folder.path().join("cert.pem"))
            .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")])
            .args(["-H", &format!("authorization: Bearer {}", token("alice"))])
            .arg(format!("https://{HOST}:{port}/x/upload"))
            .stdin(stdin);
        let body = "x".repeat(length);
        let sent = body.clone();
        let feed = tokio::task::spawn_blocking(move || into.write_all(sent.as_bytes()));
        let output = tokio::task::spawn_blocking(move || curl.output()).await.unwrap().unwrap();
        feed.await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok 2 200", "{length} bytes");
        expected.push(("POST /x/upload HTTP/1.1".to_owned(), body));
    }
    let seen: Vec<_> = upstream.seen().iter().flat_map(|bytes| requests(bytes)).collect();
    assert!(seen == expected, "the upstream saw other bodies than curl sent");
    assert_eq!(settled(&gateway).await, 100 - 4 * 5);
}

/// Sends zeros for as long as the other end takes them, and counts them.
fn pump(mut stream: SendStream<Bytes>) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let pump = tokio::spawn(async move {
        while let Some(capacity) = capacity(&mut stream).await {
            if stream.send_data(Bytes::from(vec![0; capacity]), false).is_err() {
                return;
            }
            count.fetch_add(capacity, Ordering::Relaxed);
        }
    });
    (pump, sent)
}

/// Waits until the other end takes bytes. Returns how many it takes; `None` if the stream is over.
async fn capacity(stream: &mut SendStream<Bytes>) -> Option<usize> {
    stream.reserve_capacity(16 * 1024);
    std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()
}

/// Waits until no more bytes are taken for half a second.
async fn until_stalled(sent: &AtomicUsize) -> usize {
    let limit = Instant::now() + Duration::from_secs(20);
    let (mut last, mut since) = (0, Instant::now());
    while Instant::now() < limit {
        let now = sent.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        } else if now > 0 && since.elapsed() > Duration::from_millis(500) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the upload never stalls; {last} bytes were taken");
}

#[tokio::test]
async fn a_stalled_upload_does_not_block_the_other_streams_of_its_connection() {
    let upstream = RawUpstream::start(|mut wire| async move {
        while let Some(head) = wire.head().await {
            if head.contains("/x/stalled") {
                // The body is never read; the connection stays open.
                std::future::pending::<()>().await;
            }
            let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            wire.exactly(length).await;
            wire.send(OK).await;
        }
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    // The first stream's client sends nothing; the upstream of the second reads nothing.
    let (_silent, _body) = open(&mut client, "/x/y", "alice", Some(10));
    client = client.ready().await.unwrap();
    let (_stalled, body) = open(&mut client, "/x/stalled", "alice", Some(1 << 30));
    let (pump, sent) = pump(body);
    until_stalled(&sent).await;

    for length in [10, 300_000] {
        client = client.ready().await.unwrap();
        let (answer, mut body) = open(&mut client, "/x/y", "alice", Some(length));
        let upload = async {
            let mut left = length;
            while left > 0 {
                let part = capacity(&mut body).await.expect("the stream lives").min(left);
                left -= part;
                body.send_data(Bytes::from(vec![0; part]), left == 0).unwrap();
            }
            answer.await.unwrap().status()
        };
        let answered = tokio::time::timeout(Duration::from_secs(10), upload).await;
        assert_eq!(answered.expect("it waits behind the stalled upload"), 200);
    }
    pump.abort();
}

/// Uploads `bytes` over each protocol, from the request's first byte to the answer's head.
async fn upload_http_1(address: SocketAddr, bytes: usize) -> Duration {
    let mut client = Wire::connect(address).await;
    client.send(post("/x/warm", "alice", "{}")).await;
    client.message().await.unwrap();
    let started = Instant::now();
    let length = format!("content-length: {bytes}\r\n");
    client.send(request("POST /x/up", "alice", &length, "")).await;
    client.send(vec![0; bytes]).await;
    assert_eq!(status(&client.message().await.unwrap().0), 200);
    started.elapsed()
}

async fn upload_http_2(mut client: SendRequest<Bytes>, bytes: usize) -> Duration {
    let (answer, _) = send(&mut client, "GET", "/x/warm", "alice", true);
    assert_eq!(answer.await.unwrap().status(), 200);
    client = client.ready().await.unwrap();
    let started = Instant::now();
    let (answer, mut body) = open(&mut client, "/x/up", "alice", Some(bytes));
    body.send_data(Bytes::from(vec![0; bytes]), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_a_long_line_takes_at_most_twice_as_long_as_over_http_1() {
    const BYTES: usize = 5 << 20;
    let upstream = keeping_alive().await;
    let (over_tls, certificate) = gateway(upstream.address, "", "").await;
    let plain = super::settlement::raw(&upstream, "").await;
    // 40 ms each way, at 100 Mbit/s.
    let line = |to| Relay::start(to, Duration::from_millis(40), 12_500_000);
    let http_1 = upload_http_1(line(plain.public()).await.address, BYTES).await;
    let relay = line(over_tls.public()).await;
    let client = http2(relay.address, &certificate).await;
    let http_2 = upload_http_2(client, BYTES).await;
    assert!(http_1 > Duration::from_millis(400), "the relay delays nothing: {http_1:?}");
    assert!(http_2 < http_1 * 2, "HTTP/2 took {http_2:?}, HTTP/1.1 {http_1:?}");
}

#[tokio::test]
async fn a_head_over_http_2_may_be_as_large_as_the_config_says_and_no_larger() {
    for (most, good, bad) in
        [(300_000, 200_000, 310_000), (2048, 1000, 3000), (65_536, 60_000, 66_000)]
    {
        let upstream = keeping_alive().await;
        let server = format!("max_header_bytes = {most}");
        let (gateway, certificate) = gateway(upstream.address, &server, "").await;
        let mut client = http2(gateway.public(), &certificate).await;
        for (bytes, code) in [(good, 200), (bad, 431), (good, 200)] {
            client = client.ready().await.unwrap();
            let request = http::Request::get(format!("https://{HOST}/x/y"))
                .header("authorization", format!("Bearer {}", token("alice")))
                .header("x-long", "y".repeat(bytes));
            let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            let answer = answer.await.unwrap_or_else(|error| panic!("{bytes} of {most}: {error}"));
            assert_eq!(answer.status(), code, "{bytes} of {most}");
        }
        assert_eq!(upstream.seen().concat().matches("GET /x/y").count(), 2);
        assert_eq!(settled(&gateway).await, 90);
    }
}

/// The client is at fault for its silence, whether the body is small or streams.
#[tokio::test]
async fn a_streamed_body_that_stops_is_a_408_and_paid_for_like_one_whose_client_left() {
    for (part, balance) in [("", 100), ("part", 95)] {
        let upstream = RawUpstream::start(|mut wire| async move {
            wire.rest().await;
        })
        .await;
        let (gateway, certificate) =
            gateway(upstream.address, "body_timeout = \"300ms\"", "").await;
        let mut client = http2(gateway.public(), &certificate).await;
        let (answer, mut body) = open(&mut client, "/x/y", "alice", None);
        if !part.is_empty() {
            body.send_data(Bytes::from_static(part.as_bytes()), false).unwrap();
        }
        let started = Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap();
        assert_eq!(answer.unwrap().status(), 408, "{part:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(settled(&gateway).await, balance, "{part:?}");
    }
}

/// Behind a body that its upstream does not take, a reset is not read in its turn.
#[tokio::test]
async fn a_reset_behind_a_body_that_is_not_taken_is_a_client_that_left() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        // The body is never read; the connection stays open.
        std::future::pending::<()>().await;
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, body) = open(&mut client, "/x/y", "alice", None);
    let (pump, sent) = pump(body);
    until_stalled(&sent).await;
    // The client drops both directions of the stream, which resets it.
    pump.abort();
    drop(answer);
    assert_eq!(settled(&gateway).await, 95);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset_and_one_without_a_body_ends_with_its_head() {
    let arrived = Arc::new(Notify::new());
    let signal = arrived.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let arrived = signal.clone();
        async move {
            while let Some(head) = wire.head().await {
                if head.starts_with("GET /x/none") {
                    wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
                } else {
                    wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n")
                        .await;
                    arrived.notified().await;
                    return;
                }
            }
        }
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/none", "alice", true);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 204);
    assert!(answer.body().is_end_stream(), "END_STREAM stands on the head");
    client = client.ready().await.unwrap();
    let (answer, _) = send(&mut client, "GET", "/x/breaks", "alice", true);
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "part");
    arrived.notify_one();
    assert!(body.data().await.unwrap().is_err(), "it does not seem to be all");
    assert_eq!(settled(&gateway).await, 95);
}

/// A client that leaves one of its answers unread still gets the others.
#[tokio::test]
async fn an_answer_that_is_not_read_does_not_block_the_other_streams_of_its_connection() {
    const LARGE: usize = 8 << 20;
    let upstream = RawUpstream::start(|mut wire| async move {
        while let Some(head) = wire.head().await {
            if head.starts_with("GET /x/large") {
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
                if wire.try_send(vec![b'x'; LARGE]).await.is_err() {
                    return;
                }
            } else {
                wire.send(OK).await;
            }
        }
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let stream = connect(gateway.public(), &certificate, &["h2"]).await.unwrap();
    // Room for more than the one answer that is not read.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (mut client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (answer, _) = send(&mut client, "GET", "/x/large", "alice", true);
    let mut unread = answer.await.unwrap().into_body();
    for _ in 0..15 {
        client = client.ready().await.unwrap();
        let (answer, _) = send(&mut client, "GET", "/x/small", "alice", true);
        let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap();
        assert_eq!(read(&mut answer.unwrap().into_body()).await.unwrap(), b"ok");
    }
    assert_eq!(read(&mut unread).await.unwrap().len(), LARGE, "nothing of it was lost");
}

#[tokio::test]
async fn the_host_of_an_http_2_request_is_told_to_the_upstream_beside_its_own() {
    let upstream = keeping_alive().await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y?a=b", "alice", true);
    assert_eq!(answer.await.unwrap().status(), 200);
    let seen = upstream.seen().concat();
    assert!(seen.starts_with("GET /x/y?a=b HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some(&*upstream.address.to_string()));
    assert_eq!(seen.to_ascii_lowercase().matches("\r\nhost:").count(), 1, "{seen}");
    assert_eq!(header(&seen, "x-forwarded-host"), Some(HOST));
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("https"));
    assert_eq!(header(&seen, "transfer-encoding"), None, "it has no body");
}

#[tokio::test]
async fn an_upstream_that_switches_protocols_for_an_http_2_client_is_a_502_and_free() {
    let upstream = RawUpstream::answering(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "websocket = true").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
    assert_eq!(answer.await.unwrap().status(), 502);
    assert_eq!(settled(&gateway).await, 100);
}

/// Each chunk in a frame of its own would cost its client nine bytes and a look for each byte.
#[tokio::test]
async fn small_chunks_that_come_together_go_on_in_one_frame() {
    const CHUNKS: usize = 1000;
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        wire.send(format!("{head}{}0\r\n\r\n", "1\r\nx\r\n".repeat(CHUNKS))).await;
        wire.rest().await;
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
    let mut body = answer.await.unwrap().into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.data().await {
        frames.push(frame.unwrap().len());
    }
    assert_eq!(frames.iter().sum::<usize>(), CHUNKS);
    assert!(frames.len() <= 5, "{} frames: {frames:?}", frames.len());
}

/// The parts of an answer that are gathered into one write do not wait for the client's upload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_an_answer_arrives_at_once_though_its_client_never_stops_sending() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for n in 0.. {
            if wire.exactly(1 << 20).await.is_none() {
                return;
            }
            let event = format!("data: {n}\n\n");
            wire.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
        }
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, stream) = open(&mut client, "/x/y", "alice", None);
    let (pump, _) = pump(stream);
    let mut body = answer.await.unwrap().into_body();
    let mut events = String::new();
    // On a busy machine two events may come in one frame.
    while !events.contains("data: 4\n\n") {
        let frame = tokio::time::timeout(Duration::from_secs(10), body.data()).await;
        let frame = frame.expect("it waits for the end of the upload").unwrap().unwrap();
        body.flow_control().release_capacity(frame.len()).unwrap();
        events.push_str(std::str::from_utf8(&frame).unwrap());
    }
    let expected: String = (0..5).map(|n| format!("data: {n}\n\n")).collect();
    assert!(events.starts_with(&expected), "{events}");
    pump.abort();
}
