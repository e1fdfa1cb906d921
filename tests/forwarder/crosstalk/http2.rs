//! Clients over HTTP/2: many streams on one connection, some of which are reset.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;

use super::Shared;
use crate::support::h2::{HOST, connect};
use crate::support::message::{Head, content};
use crate::support::random::Random;

const PATIENCE: Duration = Duration::from_secs(10);

/// Opens connections one after another.
pub async fn client(shared: Arc<Shared>, mut random: Random) {
    while Instant::now() < shared.until {
        let stream = connect(shared.tls, &shared.certificate, &["h2"]).await;
        let Ok(stream) = stream else { continue };
        let Ok((client, connection)) = h2::client::handshake(stream).await else { continue };
        let connection = tokio::spawn(connection);
        for _ in 0..1 + random.below(4) {
            let streams: Vec<_> = (0..1 + random.below(8))
                .map(|_| {
                    let (shared, client) = (shared.clone(), client.clone());
                    tokio::spawn(stream_of(shared, client, random.fork()))
                })
                .collect();
            if random.below(12) == 0 {
                // The connection is cut under its streams.
                tokio::time::sleep(random.millis(0, 15)).await;
                connection.abort();
            }
            for stream in streams {
                stream.await.unwrap();
            }
        }
        connection.abort();
    }
}

async fn stream_of(shared: Arc<Shared>, client: SendRequest<Bytes>, random: Random) {
    let nonce = shared.nonce();
    let exchanged = exchange(&shared, client, random, &nonce);
    if tokio::time::timeout(PATIENCE, exchanged).await.is_err() {
        shared.fault(format!("{nonce} got no answer in time"));
    }
}

/// Runs one stream. An error says that the stream or its connection was reset, which either end may
/// do.
async fn exchange(
    shared: &Shared,
    client: SendRequest<Bytes>,
    mut random: Random,
    nonce: &str,
) -> Result<(), h2::Error> {
    let has_body = random.below(3) > 0;
    let length = if has_body { random.one_of(&[0, 1, 20, 500, 5000, 70_000]) } else { 0 };
    let folder = random.one_of(&["free", "free", "paid"]);
    let mut request = Request::builder()
        .method(if has_body { "POST" } else { "GET" })
        .uri(format!("https://{HOST}/{folder}/{nonce}"))
        .header("authorization", format!("Bearer {}", shared.token))
        .header("x-nonce", nonce)
        .header("x-length", length);
    if has_body && random.below(2) == 0 {
        request = request.header("content-length", length);
    }
    let request = request.body(()).unwrap();
    let mut client = client.ready().await?;
    let (answer, mut stream) = client.send_request(request, !has_body)?;
    // One in ten streams is reset at some point.
    let mut resets = random.below(10) == 0;
    if has_body {
        for part in content(nonce, length).chunks(1 + length / 4) {
            if resets && random.below(3) == 0 {
                stream.send_reset(h2::Reason::CANCEL);
                return Ok(());
            }
            stream.send_data(Bytes::copy_from_slice(part), false)?;
            tokio::task::yield_now().await;
        }
        stream.send_data(Bytes::new(), true)?;
    }
    if resets && random.below(2) == 0 {
        tokio::time::sleep(random.millis(0, 5)).await;
        stream.send_reset(h2::Reason::CANCEL);
        return Ok(());
    }
    let answer = answer.await?;
    let fields = answer.headers().iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let head = Head { line: String::new(), fields: fields.collect() };
    let mut from = answer.into_body();
    let mut body = Vec::new();
    let is_whole = loop {
        match from.data().await {
            Some(Ok(data)) => {
                from.flow_control().release_capacity(data.len())?;
                body.extend_from_slice(&data);
                if resets {
                    resets = false;
                    stream.send_reset(h2::Reason::CANCEL);
                }
            }
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    shared.judge(nonce, &head, &body, is_whole);
    Ok(())
}
