//! A client's connection, with a limit on the size of a request head.
//!
//! Pingora reads up to a megabyte of head, and parses all of it again after every read, before our
//! code sees any of it. Here at most `max_header_bytes` of a head are read. A client that sends a
//! longer head is refused with 431 before it is identified.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers::X_REQUEST_ID;
use super::link::{Link, LinkEnd};
use super::watch::HeadWatch;
use crate::ledger::CallId;
use crate::problem::{Language, Problem, Rendered};

/// The most bytes that are still read after a head was refused. If the client were cut off while it
/// sends, it might never read the refusal. A deadline also limits the time.
pub(super) const LINGER_BYTES: usize = 128 * 1024;

/// The session's end of a [`Link`], which refuses a head that is too long.
#[derive(Debug)]
pub(super) struct Bounded {
    end: LinkEnd,
    head: Arc<HeadWatch>,
    max_header_bytes: usize,
    refusal: Option<Refusal>,
}

/// The progress of refusing a head.
#[derive(Debug, Default)]
struct Refusal {
    /// Whether the answer was sent and the connection shut down for writing.
    is_shut: bool,
    /// How many bytes of the head were read and dropped after the shutdown.
    lingered: usize,
}

impl Bounded {
    /// Creates the session's end of `link`. `head` records whether a head is being read, and how
    /// many of its bytes have been read so far.
    pub fn new(link: Arc<Link>, head: Arc<HeadWatch>, max_header_bytes: usize) -> Self {
        Self { end: LinkEnd(link), head, max_header_bytes, refusal: None }
    }

    /// Sends the refusal, then reads and drops bytes until the client hangs up or [`LINGER_BYTES`]
    /// are exceeded. The error returned ends the session.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Self { end, max_header_bytes, refusal, .. } = self;
        if refusal.is_none() {
            // A write to a link never waits, and accepts all bytes.
            if let Err(error) =
                ready!(Pin::new(&mut *end).poll_write(cx, &too_long(*max_header_bytes)))
            {
                return Poll::Ready(error);
            }
        }
        let refusal = refusal.get_or_insert_default();
        let told = loop {
            let end = Pin::new(&mut *end);
            if !refusal.is_shut {
                match ready!(end.poll_shutdown(cx)) {
                    Ok(()) => refusal.is_shut = true,
                    Err(error) => break error,
                }
            } else {
                let mut rest = [0; 4096];
                let mut rest = ReadBuf::new(&mut rest);
                match ready!(end.poll_read(cx, &mut rest)) {
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

/// Returns the bytes of the answer to a head that is longer than `max_header_bytes`.
fn too_long(max_header_bytes: usize) -> Vec<u8> {
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
    answer
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(read) = self.head.bytes_of_head() else {
            return Pin::new(&mut self.end).poll_read(cx, buf);
        };
        let left = self.max_header_bytes.saturating_sub(read);
        if left == 0 {
            return self.poll_refuse(cx).map(Err);
        }
        let before = buf.filled().len();
        if buf.remaining() <= left {
            ready!(Pin::new(&mut self.end).poll_read(cx, buf))?;
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(left));
            ready!(Pin::new(&mut self.end).poll_read(cx, &mut part))?;
            let count = part.filled().len();
            buf.advance(count);
        }
        let count = buf.filled().len() - before;
        self.head.grew(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.end).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Bounded {
    async fn shutdown(&mut self) {
        self.end.shutdown().await;
    }
}

#[async_trait]
impl Peek for Bounded {}

impl UniqueID for Bounded {
    fn id(&self) -> UniqueIDType {
        self.end.id()
    }
}

impl Ssl for Bounded {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.end.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.end.selected_alpn_proto()
    }
}

impl GetTimingDigest for Bounded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.end.get_timing_digest()
    }
}

impl GetProxyDigest for Bounded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.end.get_proxy_digest()
    }
}

impl GetSocketDigest for Bounded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.end.get_socket_digest()
    }
}
