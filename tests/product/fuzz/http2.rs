//! HTTP/2 clients: streams that the h2 crate speaks, and frames made by hand.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::check::{Got, Received};
use super::http1::{mutate, path};
use super::side::Side;
use super::upstream::OVER_HTTP_2;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, RST_STREAM, SETTINGS, field,
    frame,
};
use crate::support::h2::{HOST, connect, read};
use crate::support::random::Random;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Several streams on one connection, each with its own fate.
pub async fn streams(
    side: &Side,
    certificate: &CertificateDer<'static>,
    random: &mut Random,
    next_nonce: &mut u64,
) -> Received {
    let mut received = Received::default();
    let Ok(stream) = connect(side.process.public, certificate, &["h2"]).await else {
        return received;
    };
    let Ok((client, connection)) = h2::client::handshake(stream).await else { return received };
    let connection = tokio::spawn(connection);
    let mut streams = Vec::new();
    for _ in 0..1 + random.below(6) {
        *next_nonce += 1;
        let nonce = next_nonce.to_string();
        let Some(request) = request(side, random, &nonce) else { continue };
        let (client, random) = (client.clone(), random.fork());
        streams.push(tokio::spawn(one(client, request, nonce, random)));
    }
    if random.below(8) == 0 {
        // The connection is cut under its streams.
        tokio::time::sleep(random.millis(0, 30)).await;
        connection.abort();
    }
    for stream in streams {
        received.add(stream.await.unwrap());
    }
    connection.abort();
    received
}

fn request(side: &Side, random: &mut Random, nonce: &str) -> Option<Request<()>> {
    let method = random.one_of(&[
        "POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "TRACK", "post",
    ]);
    let uri = format!("https://{HOST}{}", path(random));
    let mut request = Request::builder().method(method).uri(uri).header("x-nonce", nonce);
    request = request.header(OVER_HTTP_2, "yes");
    for line in side.credentials[random.below(side.credentials.len())].split("\r\n") {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    for (name, value) in [
        ("x-farebox-account", "rich-2"),
        ("x-request-id", "mine"),
        ("expect", "100-continue"),
        ("content-length", "4"),
        ("content-length", "4, 4"),
        ("host", "other"),
        ("cookie", "farebox_session=x"),
    ] {
        if random.below(20) == 0 {
            request = request.header(name, value);
        }
    }
    request.body(()).ok()
}

/// Sends a request in some way, and reads its answer, or leaves.
async fn one(
    client: SendRequest<Bytes>,
    mut request: Request<()>,
    nonce: String,
    mut random: Random,
) -> Received {
    let mut received = Received::default();
    let parts = random.below(5);
    let sizes: Vec<usize> =
        (0..parts).map(|_| random.one_of(&[0, 0, 1, 4, 100, 20_000, 70_000])).collect();
    if random.below(3) == 0 {
        let sum = sizes.iter().sum::<usize>() + usize::from(random.below(8) == 0);
        request.headers_mut().insert("content-length", sum.into());
    }
    let Ok(mut client) = client.ready().await else { return received };
    let Ok((answer, mut body)) = client.send_request(request, parts == 0) else { return received };
    // The part after which it resets the stream; mostly there is none.
    let leaves_at = random.below(20);
    for (n, size) in sizes.iter().enumerate() {
        if n == leaves_at {
            body.send_reset(h2::Reason::CANCEL);
            return received;
        }
        let is_last = n + 1 == sizes.len();
        let sent = match (is_last, random.below(6)) {
            (true, 0) => body
                .send_data(Bytes::from(vec![b'b'; *size]), false)
                .and_then(|()| body.send_trailers(HeaderMap::new())),
            _ => body.send_data(Bytes::from(vec![b'b'; *size]), is_last),
        };
        if sent.is_err() {
            return received;
        }
        if random.below(6) == 0 {
            tokio::time::sleep(random.millis(0, 5)).await;
        }
    }
    if random.below(8) == 0 {
        tokio::time::sleep(random.millis(0, 30)).await;
        body.send_reset(h2::Reason::CANCEL);
        return received;
    }
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answer).await else { return received };
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(id) = text("x-request-id") else { return received };
    let got = Got {
        status: answer.status().as_u16(),
        id: id.to_owned(),
        cost: text("x-credits-cost").and_then(|text| text.parse().ok()),
        echo: text("x-echo").map(str::to_owned),
    };
    let whole = random.below(8) > 0;
    let mut body = answer.into_body();
    let body = match tokio::time::timeout(PATIENCE, read(&mut body)).await {
        Ok(Ok(body)) if whole => body,
        _ => Vec::new(),
    };
    received.answer(got, &nonce, &String::from_utf8_lossy(&body));
    received
}

