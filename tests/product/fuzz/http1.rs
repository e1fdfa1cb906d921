//! HTTP/1 clients: requests by the grammar and beside it, mutated, split, pipelined and broken off.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::check::{Got, Received};
use super::side::Side;
use crate::support::h2::connect;
use crate::support::random::Random;
use crate::support::wire::header;

/// How long a client waits for more bytes of answers.
const PATIENCE: Duration = Duration::from_millis(400);

const PATHS: [&str; 18] = [
    "/api/ai/generate",
    "/api/ai/generate",
    "/api/ai/generate/hd",
    "/api/ai/generate/hd",
    "/jobs/7",
    "/jobs/x%20y",
    "/free",
    "/leave/it",
    "/leave/a/b",
    "/ws",
    "/other",
    "/a/b/c",
    "/",
    "/credits/balance",
    "/credits/check",
    "/credits/prices",
    "/credits/nothing",
    "/webhooks/stripe",
];

const METHODS: [&str; 16] = [
    "POST", "POST", "POST", "POST", "GET", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS",
    "TRACE", "TRACK", "PROPFIND", "post", "CONNECT",
];

/// Header lines that somebody may send.
const MORE: [&str; 30] = [
    "expect: 100-continue",
    "connection: close",
    "connection: keep-alive",
    "connection: upgrade\r\nupgrade: websocket",
    "connection: upgrade\r\nupgrade: h2c",
    "upgrade: websocket",
    "connection: x-request-id, x-farebox-account, content-length",
    "connection: host",
    "x-forwarded-for: 1.2.3.4",
    "x-farebox-account: rich-2",
    "x_farebox_account: rich-2",
    "x-request-id: mine",
    "x-http-method-override: GET",
    "x-original-url: /free",
    "x-credits-cost: 0",
    "cookie: a=b; farebox_session=x",
    "te: trailers",
    "trailer: x-request-id",
    "content-type: application/json",
    "idempotency-key: one",
    "accept-encoding: gzip",
    "range: bytes=0-5",
    "if-none-match: *",
    "origin: https://example.com",
    "access-control-request-method: POST",
    "host: other",
    "x-empty:",
    "x-long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x-tab:\ta\tb",
    " folded: line",
];

/// A spelling of a path.
pub fn spelled(random: &mut Random, path: &str) -> String {
    if random.below(5) < 3 {
        return path.to_owned();
    }
    let at = random.below(path.len()) + 1;
    let (before, after) = path.split_at(at);
    match random.below(18) {
        0 => format!("{}%{:02x}{after}", &path[..at - 1], path.as_bytes()[at - 1]),
        1 => format!("{}%{:02X}{after}", &path[..at - 1], path.as_bytes()[at - 1]),
        2 => path.replacen('/', "//", 1),
        3 => format!("{path}/"),
        4 => format!("{path}/."),
        5 => format!("{path}/../x"),
        6 => format!("{path}/%2e%2e/x"),
        7 => format!("{before}%2f{after}"),
        8 => format!("{path};a=b"),
        9 => format!("{path}?a=/free"),
        10 => format!("{path}#a"),
        11 => format!("{before}\\{after}"),
        12 => path.to_ascii_uppercase(),
        13 => format!("{before}{}{after}", random.one_of(&["%00", "%c3%a9", "é", "%zz", "\u{7f}"])),
        14 => format!("http://shop{path}"),
        15 => format!("http://other{path}"),
        16 => format!("{path}?"),
        _ => format!("{}{}{after}", &path[..at - 1], path[at - 1..at].to_ascii_uppercase()),
    }
}

/// A path that somebody may ask for.
pub fn path(random: &mut Random) -> String {
    let path = random.one_of(&PATHS);
    spelled(random, path)
}

