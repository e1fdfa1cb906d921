//! A gateway with free routes, and an upstream that counts the whole requests that reach it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::support::h2::{TLS, write_certificate};
use crate::support::message::{Reader, Stop};
use crate::support::{TestGateway, config_with};
use rustls::pki_types::CertificateDer;

/// Free calls of every method.
const ROUTES: &str = "[[routes]]\npath = \"/free/{*rest}\"\nupstream = \"ai\"\ncredits = 0\n";

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The answer to `/free/…/two-lines`, which has two lines of `connection`. The second line says
/// that the connection is closed, and the upstream then closes it.
const TWO_LINES: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: x-hop\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

/// The requests that reached the upstream.
#[derive(Debug, Default)]
pub struct Seen {
    /// Method, target and body of each whole request.
    pub whole: Vec<(String, Vec<u8>)>,
    /// Requests that no gateway may send.
    pub faults: Vec<String>,
}

pub struct Server {
    pub gateway: TestGateway,
    pub certificate: CertificateDer<'static>,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub async fn start(tls: bool) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let noting = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(serve(stream, noting.clone()));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let certificate = write_certificate(folder.path());
        let server = if tls { TLS } else { "" };
        let text = config_with(address, server, "", ROUTES);
        let gateway = TestGateway::start_in(folder, &text).await;
        Self { gateway, certificate, seen }
    }

    /// The whole requests whose target has `mark` in it.
    pub fn whole(&self, mark: &str) -> Vec<(String, Vec<u8>)> {
        let seen = self.seen.lock().unwrap();
        seen.whole.iter().filter(|(line, _)| line.contains(mark)).cloned().collect()
    }

    /// Expects that the upstream was sent nothing that a gateway may not send.
    pub fn assert_sound(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.faults.is_empty(), "{:#?}", seen.faults);
        let smuggled = seen.whole.iter().find(|(line, _)| line.contains("smuggled"));
        assert_eq!(smuggled, None, "the body of a request was run as another one");
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    stream.set_nodelay(true).unwrap();
    let (from, mut to) = stream.into_split();
    let mut from = Reader::new(from, Duration::from_secs(60));
    loop {
        let head = match from.head().await {
            Ok(head) => head,
            Err(Stop::Malformed(why)) => return seen.lock().unwrap().faults.push(why),
            Err(_) => return,
        };
        let framing = match head.request().and_then(|_| head.request_framing()) {
            Ok(framing) => framing,
            Err(why) => return seen.lock().unwrap().faults.push(why),
        };
        let mut body = Vec::new();
        if from.body(framing, &mut body).await.is_err() {
            return;
        }
        let (method, target) = head.request().unwrap();
        seen.lock().unwrap().whole.push((format!("{method} {target}"), body));
        let (answer, is_head) =
            (if target.ends_with("/two-lines") { TWO_LINES } else { OK }, method == "HEAD");
        if target.ends_with("/broken") {
            return;
        }
        let answer = if is_head { &answer[..answer.len() - 2] } else { answer };
        if to.write_all(answer).await.is_err() || target.ends_with("/two-lines") {
            // Late enough for the gateway to have kept the connection, if it did.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return;
        }
    }
}
