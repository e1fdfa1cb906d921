//! Sockets below TLS sessions, with an upstream that ends its connections in different ways.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Instant;

use pingora_core::connectors::ConnectorOptions;
use rustls::{ServerConnection, StreamOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::tls::Certificate;
use super::*;
use crate::proxy::link::Link;
use crate::proxy::transport::Transport;

#[path = "../../tests/support/tls.rs"]
mod tls;

type Served = StreamOwned<ServerConnection, std::net::TcpStream>;

const LIMIT: Duration = Duration::from_secs(10);

/// An upstream on a thread of its own. It accepts one TLS connection.
struct Upstream {
    address: SocketAddr,
    /// Tells the upstream to go on. If it waits a second time, the next message tells it to drop
    /// the connection.
    goes_on: mpsc::Sender<()>,
    said: mpsc::Receiver<()>,
}

impl Upstream {
    /// Starts an upstream that answers one byte with another. It then calls `then`, either at once
    /// or when it is told to go on.
    fn start(at_once: bool, then: fn(&mut Served)) -> Self {
        let config = Certificate::new().server;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (goes_on, told) = mpsc::channel();
        let (says, said) = mpsc::channel();
        std::thread::spawn(move || {
            let socket = listener.accept().unwrap().0;
            let session = ServerConnection::new(config).unwrap();
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