/// A request that sends `nonce`.
fn request(side: &Side, random: &mut Random, nonce: &str, is_last: bool) -> Vec<u8> {
    let method = random.one_of(&METHODS);
    let path = path(random);
    let version = random.one_of(&[
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0",
        "HTTP/2.0",
    ]);
    let mut text = format!("{method} {path} {version}\r\nhost: shop\r\nx-nonce: {nonce}\r\n");
    if random.below(15) > 0 {
        text += &side.credentials[random.below(side.credentials.len())];
        text += "\r\n";
    }
    for _ in 0..random.below(3) {
        text += random.one_of(&MORE);
        text += "\r\n";
    }
    if is_last && random.below(3) > 0 {
        text += "connection: close\r\n";
    }
    let length = random.one_of(&[0, 0, 1, 10, 300, 70_000]);
    let body = if length == 300 {
        // A request within a body.
        format!("POST /free HTTP/1.1\r\nhost: shop\r\n{}\r\n\r\n", side.credentials[0])
    } else {
        "b".repeat(length)
    };
    let (declared, has_body) = (body.len(), random.below(20) > 0);
    let chunked = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let sent = if !has_body { String::new() } else { body.clone() };
    match random.below(16) {
        0..4 => text += &format!("content-length: {declared}\r\n\r\n{sent}"),
        4..7 if body.is_empty() => text += "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        4..7 => text += &format!("transfer-encoding: chunked\r\n\r\n{}", chunked(&body)),
        7 => text += &format!("content-length: {}\r\n\r\n{sent}", declared + 1),
        8 => text += &format!("content-length: {}\r\n\r\n{sent}", declared / 2),
        9 => {
            text +=
                &format!("content-length: {declared}\r\ncontent-length: {declared}\r\n\r\n{sent}")
        }
        10 => {
            let both =
                random.one_of(&["content-length: 4", "Content-Length : 4", "content-length: 0"]);
            text += &format!("{both}\r\ntransfer-encoding: chunked\r\n\r\n{}", chunked(&body));
        }
        11 => {
            let coding =
                random.one_of(&["xchunked", "chunked, identity", "gzip, chunked", "CHUNKED"]);
            text += &format!("transfer-encoding: {coding}\r\n\r\n{}", chunked(&body));
        }
        12 => {
            let number =
                random.one_of(&["+1", "0x1", "-1", "1, 1", "", "1 1", "99999999999999999999"]);
            text += &format!("content-length: {number}\r\n\r\n{sent}");
        }
        13 => {
            let chunks = random.one_of(&[
                "1;a=b\r\nx\r\n0\r\n\r\n",
                "1\nx\n0\n\n",
                "0\r\nx-request-id: mine\r\n\r\n",
                "zz\r\n",
                "-1\r\nx\r\n0\r\n\r\n",
                "1\r\nx\r\n1\r\ny\r\n00\r\n\r\n",
                "ffffffffffffffff1\r\nx\r\n0\r\n\r\n",
                "2\r\nxyz\r\n0\r\n\r\n",
            ]);
            text += &format!("transfer-encoding: chunked\r\n\r\n{chunks}");
        }
        _ => text += "\r\n",
    }
    text.into_bytes()
}

/// Changes a few bytes.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        if bytes.is_empty() {
            return;
        }
        // Most mistakes that matter are possible at the beginning, so it is damaged more often.
        let most = if random.below(2) == 0 { bytes.len().min(400) } else { bytes.len() };
        let at = random.below(most);
        let length = random.below(8).min(bytes.len() - at);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let token = random.one_of(&[
                    "\r\n",
                    "\n",
                    "\r",
                    ":",
                    " ",
                    "\t",
                    "\0",
                    "0\r\n\r\n",
                    "\r\n\r\n",
                    "chunked",
                    "content-length: 1\r\n",
                    "HTTP/1.1",
                    "%2e",
                    "/",
                    "\u{b}",
                    "transfer-encoding: ",
                ]);
                bytes.splice(at..at, token.bytes());
            }
            _ => bytes.truncate(at),
        }
    }
}

