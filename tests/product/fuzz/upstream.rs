//! An upstream that reads requests by the strict grammar only, writes down the requests that it ran, and answers in
//! many ways.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::random::Random;

/// How long the upstream keeps a call waiting that it never answers.
const SILENCE: Duration = Duration::from_millis(250);

/// The largest body that a gateway reads before it forwards a call.
const SMALL: usize = 64 * 1024;

/// A header of requests from HTTP/2's library.
pub const OVER_HTTP_2: &str = "x-over-http-2";

/// The fate of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The gateway closed the connection before there was an answer.
    Left,
    /// The upstream gave no answer, or a part of one.
    Broken,
    /// A whole answer was written.
    Answered(u16),
    /// A tunnel was opened.
    Tunnel,
}

/// A request that the upstream began to run.
#[derive(Clone, Debug)]
pub struct Ran {
    pub id: String,
    pub account: String,
    pub method: String,
    pub path: String,
    pub nonce: String,
    #[expect(dead_code, reason = "a failure's message shows it")]
    pub framing: Framing,
    /// The request's body came to its end.
    pub is_whole: bool,
    /// A part of a body of unknown length came over HTTP/2, where no part can be malformed.
    pub has_begun: bool,
    /// At most 64 KiB of a longer body are missing.
    pub is_nearly_whole: bool,
    pub outcome: Outcome,
}

/// The requests that an upstream has seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub ran: Vec<Ran>,
    /// Requests that no gateway may send.
    pub faults: Vec<String>,
    ids: HashSet<String>,
}

/// The upstream.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Seen>>,
}

impl Upstream {
    pub async fn start(mut random: Random) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let upstream = Self { address, seen };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                stream.set_nodelay(true).unwrap();
                let connection = Connection {
                    stream,
                    unread: Vec::new(),
                    upstream: serving.clone(),
                    random: random.fork(),
                };
                tokio::spawn(connection.serve());
            }
        });
        upstream
    }
}

/// How a body is framed.
#[derive(Clone, Copy, Debug)]
pub enum Framing {
    Length(usize),
    Chunked,
}

struct Head {
    method: String,
    path: String,
    nonce: String,
    framing: Framing,
    is_upgrade: bool,
    is_http_2: bool,
    id: String,
    account: String,
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    upstream: Upstream,
    random: Random,
}

/// The connection is over.
struct Over;

impl Connection {
    async fn serve(mut self) {
        while let Ok(true) = self.one().await {}
    }

