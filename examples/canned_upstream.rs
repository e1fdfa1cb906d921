//! An upstream that answers every request with the same small JSON: what the proxies of
//! `make bench` are run against.
//!
//! It must cost as little as possible, for it shares a core with the load generator: one thread,
//! one `read` and one `write` a request. Of HTTP/1.1 it knows what a proxy sends it: keep-alive,
//! pipelining, bodies with a `content-length`. On anything else it closes the connection, which
//! the bench then counts as a failure.
//!
//! `canned_upstream LISTEN` prints `listening on http://ADDRESS` and runs until it is killed.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// The shape of a chat completion, so that its size is an honest one.
const BODY: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":0,"model":"canned","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

/// A head longer than this is nobody's we know.
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
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A proxy that closes its pooled connection is the normal end; there is nobody to tell.
            let _ = serve(&stream).await;
        });
    }
}

async fn serve(stream: &TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut unread: Vec<u8> = Vec::with_capacity(MAX_HEAD);
    loop {
        let mut answers = 0;
        while let Some(head_len) = find(&unread, b"\r\n\r\n").map(|at| at + 4) {
            let request_len = head_len + body_len(&unread[..head_len])?;
            while unread.len() < request_len {
                read(stream, &mut unread).await?;
            }
            unread.drain(..request_len);
            answers += 1;
        }
        for _ in 0..answers {
            write_all(stream, answer.as_bytes()).await?;
        }
        if unread.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        read(stream, &mut unread).await?;
    }
}

/// Appends what the socket has; `UnexpectedEof` once the peer has closed.
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
