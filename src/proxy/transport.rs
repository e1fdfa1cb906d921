//! The stream below a [`Link`](super::link::Link): a plain socket, or a stream of Pingora's, which
//! may have TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::socket::{self, SharedSocket};

/// A connected stream.
#[derive(Debug)]
pub(super) enum Transport {
    /// A socket without TLS, towards an upstream.
    Tcp(TcpStream),
    /// TLS towards an upstream, and the socket below it.
    Tls(Stream, SharedSocket),
    /// A socket without TLS, towards a client.
    Client(TcpStream),
    /// A stream that Pingora made, towards a client.
    Pingora(Stream),
}

impl Transport {
    /// Whether the stream is open and has no bytes to be read. Towards upstreams the kernel is
    /// asked, because tokio knows only the events that it has polled for.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Tcp(socket) | Self::Client(socket) => socket::is_quiet(socket),
            // The kernel is asked first: bytes that TLS has already read are no longer in the
            // kernel.
            Self::Tls(stream, socket) => socket.is_quiet() && has_nothing(stream),
            Self::Pingora(stream) => has_nothing(stream),
        }
    }

    /// Begins a call: see [`has_sent`](Self::has_sent).
    pub fn begin_call(&self) {
        if let Self::Tls(_, socket) = self {
            socket.begin_call();
        }
    }

    /// Whether a write of this call that failed may have sent some of its bytes.
    pub fn has_sent(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            // One write may become several TLS records.
            Self::Tls(_, socket) => socket.has_sent(),
            // Only requests can move to another connection, so a link to a client reports that
            // bytes were sent.
            Self::Client(_) | Self::Pingora(_) => true,
        }
    }

    /// Makes the later close of the connection a reset, so that the other side does not take an
    /// answer that breaks off for a whole one. TLS needs no reset, because its end shows whether
    /// the answer is whole.
    pub fn will_reset(&self) {
        if let Self::Client(socket) = self {
            // If the option cannot be set, the connection is closed without a reset.
            let _ = socket.set_zero_linger();
        }
    }
}

/// Whether a read would wait: the stream has neither bytes nor its end to read.
fn has_nothing(stream: &mut Stream) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending()
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) | Self::Client(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream, _) | Self::Pingora(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) | Self::Client(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream, _) | Self::Pingora(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) | Self::Client(socket) => {
                Pin::new(socket).poll_write_vectored(cx, bufs)
            }
            Self::Tls(stream, _) | Self::Pingora(stream) => {
                Pin::new(stream).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) | Self::Client(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream, _) | Self::Pingora(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) | Self::Client(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream, _) | Self::Pingora(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
