//! A connection whose writes never wait. A write puts bytes into a buffer. Each read and each flush
//! sends bytes from the buffer.
//!
//! A session of Pingora cannot be read and written at once, and if one of its writes is dropped
//! half-way, bytes are lost. Here a write is complete as soon as it is called. So one task can
//! serve both directions of a call, without a channel and without deadlocks: it goes on reading
//! while written bytes wait to be sent. The relay reads nothing more for a side that [is
//! blocked](Link::is_blocked), which limits the buffer to one part of a body. A head and the body
//! after it are sent in one piece.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::client_address::ClientAddress;
use super::stall::Stall;
use super::transport::Transport;

/// A write that would make the buffer larger than this, in bytes, begins to send at once. Smaller
/// writes wait for a flush.
const GATHERED: usize = 8 * 1024;

/// The largest buffer that is kept once it is empty, in bytes.
const KEPT: usize = 4 * 1024;

/// A connection that is shared by two users in one task: the session that reads and writes it, and
/// the relay that flushes it.
#[derive(Debug)]
pub(super) struct Link {
    io: Mutex<Io>,
    // Each session copies these facts when it begins.
    tls: Option<Arc<SslDigest>>,
    socket: Option<Arc<SocketDigest>>,
    alpn: Option<ALPN>,
    id: UniqueIDType,
    /// The address of the client at the other end. It is found when it is first asked for.
    client: OnceLock<Option<ClientAddress>>,
}

#[derive(Debug)]
struct Io {
    stream: Transport,
    /// The written bytes. The bytes before `sent` have been sent already.
    out: Vec<u8>,
    sent: usize,
    /// Whether the stream itself may hold unsent bytes: TLS encrypts into a buffer of its own.
    is_dirty: bool,
    /// Whether the last attempt to send left bytes unsent.
    is_blocked: bool,
    /// The error with which sending failed. Nothing is sent after it.
    broken: Option<io::ErrorKind>,
    /// Whether the stream has taken a byte of this call.
    has_taken: bool,
    stall: Stall,
}

impl Link {
    /// A link over a stream that Pingora made.
    pub fn new(stream: Stream) -> Arc<Self> {
        let (tls, socket) = (stream.get_ssl_digest(), stream.get_socket_digest());
        let (alpn, id) = (stream.selected_alpn_proto(), stream.id());
        let io = Io::new(Transport::Pingora(stream));
        Arc::new(Self { io: Mutex::new(io), tls, socket, alpn, id, client: OnceLock::new() })
    }

    /// A link to a client without TLS.
    pub fn to_client(socket: TcpStream, digest: SocketDigest) -> Arc<Self> {
        let (io, socket) = (Mutex::new(Io::new(Transport::Client(socket))), Some(Arc::new(digest)));
        Arc::new(Self { io, tls: None, socket, alpn: None, id: 0, client: OnceLock::new() })
    }

    /// A link to an upstream.
    pub fn over(stream: Transport) -> Arc<Self> {
        let io = Mutex::new(Io::new(stream));
        // These facts are only asked for on clients' connections.
        Arc::new(Self { io, tls: None, socket: None, alpn: None, id: 0, client: OnceLock::new() })
    }

    /// The end that a session reads and writes.
    pub fn end(self: &Arc<Self>) -> Stream {
        Box::new(LinkEnd(self.clone()))
    }

    /// The address of the client at the other end.
    pub fn client_address(&self) -> Option<&ClientAddress> {
        let find = || ClientAddress::of(self.socket.as_deref()?);
        self.client.get_or_init(find).as_ref()
    }

    fn io(&self) -> MutexGuard<'_, Io> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends as much of the written bytes as the other side takes, then reads. If sending fails,
    /// reading goes on, because the other side may have sent the reason.
    /// [`poll_flush`](Self::poll_flush) returns the failure.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut io = self.io();
        let _ = io.poll_flush(cx);
        Pin::new(&mut io.stream).poll_read(cx, buf)
    }

    /// Accepts all of `bytes`.
    fn write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        self.io().write(cx, bytes)
    }

    /// Ready once all written bytes have been sent.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    /// Sends as much as can be sent now, without waiting.
    pub fn flush_now(&self) -> Poll<io::Result<()>> {
        self.poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    /// Sends all written bytes, then shuts the stream down for writing.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.io();
        ready!(io.poll_flush(cx))?;
        Pin::new(&mut io.stream).poll_shutdown(cx)
    }

    /// See [`Transport::will_reset`].
    pub fn will_reset(&self) {
        self.io().stream.will_reset();
    }

    /// Whether written bytes are waiting because the other side does not take them. Nothing more
    /// should be written until it does.
    pub fn is_blocked(&self) -> bool {
        self.io().is_blocked
    }

    /// The time since which the other side has taken no bytes; `None` if no bytes are waiting.
    pub fn blocked_since(&self) -> Option<Instant> {
        let io = self.io();
        if io.is_blocked { io.stall.waiting_since() } else { None }
    }

    /// Records that a call begins: see [`Stall::begin_call`] and [`has_lost`](Self::has_lost).
    pub fn begin_call(&self) {
        let mut io = self.io();
        io.stall.begin_call();
        io.stream.begin_call();
        io.has_taken = false;
    }

    /// Whether sending has failed before a byte of this call was sent. All written bytes are still
    /// in the buffer then, and [another stream](Self::move_to) may send them.
    pub fn has_lost(&self) -> bool {
        self.io().has_lost()
    }

    /// Replaces the stream with another one, on which nothing was sent yet.
    pub fn move_to(&self, stream: Transport) {
        let mut io = self.io();
        io.stream = stream;
        (io.broken, io.is_dirty) = (None, false);
    }

    /// Whether the other side has recently delayed a write: see [`Stall::is_recent`].
    pub fn has_stalled(&self) -> bool {
        self.io().stall.is_recent()
    }

    /// Whether an idle connection can be used for another request: it is open, and the other side
    /// has sent nothing on it.
    pub fn is_quiet(&self) -> bool {
        let mut io = self.io();
        let is_clean = io.unsent().is_empty() && !io.is_dirty && io.broken.is_none();
        is_clean && io.stream.is_quiet()
    }
}