/// The nonce of requests whose frames are made by hand.
pub const BY_HAND: &str = "by hand";

/// The frames of one request.
fn by_hand(side: &Side, random: &mut Random, stream: u32) -> Vec<u8> {
    let mut block = Vec::new();
    let method = random.one_of(&[
        "POST",
        "POST",
        "POST",
        "GET",
        "TRACE",
        "TRACK",
        "CONNECT",
        "P O",
        "POST / HTTP/1.1\r\n",
    ]);
    let path = path(random);
    field(&mut block, ":method", method);
    field(&mut block, ":scheme", random.one_of(&["https", "https", "https", "http", "x"]));
    field(&mut block, ":path", &path);
    field(
        &mut block,
        ":authority",
        random.one_of(&["shop", "shop", "shop", "shop", "shop@x", "", "a b"]),
    );
    field(&mut block, "x-nonce", BY_HAND);
    for line in side.credentials[random.below(side.credentials.len())].split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        field(&mut block, name, value);
    }
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("connection", "upgrade"),
        ("content-length", "3"),
        ("content-length", "0"),
        ("x-a", "b\r\nx-request-id: mine"),
        ("x-b\r\nx-request-id", "mine"),
        ("X-Upper", "c"),
        (":path", "/free"),
        ("", "d"),
    ] {
        if random.below(12) == 0 {
            field(&mut block, name, value);
        }
    }
    let has_body = random.below(2) == 0;
    let end = if has_body { 0 } else { END_STREAM };
    let mut bytes = if random.below(4) == 0 {
        let rest = block.split_off(random.below(block.len()));
        let mut bytes = frame(HEADERS, end, stream, &block);
        bytes.extend(frame(CONTINUATION, END_HEADERS, stream, &rest));
        bytes
    } else {
        frame(HEADERS, END_HEADERS | end, stream, &block)
    };
    if has_body {
        for _ in 0..random.below(3) {
            let part = vec![b'b'; random.one_of(&[0, 1, 3, 5000])];
            bytes.extend(frame(DATA, 0, stream, &part));
        }
        match random.below(5) {
            0 => bytes.extend(frame(DATA, END_STREAM | PADDED, stream, &[2, b'b', 0, 0])),
            1 => bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])),
            2 => {}
            _ => bytes.extend(frame(DATA, END_STREAM, stream, b"")),
        }
    }
    if random.below(6) == 0 {
        let payload = vec![random.below(256) as u8; random.below(20)];
        let (kind, flags) = (random.below(12) as u8, random.below(256) as u8);
        bytes.extend(frame(kind, flags, random.below(8) as u32, &payload));
    }
    bytes
}

/// Sends frames that no library would send. The answers are read but not checked: the upstream's log and the ledger
/// show what became of the frames.
pub async fn raw(side: &Side, certificate: &CertificateDer<'static>, random: &mut Random) {
    let mut bytes = Vec::new();
    for n in 0..1 + random.below(4) as u32 {
        bytes.extend(by_hand(side, random, 2 * n + 1));
    }
    if random.below(3) == 0 {
        mutate(random, &mut bytes);
    }
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    all.extend(frame(SETTINGS, 0, 0, &[]));
    all.extend(bytes);
    if random.below(4) == 0 {
        all.truncate(random.below(all.len()));
    }
    let Ok(mut stream) = connect(side.process.public, certificate, &["h2"]).await else { return };
    for piece in all.chunks(random.one_of(&[10, 300, 100_000])) {
        if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    let mut buffer = vec![0; 16 * 1024];
    let limit = random.millis(1, 150);
    let _ = tokio::time::timeout(limit, async {
        while let Ok(1..) = stream.read(&mut buffer).await {}
    })
    .await;
}
