//! Sockets towards upstreams. The kernel can be asked whether they are still open.
//!
//! Pingora's connector gives no access to the socket that it opens, nor to the socket below a TLS
//! session. So Farebox opens the sockets itself, and shares the one below TLS with Pingora.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::{L4Connect, TransportConnector};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Opens a plain socket.
///
/// # Errors
/// The address does not accept the connection in time.
pub(super) async fn open(address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let said = || format!("Fail to connect to {address}");
    let socket = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            let kind = match error.kind() {
                ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
                    ErrorType::ConnectNoRoute
                }
                _ => ErrorType::ConnectError,
            };
            return Err(Error::because(kind, said(), error));
        }
        Err(_) => return Err(Error::explain(ErrorType::ConnectTimedout, said())),
    };
    // Small requests should be sent without delay. If the option cannot be set, they are only
    // slower.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// Opens a socket and a TLS session over it, and keeps a handle on the socket.
///
/// # Errors
/// The same as those of [`open`], and a handshake that fails.
pub(super) async fn open_tls(
    connector: &TransportConnector,
    mut peer: HttpPeer,
    timeout: Duration,
) -> Result<(Stream, SharedSocket)> {
    let opener = Arc::new(Opener { timeout, opened: OnceLock::new() });
    peer.options.custom_l4 = Some(opener.clone());
    let stream = connector.new_stream(&peer).await?;
    match opener.opened.get() {
        Some(socket) => Ok((stream, socket.clone())),
        None => Error::e_explain(ErrorType::InternalError, "TLS runs over an unknown socket"),
    }
}

/// Whether a socket is open and has no bytes to be read. The kernel is asked, because tokio knows
/// only the events that it has polled for.
pub(super) fn is_quiet(socket: &TcpStream) -> bool {
    let peeked = recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_err_and(|error| error == rustix::io::Errno::AGAIN)
}

/// Opens the socket on which Pingora's connector begins its TLS session.
#[derive(Debug)]
struct Opener {
    timeout: Duration,
    opened: OnceLock<SharedSocket>,
}

#[async_trait]
impl L4Connect for Opener {
    async fn connect(&self, address: &PingoraAddress) -> Result<L4Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "upstreams are reached by TCP alone");
        };
        let socket = SharedSocket::new(open(*address, self.timeout).await?);
        let shared = self.opened.get_or_init(|| socket).clone();
        Ok(VirtualSocketStream::new(Box::new(shared)).into())
    }
}

/// The socket below a TLS session.
#[derive(Clone, Debug)]
pub(super) struct SharedSocket(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: TcpStream,
    /// Whether a byte was sent since [`SharedSocket::begin_call`].
    has_sent: bool,
}

impl SharedSocket {
    fn new(socket: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Inner { socket, has_sent: false })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the socket is open and has no bytes of TLS to be read.
    pub fn is_quiet(&self) -> bool {
        is_quiet(&self.inner().socket)
    }

    /// Begins a call: bytes of earlier calls and of the handshake no longer count.
    pub fn begin_call(&self) {
        self.inner().has_sent = false;
    }

    /// Whether the kernel has taken any byte of this call.
    pub fn has_sent(&self) -> bool {
        self.inner().has_sent
    }
}

impl AsyncRead for SharedSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let written = Pin::new(&mut inner.socket).poll_write(cx, buf);
        inner.has_sent |= matches!(written, Poll::Ready(Ok(1..)));
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for SharedSocket {
    /// Does nothing: [`open`] has already set the options that upstreams need.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