impl Io {
    fn new(stream: Transport) -> Self {
        Self {
            stream,
            out: Vec::new(),
            sent: 0,
            is_dirty: false,
            is_blocked: false,
            broken: None,
            has_taken: false,
            stall: Stall::default(),
        }
    }

    fn unsent(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !self.is_blocked
            && self.broken.is_none()
            && self.unsent().len() + bytes.len() > GATHERED
        {
            match self.poll_send(cx, bytes) {
                Poll::Ready(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => self.fail(&error),
                Poll::Pending => self.is_blocked = true,
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
        if let Some(kind) = self.broken.filter(|_| !self.has_lost()) {
            return Err(kind.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends a part of the unsent bytes followed by `more`. Returns how many bytes of `more` were
    /// sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        let unsent = self.out.get(self.sent..).unwrap_or_default();
        let stream = Pin::new(&mut self.stream);
        let sent = if unsent.is_empty() {
            stream.poll_write(cx, more)
        } else if more.is_empty() {
            stream.poll_write(cx, unsent)
        } else {
            stream.poll_write_vectored(cx, &[IoSlice::new(unsent), IoSlice::new(more)])
        };
        let unsent = unsent.len();
        match sent {
            Poll::Pending => {
                self.stall.waits();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                (self.is_dirty, self.has_taken) = (true, true);
                self.stall.moves(count);
                if count < unsent {
                    self.sent += count;
                    return Poll::Ready(Ok(0));
                }
                self.sent = 0;
                self.out.clear();
                if self.out.capacity() > KEPT {
                    self.out = Vec::new();
                }
                Poll::Ready(Ok(count - unsent))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.broken {
            return Poll::Ready(Err(kind.into()));
        }
        while !self.unsent().is_empty() {
            match self.poll_send(cx, &[]) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    self.fail(&error);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.is_blocked = true;
                    return Poll::Pending;
                }
            }
        }
        if self.is_dirty {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.fail(&error);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.stall.waits();
                    self.is_blocked = true;
                    return Poll::Pending;
                }
            }
            self.is_dirty = false;
            self.stall.moves(0);
        }
        self.is_blocked = false;
        Poll::Ready(Ok(()))
    }

    /// Records that sending failed. Nothing more is sent, unless another stream can send all of the
    /// call.
    fn fail(&mut self, error: &io::Error) {
        self.broken = Some(error.kind());
        self.is_blocked = false;
        self.is_dirty = false;
        if !self.has_lost() {
            (self.out, self.sent) = (Vec::new(), 0);
        }
    }

    fn has_lost(&self) -> bool {
        self.broken.is_some() && !self.has_taken && !self.stream.has_sent()
    }
}

/// The end of a [`Link`] that a session reads and writes. Flushing it does nothing: the relay
/// flushes the link before it waits, and so does each read.
#[derive(Debug)]
pub(super) struct LinkEnd(pub Arc<Link>);

impl AsyncRead for LinkEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for LinkEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(cx, buf).map(|()| buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for LinkEnd {
    async fn shutdown(&mut self) {
        // An error means that the other side is gone, so the rest cannot be sent.
        let _ = std::future::poll_fn(|cx| self.0.poll_shutdown(cx)).await;
    }
}

#[async_trait]
impl Peek for LinkEnd {}

impl UniqueID for LinkEnd {
    fn id(&self) -> UniqueIDType {
        self.0.id
    }
}

impl Ssl for LinkEnd {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.0.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.0.alpn.clone()
    }
}

/// Returns no times: they are used nowhere, and each session would copy them.
impl GetTimingDigest for LinkEnd {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for LinkEnd {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for LinkEnd {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.0.socket.clone()
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
