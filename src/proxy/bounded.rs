//! A connection on which no request head grows without end, and on which a head and its body go
//! out in one piece.
//!
//! Pingora reads a megabyte of head, and parses all of it again after every read, before the
//! first phase may look at it. Here no more than `max_header_bytes` are read of a head; a client
//! that has not ended its head by then is told 431, whoever it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};

use super::headers::X_REQUEST_ID;
use super::listener::{HeadWatch, STALL};
use crate::ledger::CallId;
use crate::problem::{Language, Problem, Rendered};

/// How much of the rest of a head that is too long is read, so that its client is not cut off
/// before it has read why, in bytes. The head's deadline bounds it in time.
const LINGER_BYTES: usize = 128 * 1024;

/// What is gathered before it is sent. Without a buffer an answer's head and body go out by
/// themselves, at some 8 µs a call; Pingora flushes at an answer's end, and what is streamed.
const WRITE_BUFFER: usize = 4096;

/// A stream on which a head that is too long is refused.
#[derive(Debug)]
pub(super) struct Bounded {
    stream: BufWriter<Stream>,
    head: Arc<HeadWatch>,
    max_header_bytes: usize,
    refusal: Option<Refusal>,
    /// Since when a write has been pending.
    pending_since: Option<Instant>,
}

/// How far the refusal of a head has come.
#[derive(Debug)]
struct Refusal {
    /// The rest of the answer.
    unsent: Bytes,
    /// Whether the client was told that nothing more comes.
    is_shut: bool,
    /// How much of the head was thrown away since.
    lingered: usize,
}

impl Bounded {
    /// `head` says whether a head is being read, and how long it is by now.
    pub fn new(stream: Stream, head: Arc<HeadWatch>, max_header_bytes: usize) -> Self {
        let stream = BufWriter::with_capacity(WRITE_BUFFER, stream);
        Self { stream, head, max_header_bytes, refusal: None, pending_since: None }
    }

    /// Tells the client why its head is not read, and reads on until it has hung up.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Self { stream, max_header_bytes, refusal, .. } = self;
        let refusal = refusal.get_or_insert_with(|| Refusal {
            unsent: too_long(*max_header_bytes),
            is_shut: false,
            lingered: 0,
        });
        let told = loop {
            let stream = Pin::new(&mut *stream);
            if !refusal.unsent.is_empty() {
                match ready!(stream.poll_write(cx, &refusal.unsent)) {
                    Ok(written) => refusal.unsent.advance(written),
                    Err(error) => break error,
                }
            } else if !refusal.is_shut {
                match ready!(stream.poll_shutdown(cx)) {
                    Ok(()) => refusal.is_shut = true,
                    Err(error) => break error,
                }
            } else {
                let mut rest = [0; 4096];
                let mut rest = ReadBuf::new(&mut rest);
                match ready!(stream.poll_read(cx, &mut rest)) {
                    Ok(()) => refusal.lingered += rest.filled().len(),
                    Err(error) => break error,
                }
                if rest.filled().is_empty() || refusal.lingered > LINGER_BYTES {
                    break io::Error::other("the request's head is too long");
                }
            }
        };
        Poll::Ready(told)
    }
}

/// The answer to a head that is longer than `max_header_bytes`, as it goes out.
fn too_long(max_header_bytes: usize) -> Bytes {
    let problem = Problem::head_too_large(max_header_bytes);
    let id = CallId::new();
    let Rendered { status, headers, body } =
        problem.render(id.hold_id().as_str(), Language::English);
    let mut answer = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    let length = body.len();
    let id = id.hold_id().as_str();
    let rest = format!(
        "{X_REQUEST_ID}: {id}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    answer.extend_from_slice(rest.as_bytes());
    answer.into()
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Who reads waits for what comes next: an answer that pauses must not wait in here.
        if !self.stream.buffer().is_empty()
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
        }
        let Some(read) = self.head.bytes_of_head() else {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        };
        let left = self.max_header_bytes.saturating_sub(read);
        if left == 0 {
            return self.poll_refuse(cx).map(Err);
        }
        let before = buf.filled().len();
        if buf.remaining() <= left {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(left));
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            let count = part.filled().len();
            buf.advance(count);
        }
        let count = buf.filled().len() - before;
        self.head.grew(count);
        Poll::Ready(Ok(()))
    }
}

impl Bounded {
    /// Notes how a write went: whether the client reads.
    fn note<T>(&mut self, polled: &Poll<io::Result<T>>, bytes: usize) {
        match polled {
            Poll::Pending => {
                self.pending_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => {
                if self.pending_since.take().is_some_and(|since| since.elapsed() >= STALL) {
                    self.head.stalled();
                }
                self.head.wrote(bytes);
            }
        }
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        let bytes = if let Poll::Ready(Ok(bytes)) = &polled { *bytes } else { 0 };
        self.note(&polled, bytes);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(&polled, 0);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        let bytes = if let Poll::Ready(Ok(bytes)) = &polled { *bytes } else { 0 };
        self.note(&polled, bytes);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Bounded {
    async fn shutdown(&mut self) {
        // Where the client is gone there is nobody to send the rest to.
        let _ = self.stream.flush().await;
        Shutdown::shutdown(&mut **self.stream.get_mut()).await;
    }
}

#[async_trait]
impl Peek for Bounded {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.stream.get_mut().try_peek(buf).await
    }
}

impl UniqueID for Bounded {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().id()
    }
}

impl Ssl for Bounded {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.get_ref().selected_alpn_proto()
    }
}

impl GetTimingDigest for Bounded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_ref().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_ref().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_ref().get_write_pending_time()
    }
}

impl GetProxyDigest for Bounded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_ref().get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.get_mut().set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Bounded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_ref().get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.get_mut().set_socket_digest(digest);
    }
}
