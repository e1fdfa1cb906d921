//! TLS towards upstreams. Farebox trusts the system's certificate authorities only, so these tests
//! run the real binary with a list of its own, as `SSL_CERT_FILE` names it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::settlement::route;
use crate::support::eventually;
use crate::support::http::Answer;
use crate::support::process::{Process, config_on_ports};
use crate::support::tls::Certificate;
use crate::support::token;

/// The end of a connection on which an upstream has answered.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The connection stays.
    Stays,
    /// TLS and TCP are closed, as they should be.
    Closes,
    /// TCP alone is closed.
    Fin,
    /// TLS alone is closed.
    CloseNotify,
    /// An answer that nobody asked for.
    Unasked,
    /// TCP is reset.
    Reset,
}

/// A TLS upstream that answers each request with its path.
struct Upstream {
    address: SocketAddr,
    folder: TempDir,
    connections: Arc<AtomicUsize>,
    /// The rounds of calls whose connections may end.
    over: watch::Sender<usize>,
    /// How many connections have ended as their last request asks for.
    ended: Arc<AtomicUsize>,
}

impl Upstream {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::new();
        std::fs::write(folder.path().join("ca.pem"), &certificate.pem).unwrap();
        let acceptor = TlsAcceptor::from(certificate.server);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (connections, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (over, is_over) = watch::channel(0);
        let counts = (connections.clone(), ended.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, ended) = (acceptor.clone(), counts.1.clone());
                let is_over = is_over.clone();
                counts.0.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, is_over, &ended).await;
                    }
                });
            }
        });
        Self { address, folder, connections, over, ended }
    }

    /// Starts the real binary in front of this upstream. It trusts `authorities`.
    async fn gateway(&self, authorities: &Path) -> Process {
        let port = self.address.port();
        let text = config_on_ports(self.address, &route("")).replacen(
            &format!("http://127.0.0.1:{port}"),
            &format!("https://localhost:{port}"),
            1,
        );
        let variable = ("SSL_CERT_FILE", authorities.to_str().unwrap());
        let gateway = Process::serve_in(self.folder.path(), &text, &[variable]);
        gateway.grant("alice", 10_000, "first").await;
        gateway
    }
}

/// Answers requests without a body. Ends the connection as the last one asks for, once its round is
/// over: the connection is idle by then.
async fn serve(
    mut stream: TlsStream<TcpStream>,
    mut is_over: watch::Receiver<usize>,
    ended: &AtomicUsize,
) {
    let mut round = usize::MAX;
    let mut end = String::new();
    loop {
        let mut head = [0; 4096];
        let read = tokio::select! {
            read = stream.read(&mut head) => read.unwrap_or(0),
            over = is_over.wait_for(|over| *over > round) => {
                over.unwrap();
                break;
            }
        };
        // A head of the gateway's comes in one record.
        let head = str::from_utf8(&head[..read]).unwrap();
        if !head.ends_with("\r\n\r\n") {
            return;
        }
        let path = head.split(' ').nth(1).unwrap();
        let length = path.len();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut parts = path.rsplit('/');
        end = parts.next().unwrap().to_owned();
        round = parts.next().unwrap().parse().unwrap();
    }
    match &*end {
        "Stays" => {}
        "Closes" => stream.shutdown().await.unwrap(),
        "Fin" => stream.get_mut().0.shutdown().await.unwrap(),
        "CloseNotify" => {
            let (socket, session) = stream.get_mut();
            session.send_close_notify();
            let mut alert = Vec::new();
            session.write_tls(&mut alert).unwrap();
            socket.write_all(&alert).await.unwrap();
        }
        "Unasked" => {
            let more = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
            stream.write_all(more).await.unwrap();
            stream.flush().await.unwrap();
        }
        "Reset" => {
            stream.get_ref().0.set_zero_linger().unwrap();
            drop(stream);
            ended.fetch_add(1, Ordering::Release);
            return;
        }
        other => panic!("{other}"),
    }
    ended.fetch_add(1, Ordering::Release);
    // Until Farebox closes its end.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn call(gateway: &Process, path: &str) -> Answer {
    Answer::of(gateway.client.get(gateway.url(path)).bearer_auth(token("alice"))).await
}

/// A call does not use a connection that its upstream closed before the call began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_because_its_tls_upstream_closes_idle_connections() {
    const AT_ONCE: usize = 16;
    let upstream = Upstream::start().await;
    let gateway = upstream.gateway(&upstream.folder.path().join("ca.pem")).await;
    let ends = [End::Closes, End::Fin, End::CloseNotify, End::Unasked, End::Reset];
    for round in 0..20 {
        let path = format!("/x/{round}/{:?}", ends[round % ends.len()]);
        let answers = (0..AT_ONCE).map(|_| call(&gateway, &path));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status, 200, "{path}: {}", gateway.stderr());
            assert_eq!(answer.text, path);
        }
        upstream.over.send_replace(round + 1);
        let opened = || upstream.connections.load(Ordering::Acquire);
        assert!(eventually(async || upstream.ended.load(Ordering::Acquire) == opened()).await);
    }
    assert!(!gateway.stderr().contains("a call failed"), "{}", gateway.stderr());
}

#[tokio::test]
async fn an_idle_tls_connection_is_used_again() {
    let upstream = Upstream::start().await;
    let gateway = upstream.gateway(&upstream.folder.path().join("ca.pem")).await;
    let path = format!("/x/0/{:?}", End::Stays);
    for _ in 0..20 {
        assert_eq!(call(&gateway, &path).await.status, 200);
    }
    assert_eq!(upstream.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_not_trusted_is_sent_nothing() {
    let upstream = Upstream::start().await;
    let others = upstream.folder.path().join("others.pem");
    std::fs::write(&others, Certificate::new().pem).unwrap();
    let mut gateway = upstream.gateway(&others).await;
    let answer = call(&gateway, "/x/y").await;
    assert_eq!(answer.status, 502, "{}", answer.text);
    gateway.wait_until(|gateway| gateway.stderr().contains("a call failed"));
    assert_eq!(gateway.account("alice").await["balance"], 10_000);
}
