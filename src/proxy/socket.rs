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
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;
    use std::sync::mpsc;
    use std::time::Instant;

    use pingora_core::connectors::ConnectorOptions;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::proxy::link::Link;
    use crate::proxy::transport::Transport;

    type Served = StreamOwned<ServerConnection, std::net::TcpStream>;

    const LIMIT: Duration = Duration::from_secs(10);

    /// An upstream on a thread of its own. It accepts one TLS connection.
    struct Upstream {
        address: SocketAddr,
        /// Tells the upstream to go on; where it waits a second time, to drop the connection.
        goes_on: mpsc::Sender<()>,
        said: mpsc::Receiver<()>,
    }

    impl Upstream {
        /// The upstream answers one byte with another, and then calls `then`: at once, or when it
        /// is told to go on.
        fn start(at_once: bool, then: fn(&mut Served)) -> Self {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (goes_on, told) = mpsc::channel();
            let (says, said) = mpsc::channel();
            std::thread::spawn(move || {
                let socket = listener.accept().unwrap().0;
                let session = ServerConnection::new(Arc::new(config)).unwrap();
                let mut stream = StreamOwned::new(session, socket);
                stream.read_exact(&mut [0]).unwrap();
                stream.write_all(b"x").unwrap();
                if !at_once {
                    told.recv().unwrap();
                }
                then(&mut stream);
                says.send(()).unwrap();
                let _ = told.recv();
            });
            Self { address, goes_on, said }
        }

        /// A link to the upstream, on which one call has ended.
        async fn link(&self) -> (Arc<Link>, SharedSocket) {
            let connector = TransportConnector::new(Some(ConnectorOptions::new(1)));
            let mut peer = HttpPeer::new(self.address, true, "localhost".to_owned());
            peer.options.verify_cert = false;
            let (stream, socket) = open_tls(&connector, peer, LIMIT).await.unwrap();
            let link = Link::over(Transport::Tls(stream, socket.clone()));
            let mut end = link.end();
            end.write_all(b"x").await.unwrap();
            end.read_exact(&mut [0]).await.unwrap();
            (link, socket)
        }
    }

    /// Waits until a probe finds that the link is no longer quiet. Tokio sees no event during this
    /// time.
    fn becomes_loud(link: &Link) -> bool {
        let limit = Instant::now() + LIMIT;
        while link.is_quiet() {
            if Instant::now() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn close_notify(stream: &mut Served) {
        stream.conn.send_close_notify();
        stream.conn.write_tls(&mut stream.sock).unwrap();
    }

    /// An action of the upstream.
    type Act = fn(&mut Served);

    #[tokio::test]
    async fn tls_is_quiet_until_its_upstream_closes_it_or_sends_something() {
        let cases: [(&str, Act); 5] = [
            ("close_notify and FIN", |stream| {
                close_notify(stream);
                stream.sock.shutdown(Shutdown::Write).unwrap();
            }),
            ("close_notify alone", close_notify),
            ("FIN alone", |stream| stream.sock.shutdown(Shutdown::Write).unwrap()),
            ("bytes", |stream| stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap()),
            ("half a record", |stream| stream.sock.write_all(&[23, 3, 3]).unwrap()),
        ];
        for (what, then) in cases {
            let upstream = Upstream::start(false, then);
            let (link, _) = upstream.link().await;
            assert!(link.is_quiet());
            upstream.goes_on.send(()).unwrap();
            upstream.said.recv_timeout(LIMIT).unwrap();
            assert!(becomes_loud(&link), "{what}");
        }
        // TLS may have read these bytes together with the answer. The kernel then knows nothing of
        // them.
        for (what, then) in &cases[..4] {
            let upstream = Upstream::start(true, *then);
            upstream.goes_on.send(()).unwrap();
            let (link, _) = upstream.link().await;
            upstream.said.recv_timeout(LIMIT).unwrap();
            assert!(becomes_loud(&link), "{what}, right behind the answer");
        }
    }

    #[tokio::test]
    async fn a_request_over_tls_is_lost_only_while_the_kernel_has_taken_nothing_of_it() {
        for (before, has_lost) in [("", true), ("half of ", false)] {
            let upstream = Upstream::start(false, |stream| {
                // A socket that is closed while it has unread bytes resets its connection.
                while stream.sock.peek(&mut [0; 64]).unwrap() < 10 {}
            });
            let (link, socket) = upstream.link().await;
            link.begin_call();
            let mut end = link.end();
            end.write_all(before.as_bytes()).await.unwrap();
            assert!(matches!(link.flush_now(), Poll::Ready(Ok(()))));
            socket.inner().socket.try_write(b"no record of TLS").unwrap();
            upstream.goes_on.send(()).unwrap();
            upstream.said.recv_timeout(LIMIT).unwrap();
            upstream.goes_on.send(()).unwrap();
            assert!(becomes_loud(&link));
            end.write_all(b"the request").await.unwrap();
            assert!(matches!(link.flush_now(), Poll::Ready(Err(_))));
            assert_eq!(link.has_lost(), has_lost, "{before:?}");
        }
    }
}