    /// Serves a request; false if the connection ends with it.
    async fn one(&mut self) -> Result<bool, Over> {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end);
        let head = match read_head(&text, self.upstream.address) {
            Ok(head) => head,
            Err(why) => {
                let fault = format!("{why}: {text:?}");
                self.upstream.seen.lock().unwrap().faults.push(fault);
                return Err(Over);
            }
        };
        let place = {
            let mut seen = self.upstream.seen.lock().unwrap();
            if !seen.ids.insert(head.id.clone()) {
                seen.faults.push(format!("a request was sent twice: {text:?}"));
            }
            seen.ran.push(Ran {
                id: head.id.clone(),
                account: head.account.clone(),
                method: head.method.clone(),
                path: head.path.clone(),
                nonce: head.nonce.clone(),
                framing: head.framing,
                is_whole: false,
                is_nearly_whole: false,
                has_begun: false,
                outcome: Outcome::Left,
            });
            seen.ran.len() - 1
        };
        self.answer(&head, place).await
    }

    fn note(&self, place: usize, change: impl FnOnce(&mut Ran)) {
        change(&mut self.upstream.seen.lock().unwrap().ran[place]);
    }

    async fn answer(&mut self, head: &Head, place: usize) -> Result<bool, Over> {
        if head.is_upgrade && self.random.below(2) == 0 {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                          upgrade: websocket\r\n\r\n";
            let is_whole = matches!(head.framing, Framing::Length(0));
            self.note(place, |ran| (ran.outcome, ran.is_whole) = (Outcome::Tunnel, is_whole));
            self.write(switch.as_bytes()).await?;
            self.echo().await;
            return Ok(false);
        }
        let is_early = self.random.below(10) == 0;
        if !is_early {
            self.body(head, place).await?;
        }
        for interim in ["100 Continue", "103 Early Hints"] {
            if self.random.below(15) == 0 {
                self.write(format!("HTTP/1.1 {interim}\r\n\r\n").as_bytes()).await?;
            }
        }
        match self.random.below(20) {
            0 => {
                // The client may leave while it waits for an answer: then the read ends.
                if tokio::time::timeout(SILENCE, self.more()).await.is_ok_and(|read| read.is_err())
                {
                    return Err(Over);
                }
                self.note(place, |ran| ran.outcome = Outcome::Broken);
                return Ok(false);
            }
            1 => {
                self.note(place, |ran| ran.outcome = Outcome::Broken);
                return Ok(false);
            }
            2 => {
                self.note(place, |ran| ran.outcome = Outcome::Broken);
                let part = format!("x-echo: {n}\r\n\r\nnonce={n};", n = head.nonce);
                let part = format!("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n{part}");
                self.write(part.as_bytes()).await?;
                return Ok(false);
            }
            _ => {}
        }
        let is_kept = self.whole_answer(head, place).await?;
        if is_early {
            self.body(head, place).await?;
        }
        Ok(is_kept)
    }

    async fn whole_answer(&mut self, head: &Head, place: usize) -> Result<bool, Over> {
        let status = self
            .random
            .one_of(&[200, 200, 200, 200, 200, 200, 201, 204, 302, 304, 400, 404, 429, 500, 503]);
        let has_body = head.method != "HEAD" && !matches!(status, 204 | 304);
        let length = self.random.one_of(&[0, 1, 5, 20, 20_000]);
        let body = format!("nonce={};", head.nonce).repeat(length);
        let mut answer = format!("HTTP/1.1 {status} Answer\r\nx-echo: {}\r\n", head.nonce);
        let framing = if has_body { self.random.below(3) } else { 3 };
        match framing {
            0 => answer += &format!("content-length: {}\r\n\r\n{body}", body.len()),
            1 => answer += "transfer-encoding: chunked\r\n\r\n",
            2 => answer += &format!("connection: close\r\n\r\n{body}"),
            _ => answer += "\r\n",
        }
        // The note comes before the answer is written, because the gateway may be quicker than the note.
        self.note(place, |ran| ran.outcome = Outcome::Answered(status));
        self.write(answer.as_bytes()).await?;
        if framing == 1 {
            for part in body.as_bytes().chunks(50_000) {
                self.write(format!("{:x}\r\n", part.len()).as_bytes()).await?;
                self.write(part).await?;
                self.write(b"\r\n").await?;
                if self.random.below(4) == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            self.write(b"0\r\n\r\n").await?;
        }
        Ok(framing != 2)
    }

    async fn echo(&mut self) {
        loop {
            let bytes = std::mem::take(&mut self.unread);
            if self.write(&bytes).await.is_err() || self.more().await.is_err() {
                return;
            }
        }
    }

    /// Reads a body to its end.
    async fn body(&mut self, head: &Head, place: usize) -> Result<(), Over> {
        match head.framing {
            Framing::Length(length) => {
                let last = length.min(SMALL);
                self.skip(length - last).await?;
                self.note(place, |ran| ran.is_nearly_whole = length > SMALL);
                self.skip(last).await?;
            }
            Framing::Chunked => loop {
                let line = loop {
                    if let Some(at) = find(&self.unread, b"\r\n") {
                        break at;
                    }
                    self.more().await?;
                };
                let text = String::from_utf8_lossy(&self.unread[..line]).into_owned();
                self.unread.drain(..line + 2);
                let Ok(size) = usize::from_str_radix(&text, 16) else {
                    let fault = format!("no chunk: {text:?}");
                    self.upstream.seen.lock().unwrap().faults.push(fault);
                    return Err(Over);
                };
                let is_http_2 = head.is_http_2;
                self.note(place, |ran| ran.has_begun |= is_http_2 && size > 0);
                self.skip(size + 2).await?;
                if size == 0 {
                    break;
                }
            },
        }
        self.note(place, |ran| ran.is_whole = true);
        Ok(())
    }

    async fn skip(&mut self, mut bytes: usize) -> Result<(), Over> {
        loop {
            let here = bytes.min(self.unread.len());
            self.unread.drain(..here);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Over> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(read @ 1..) => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(())
            }
            _ => Err(Over),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.stream.write_all(bytes).await.map_err(|_| Over)
    }
}

pub fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Reads a head that a gateway may send, or says why it may not.
fn read_head(text: &str, authority: SocketAddr) -> Result<Head, String> {
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or(text).split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Err("no request line".into()) };
    if !is_token(method)
        || !target.starts_with('/')
        || !target.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err("no request line".into());
    }
    if ["TRACE", "TRACK", "CONNECT"].contains(&&*method.to_ascii_uppercase()) {
        return Err("a method that is never forwarded".into());
    }
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name)) else {
            return Err("no header line".into());
        };
        if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err("a header line with more in it".into());
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let all = |name: &str| -> Vec<&str> {
        let named = headers.iter().filter(|(header, _)| header == name);
        named.map(|(_, value)| &**value).collect()
    };
    let one = |name: &str| match all(name)[..] {
        [value] if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(format!("not one {name}")),
    };
    for name in ["authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"] {
        if !all(name).is_empty() {
            return Err(format!("a client's {name}"));
        }
    }
    if one("host")? != authority.to_string() {
        return Err("another host".into());
    }
    let framing = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Framing::Length(0),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Framing::Length(length.parse().map_err(|_| "a length that is no number")?)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
        _ => return Err("not one framing".into()),
    };
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let is_upgrade = !all("upgrade").is_empty();
    if is_upgrade && (path != "/ws" || all("upgrade") != ["websocket"]) {
        return Err("an upgrade where there is none".into());
    }
    Ok(Head {
        method: method.to_owned(),
        nonce: all("x-nonce").first().copied().unwrap_or("none").to_owned(),
        framing,
        is_upgrade,
        is_http_2: !all(OVER_HTTP_2).is_empty(),
        id: one("x-request-id")?,
        account: one("x-farebox-account")?,
        path,
    })
}
