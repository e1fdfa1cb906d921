//! The upstream behind the proxies of `make bench`. Every request is answered with the same small JSON; a path
//! that ends in `/big` with a megabyte, and one that ends in `/stream` with [`EVENTS`] server-sent events,
//! [`PAUSE`] apart, each of which is the time at which it was sent. On a path that ends in `/chat-stream` they are chunks
//! of a chat completion that say the time, and its usage comes after them. On a path that ends in `/chat-flood` there are
//! [`FLOOD`] such chunks without a pause between them. They have [`MARK`] once each in place of the time.
//!
//! The upstream must cost as little as possible, for it shares a core with the load generator: one thread,
//! one `read` and one `write` a request. It speaks as much HTTP/1.1 as a proxy sends: keep-alive,
//! pipelining, bodies with a `content-length`. On anything else it closes the connection, and
//! the bench counts a failure.
//!
//! `canned_upstream LISTEN` prints `listening on http://ADDRESS` and runs until it is killed.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::{TcpListener, TcpStream};

/// The shape of a chat completion, so that its size is an honest one.
const BODY: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"canned","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

/// How each chunk of a chat begins.
const CHUNK: &str = r#"{"id":"chatcmpl-bench0123456789","object":"chat.completion.chunk","created":1764460800,"model":"canned","service_tier":"default","system_fingerprint":"fp_0123456789","#;

/// The usage at the end of a chat.
const USAGE: &str = r#"{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}"#;

/// The head of a stream.
const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The length of the large answer.
const BIG: usize = 1024 * 1024;

/// The events of a stream.
const EVENTS: usize = 100;

/// The time between two events.
const PAUSE: Duration = Duration::from_millis(10);

/// The chunks of a flood.
const FLOOD: usize = 1000;

/// The chunks of a flood that are written at a time. With fewer of them, the core that the upstream shares with the load
/// generator is full before that of a gateway.
const BURST: usize = 25;

/// A byte that is once in each chunk of a flood, and nowhere else in its answer.
const MARK: char = '~';

/// No proxy of the bench sends a longer head.
const MAX_HEAD: usize = 64 * 1024;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen: SocketAddr =
        std::env::args().nth(1).ok_or("usage: canned_upstream LISTEN")?.parse()?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    io::stdout().flush()?;
    let answers = Rc::new(Answers::new());
    let connections = tokio::task::LocalSet::new();
    connections.run_until(accept(listener, answers)).await
}

async fn accept(listener: TcpListener, answers: Rc<Answers>) -> Result<(), Box<dyn Error>> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = answers.clone();
        tokio::task::spawn_local(async move {
            // A proxy that closes its pooled connection is the normal end.
            let _ = serve(&stream, &answers).await;
        });
    }
}

/// The answers, as they are sent.
struct Answers {
    small: Vec<u8>,
    big: Vec<u8>,
    /// Chunks of a flood that are written together.
    burst: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let of = |body: &[u8]| {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            [head.as_bytes(), body].concat()
        };
        let event = chat_event(&format!(" credit{MARK}"));
        let burst = chunk(&event).repeat(BURST).into_bytes();
        Self { small: of(BODY.as_bytes()), big: of(&[b'x'; BIG]), burst }
    }
}

async fn serve(stream: &TcpStream, answers: &Answers) -> io::Result<()> {
    let mut unread: Vec<u8> = Vec::with_capacity(MAX_HEAD);
    let mut asked = Vec::new();
    loop {
        while let Some(head_len) = find(&unread, b"\r\n\r\n").map(|at| at + 4) {
            let request_len = head_len + body_len(&unread[..head_len])?;
            asked.push(Asked::of(&unread[..head_len]));
            while unread.len() < request_len {
                read(stream, &mut unread).await?;
            }
            unread.drain(..request_len);
        }
        for asked in asked.drain(..) {
            match asked {
                Asked::Small => write_all(stream, &answers.small).await?,
                Asked::Big => write_all(stream, &answers.big).await?,
                Asked::Stream => send_events(stream, false).await?,
                Asked::ChatStream => send_events(stream, true).await?,
                Asked::ChatFlood => send_flood(stream, &answers.burst).await?,
            }
        }
        if unread.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        read(stream, &mut unread).await?;
    }
}

/// The answer that a path asks for.
enum Asked {
    Small,
    Big,
    Stream,
    ChatStream,
    ChatFlood,
}

impl Asked {
    fn of(head: &[u8]) -> Self {
        let path = head.split(|&b| b == b' ').nth(1).unwrap_or_default();
        match path {
            path if path.ends_with(b"/big") => Self::Big,
            path if path.ends_with(b"/stream") => Self::Stream,
            path if path.ends_with(b"/chat-stream") => Self::ChatStream,
            path if path.ends_with(b"/chat-flood") => Self::ChatFlood,
            _ => Self::Small,
        }
    }
}

/// Sends the events of a stream, each in a chunk and a write of its own.
async fn send_events(stream: &TcpStream, is_chat: bool) -> io::Result<()> {
    write_all(stream, STREAM_HEAD).await?;
    for _ in 0..EVENTS {
        tokio::time::sleep(PAUSE).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let micros = now.as_micros();
        let event =
            if is_chat { chat_event(&micros.to_string()) } else { format!("data: {micros}\n\n") };
        write_all(stream, chunk(&event).as_bytes()).await?;
    }
    if is_chat {
        write_all(stream, chunk(&usage_events()).as_bytes()).await?;
    }
    write_all(stream, b"0\r\n\r\n").await
}

/// Sends the chunks of a chat as fast as they are taken, and lets the other connections have their turn after each burst.
async fn send_flood(stream: &TcpStream, burst: &[u8]) -> io::Result<()> {
    write_all(stream, STREAM_HEAD).await?;
    for _ in 0..FLOOD / BURST {
        write_all(stream, burst).await?;
        tokio::task::yield_now().await;
    }
    let end = chunk(&usage_events()) + "0\r\n\r\n";
    write_all(stream, end.as_bytes()).await
}

/// A chunk of a chat with this text.
fn chat_event(text: &str) -> String {
    format!(
        "data: {CHUNK}\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n"
    )
}

/// The usage at the end of a chat, and its last event.
fn usage_events() -> String {
    format!("data: {CHUNK}\"choices\":[],\"usage\":{USAGE}}}\n\ndata: [DONE]\n\n")
}

/// A chunk of an answer, framed.
fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// Appends the bytes that the socket has; `UnexpectedEof` once the peer has closed.
async fn read(stream: &TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    loop {
        match stream.try_read_buf(into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(e) => return Err(e),
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The body's length by its `content-length`, 0 without one; an error for a chunked body.
fn body_len(head: &[u8]) -> io::Result<usize> {
    for line in head.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = std::str::from_utf8(value).map_err(io::Error::other)?;
            return digits.parse().map_err(io::Error::other);
        }
    }
    Ok(0)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
