//! The upstream: it answers each request by its nonce, in all ways, and breaks off now and then.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::message::{Framing, Head, Reader, Stop, content, write};
use crate::support::random::Random;

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    faults: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    pub async fn start(mut random: Random) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: socket.local_addr().unwrap(), faults: Arc::default() };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (serving, random) = (serving.clone(), random.fork());
                tokio::spawn(async move { serving.serve(stream, random).await });
            }
        });
        upstream
    }

    /// Requests that were mixed up.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }

    fn fault(&self, fault: String) {
        self.faults.lock().unwrap().push(fault);
    }

    async fn serve(&self, stream: TcpStream, mut random: Random) {
        stream.set_nodelay(true).unwrap();
        let (from, mut to) = stream.into_split();
        let mut from = Reader::new(from, Duration::from_secs(60));
        loop {
            let head = match from.head().await {
                Ok(head) => head,
                Err(Stop::Malformed(why)) => return self.fault(why),
                Err(_) => return,
            };
            let Some(nonce) = head.one("x-nonce").map(str::to_owned) else {
                return self.fault(format!("a request without a nonce: {head:?}"));
            };
            let is_early = random.below(10) == 0;
            if !is_early && !self.body(&mut from, &head, &nonce).await {
                return;
            }
            let is_kept = answer(&mut to, &head, &nonce, &mut random).await;
            if is_early && !self.body(&mut from, &head, &nonce).await || !is_kept {
                return;
            }
        }
    }

    /// Reads a request's body, which must be the one of its nonce; false if it has no end.
    async fn body(&self, from: &mut Reader<OwnedReadHalf>, head: &Head, nonce: &str) -> bool {
        let framing = match head.request_framing() {
            Ok(framing) => framing,
            Err(why) => {
                self.fault(why);
                return false;
            }
        };
        let mut body = Vec::new();
        let end = from.body(framing, &mut body).await;
        if body != content(nonce, body.len()) {
            let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            self.fault(format!("{nonce} came with another body: {start}"));
        }
        let declared = head.one("x-length").and_then(|length| length.parse().ok());
        if end.is_ok() && declared != Some(body.len()) {
            self.fault(format!("{nonce}: {} of {declared:?} bytes as a whole", body.len()));
        }
        if let Err(Stop::Malformed(why)) = &end {
            self.fault(format!("{nonce}: {why}"));
        }
        end.is_ok()
    }
}

/// Answers a request; false if its connection ends with that.
async fn answer(to: &mut OwnedWriteHalf, head: &Head, nonce: &str, random: &mut Random) -> bool {
    let is_head = head.line.starts_with("HEAD ");
    if random.below(10) == 0 {
        let interim = format!("HTTP/1.1 103 Early Hints\r\nx-echo: {nonce}\r\n\r\n");
        if to.write_all(interim.as_bytes()).await.is_err() {
            return false;
        }
    }
    if random.below(20) == 0 {
        tokio::time::sleep(random.millis(1, 20)).await;
    }
    let length = random.one_of(&[0, 1, 10, 100, 1000, 5000, 70_000]);
    let framing = match random.below(6) {
        0..3 => Framing::Length(length),
        3 | 4 => Framing::Chunked,
        _ => Framing::UntilClose,
    };
    let mut text = format!("HTTP/1.1 200 OK\r\nx-echo: {nonce}\r\nx-length: {length}\r\n");
    let is_cut = random.below(15) == 0;
    match framing {
        Framing::Length(length) => text += &format!("content-length: {length}\r\n"),
        Framing::Chunked => text += "transfer-encoding: chunked\r\n",
        // The client cannot see where such a body ought to have ended.
        _ => text += "connection: close\r\nx-may-be-cut: yes\r\n",
    }
    if is_head {
        text += "x-may-be-cut: yes\r\n";
    }
    let mut bytes = (text + "\r\n").into_bytes();
    let body = content(nonce, length);
    if is_head {
        // The head is the whole answer.
    } else if framing == Framing::Chunked {
        for part in body.chunks(1 + random.below(3000)) {
            bytes.extend(format!("{:x}\r\n", part.len()).bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
    } else {
        bytes.extend(body);
    }
    let says_more = length <= 5000 && framing != Framing::UntilClose && random.below(30) == 0;
    if says_more {
        // This answer belongs to no request.
        bytes.extend(b"HTTP/1.1 200 OK\r\nx-echo: stray\r\ncontent-length: 5\r\n\r\nstray");
    }
    if is_cut {
        bytes.truncate(random.below(bytes.len()));
    }
    // Any gateway would take bytes that came after the next request for the answer to it.
    let mut wild = (!says_more && random.below(3) == 0).then(|| random.fork());
    let is_sent = write(to, &bytes, &mut wild).await;
    is_sent && !is_cut && framing != Framing::UntilClose && random.below(20) > 0
}