/// How a client ends its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client reads all answers.
    Waits,
    /// The client closes its side after the last byte, and reads on.
    Finishes,
    /// The client leaves a moment after the last byte.
    Leaves,
    /// The client leaves in the middle of what it would have sent.
    BreaksOff,
}

/// Opens a connection, sends a few requests in one way or another, and reads what comes.
pub async fn connection(side: &Side, random: &mut Random, next_nonce: &mut u64) -> Received {
    let count = random.one_of(&[1, 1, 2, 3, 5]);
    let mut bytes = Vec::new();
    for n in 1..=count {
        *next_nonce += 1;
        bytes.extend(request(side, random, &next_nonce.to_string(), n == count));
    }
    if random.below(3) == 0 {
        mutate(random, &mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let received = match &side.certificate {
        None => match TcpStream::connect(side.process.public).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                exchange(stream, random, bytes).await
            }
            Err(_) => String::new(),
        },
        Some(certificate) => match connect(side.process.public, certificate, &["http/1.1"]).await {
            Ok(stream) => exchange(stream, random, bytes).await,
            Err(_) => String::new(),
        },
    };
    read(&text, &received)
}

/// Sends `bytes` in pieces; all that is received.
async fn exchange<S>(stream: S, random: &mut Random, mut bytes: Vec<u8>) -> String
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let end = match random.below(10) {
        0..6 => End::Waits,
        6 => End::Finishes,
        7 => End::Leaves,
        _ => End::BreaksOff,
    };
    if end == End::BreaksOff {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    let (mut from, mut to) = tokio::io::split(stream);
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let most = random.one_of(&[1, 7, 100, 5000, 100_000]);
        let rest = bytes.split_off((random.below(most) + 1).min(bytes.len()));
        pieces.push((bytes, random.below(if pieces.len() < 30 { 8 } else { 1000 })));
        bytes = rest;
    }
    let pause = random.millis(0, 40);
    let send = async {
        for (piece, rest) in pieces {
            if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
                return;
            }
            if rest == 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if end == End::Finishes {
            let _ = to.shutdown().await;
        }
    };
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let receive = async {
        while let Ok(Ok(read @ 1..)) = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await
        {
            received.extend_from_slice(&buffer[..read]);
        }
    };
    if matches!(end, End::Leaves | End::BreaksOff) {
        let leave = async {
            send.await;
            tokio::time::sleep(pause).await;
        };
        tokio::select! { () = leave => {} () = receive => {} }
    } else {
        tokio::join!(send, receive);
    }
    String::from_utf8_lossy(&received).into_owned()
}

/// Finds the answers in the received bytes, and compares them with the nonces in the sent bytes. A mutated request
/// may differ from the request that was planned, so only the sent bytes count.
fn read(sent: &str, received: &str) -> Received {
    let mut found = Received::default();
    let sent_lower = sent.to_ascii_lowercase();
    let lines = sent_lower.split("x-nonce:").skip(1);
    let mut nonces = lines.map(|rest| rest.split(['\r', '\n']).next().unwrap_or_default().trim());
    for answer in received.split("HTTP/1.").skip(1) {
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
        let Some(id) = header(head, "x-request-id") else { continue };
        // A nonce into which these words were mutated is echoed, and begins no answer.
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
        let Some(status) = status else { continue };
        // The answer to the first request with the key, which had a nonce of its own.
        if header(head, "idempotent-replayed").is_some() {
            continue;
        }
        let echo = header(head, "x-echo").map(str::to_owned);
        let cost = header(head, "x-credits-cost").and_then(|text| text.parse().ok());
        // A nonce that was mutated may be no number.
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(echo) = echo.as_deref().filter(is_number) {
            // In the order in which they were asked for.
            if !nonces.any(|nonce| nonce == echo) {
                found.faults.push(format!("an answer of {echo} in {received:?} to {sent:?}"));
            }
            found.body(echo, body);
        }
        found.got.push(Got { status, id: id.to_owned(), cost, echo });
    }
    found
}
