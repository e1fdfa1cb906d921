//! Upstreams behind TLS: their name is asked for, and their certificate is checked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::process::{Process, address_of, command, config_on_ports};
use crate::support::eventually;
use crate::support::tls::Certificate;

/// The names that clients asked for, and the `host` headers they sent.
type Log = Arc<Mutex<Vec<(Option<String>, String)>>>;

/// An upstream with a certificate for `localhost`.
struct TlsUpstream {
    address: SocketAddr,
    certificate: String,
    seen: Log,
}

impl TlsUpstream {
    async fn start() -> Self {
        let Certificate { server, pem } = Certificate::new();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(socket, TlsAcceptor::from(server), seen.clone()));
        Self { address, certificate: pem, seen }
    }
}

/// Answers each request's head with 200, and reads nothing of the head but its host.
async fn serve(socket: TcpListener, acceptor: TlsAcceptor, seen: Log) {
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        tokio::spawn(async move {
            // A client that does not trust the certificate leaves here.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut part = [0; 1024];
                let read = stream.read(&mut part).await.unwrap();
                assert!(read > 0, "the request ends with its JSON");
                request.extend_from_slice(&part[..read]);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            seen.lock().unwrap().push((name, host.to_owned()));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_asked_by_its_name_and_trusted_by_its_certificate_alone() {
    let upstream = TlsUpstream::start().await;
    let folder = tempfile::tempdir().unwrap();
    let port = upstream.address.port();
    let text = config_on_ports(upstream.address, "");
    let text =
        text.replace(&format!("http://{}", upstream.address), &format!("https://localhost:{port}"));
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    std::fs::write(folder.path().join("ca.pem"), &upstream.certificate).unwrap();
    let start = |env: &[(&str, &str)]| {
        let serve = command(folder.path(), &["serve"], env);
        Process::start(serve, address_of(&text, "listen"), address_of(&text, "admin"))
    };

    // The system's own authorities have never heard of it.
    let mut stranger = start(&[]);
    stranger.grant("alice", 10, "gift").await;
    stranger.post("alice", "/api/ai/generate").await.expect(502);
    assert!(upstream.seen.lock().unwrap().is_empty(), "no request reaches whoever it is");
    assert_eq!(stranger.account("alice").await["balance"], 10);
    assert!(stranger.terminate().success());

    let ca = folder.path().join("ca.pem");
    let mut friend = start(&[("SSL_CERT_FILE", ca.to_str().unwrap())]);
    friend.post("alice", "/api/ai/generate").await.expect(200);
    let seen = upstream.seen.lock().unwrap().clone();
    assert_eq!(seen, [(Some("localhost".to_owned()), format!("localhost:{port}"))]);
    assert!(eventually(async || friend.account("alice").await["balance"] == 5).await);
    assert!(friend.terminate().success());
}
