//! Clients over HTTP/1.1, which send several requests at once and leave at any byte.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Shared;
use crate::support::h2::connect;
use crate::support::message::{Reader, Stop, content, write};
use crate::support::random::Random;

const PATIENCE: Duration = Duration::from_secs(10);

/// Opens connections one after another.
pub async fn client(shared: Arc<Shared>, mut random: Random) {
    while Instant::now() < shared.until {
        if random.below(4) > 0 {
            let Ok(stream) = TcpStream::connect(shared.plain).await else { continue };
            let _ = stream.set_nodelay(true);
            connection(&shared, &mut random, stream).await;
        } else {
            let (address, certificate) = (shared.tls, &shared.certificate);
            let Ok(stream) = connect(address, certificate, &["http/1.1"]).await else { continue };
            connection(&shared, &mut random, stream).await;
        }
    }
}

struct Sent {
    nonce: String,
    method: &'static str,
}

fn request(shared: &Shared, random: &mut Random) -> (Sent, Vec<u8>) {
    let nonce = shared.nonce();
    let method = random.one_of(&["POST", "POST", "POST", "PUT", "GET", "HEAD"]);
    let folder = random.one_of(&["free", "free", "paid"]);
    let has_body = matches!(method, "POST" | "PUT");
    let length = if has_body { random.one_of(&[0, 1, 20, 500, 5000, 70_000]) } else { 0 };
    let mut text = format!(
        "{method} /{folder}/{nonce} HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {}\r\n\
         x-nonce: {nonce}\r\nx-length: {length}\r\n",
        shared.token
    );
    let body = content(&nonce, length);
    let is_chunked = has_body && random.below(2) == 0;
    let mut bytes = if is_chunked {
        text += "transfer-encoding: chunked\r\n\r\n";
        let mut bytes = text.into_bytes();
        for part in body.chunks(1 + random.below(3000)) {
            bytes.extend(format!("{:x}\r\n", part.len()).bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    } else {
        if has_body {
            text += &format!("content-length: {length}\r\n");
        }
        (text + "\r\n").into_bytes()
    };
    if !is_chunked {
        bytes.extend(body);
    }
    (Sent { nonce, method }, bytes)
}

/// A few requests, some of them at once, until the connection ends or the client has had enough.
async fn connection<S>(shared: &Shared, random: &mut Random, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (from, mut to) = tokio::io::split(stream);
    let mut from = Reader::new(from, PATIENCE);
    for _ in 0..1 + random.below(6) {
        let mut bytes = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..random.one_of(&[1, 1, 2, 5]) {
            let (one, request) = request(shared, random);
            sent.push(one);
            bytes.extend(request);
        }
        // Some clients leave in the middle of their requests, or while they read.
        if random.below(12) == 0 {
            bytes.truncate(random.below(bytes.len()));
            write(&mut to, &bytes, &mut Some(random.fork())).await;
            if random.below(2) == 0 {
                tokio::time::sleep(random.millis(0, 10)).await;
            }
            return;
        }
        let stays = random.below(10) > 0;
        let leaves_after = random.millis(0, 15);
        let mut wild = (random.below(3) == 0).then(|| random.fork());
        let send = async {
            write(&mut to, &bytes, &mut wild).await;
            std::future::pending().await
        };
        let leave = async {
            if stays {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(leaves_after).await;
        };
        let go_on = tokio::select! {
            go_on = receive(shared, &mut from, &sent) => go_on,
            () = send => false,
            () = leave => false,
        };
        if !go_on {
            return;
        }
        if !from.unread().is_empty() {
            let stray = String::from_utf8_lossy(from.unread()).into_owned();
            return shared.fault(format!("an answer that nobody asked for: {stray}"));
        }
    }
}

/// Reads the answers to `sent`; false if the connection is over.
async fn receive(
    shared: &Shared,
    from: &mut Reader<impl AsyncRead + Unpin>,
    sent: &[Sent],
) -> bool {
    for Sent { nonce, method } in sent {
        let head = loop {
            match from.head().await {
                Ok(head) if matches!(head.status(), Ok((_, 100..=199))) => {
                    if head.all("x-echo") != [nonce] {
                        shared.fault(format!("{nonce} got an interim answer of {head:?}"));
                    }
                }
                Ok(head) => break head,
                Err(Stop::Malformed(why)) => {
                    shared.fault(format!("{nonce} got no answer: {why}"));
                    return false;
                }
                Err(Stop::Silent) => {
                    shared.fault(format!("{nonce} got no answer in time"));
                    return false;
                }
                Err(_) => return false,
            }
        };
        let framing = match head.answer_framing(method) {
            Ok(framing) => framing,
            Err(why) => {
                shared.fault(format!("{nonce}: {why}"));
                return false;
            }
        };
        let mut body = Vec::new();
        let end = from.body(framing, &mut body).await;
        if let Err(Stop::Malformed(why)) = &end {
            shared.fault(format!("{nonce}: {why}"));
        }
        shared.judge(nonce, &head, &body, end.is_ok());
        if end.is_err() || head.all("connection").contains(&"close") {
            return false;
        }
    }
    true
}
