//! Many connections at once, with clients and upstreams that break off at any byte. Each client must get the answer
//! to its own request, and each body must follow the head that it was sent with.
//!
//! A test run takes [`BRIEF`]; a gateway that mixes up two calls in a thousand is caught in its first second. `make
//! crosstalk` runs for ten minutes (FAREBOX_CROSSTALK_MINUTES).

mod http1;
mod http2;
mod upstream;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;

use self::upstream::Upstream;
use crate::support::h2::{TLS, write_certificate};
use crate::support::message::{Head, content};
use crate::support::process::{Process, config_on_ports};
use crate::support::random::{Random, seed};
use crate::support::token;

/// How long a plain test run takes.
const BRIEF: Duration = Duration::from_secs(10);

/// Connections over HTTP/1 and over HTTP/2 at a time.
const HTTP_1: usize = 44;
const HTTP_2: usize = 20;

/// Free calls and paid ones take the same way but for the ledger.
const ROUTES: &str = r#"
[[routes]]
path = "/free/{*rest}"
upstream = "ai"
credits = 0

[[routes]]
path = "/paid/{*rest}"
upstream = "ai"
credits = 1
"#;

/// The values that all clients share.
struct Shared {
    plain: std::net::SocketAddr,
    tls: std::net::SocketAddr,
    certificate: CertificateDer<'static>,
    token: String,
    until: Instant,
    next: AtomicU64,
    /// Answers of the upstream that came whole.
    whole: AtomicUsize,
    /// Answers that came in part, or Farebox's own.
    others: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

impl Shared {
    /// A nonce that no other request has.
    fn nonce(&self) -> String {
        format!("n{:x}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn fault(&self, fault: String) {
        self.faults.lock().unwrap().push(fault);
    }

    /// Judges an answer to the request of `nonce`, whose body came as far as `body`.
    fn judge(&self, nonce: &str, head: &Head, body: &[u8], is_whole: bool) {
        let echo = head.all("x-echo");
        if echo.is_empty() {
            self.others.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if echo != [nonce] {
            self.fault(format!("{nonce} got the head of {echo:?}"));
        }
        if body != content(nonce, body.len()) {
            let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            self.fault(format!("{nonce} got another body: {start}"));
        }
        let length = head.one("x-length").and_then(|length| length.parse().ok());
        let is_cut = head.one("x-length").is_some() && length != Some(body.len());
        if is_whole && is_cut && head.all("x-may-be-cut").is_empty() {
            self.fault(format!("{nonce} got {} of {length:?} bytes as a whole", body.len()));
        }
        let count = if is_whole { &self.whole } else { &self.others };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn time() -> Duration {
    let minutes = std::env::var("FAREBOX_CROSSTALK_MINUTES").ok();
    minutes.map_or(BRIEF, |minutes| Duration::from_secs(60 * minutes.parse::<u64>().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_the_one_to_its_request() {
    let mut random = Random::of(seed());
    let upstream = Upstream::start(random.fork()).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut plain = Process::serve(folders[0].path(), &config_on_ports(upstream.address, ROUTES));
    let certificate = write_certificate(folders[1].path());
    let text = config_on_ports(upstream.address, ROUTES);
    let text = text.replacen("[server]\n", &format!("[server]\n{TLS}\n"), 1);
    let mut tls = Process::serve(folders[1].path(), &text);
    for process in [&plain, &tls] {
        process.grant("alice", 100_000_000, "wealth").await;
    }
    let shared = Arc::new(Shared {
        plain: plain.public,
        tls: tls.public,
        certificate,
        token: token("alice"),
        until: Instant::now() + time(),
        next: AtomicU64::new(1),
        whole: AtomicUsize::new(0),
        others: AtomicUsize::new(0),
        faults: Mutex::default(),
    });
    let mut clients = Vec::new();
    for _ in 0..HTTP_1 {
        clients.push(tokio::spawn(http1::client(shared.clone(), random.fork())));
    }
    for _ in 0..HTTP_2 {
        clients.push(tokio::spawn(http2::client(shared.clone(), random.fork())));
    }
    for client in clients {
        client.await.unwrap();
    }
    let mut faults = shared.faults.lock().unwrap().clone();
    faults.extend(upstream.faults());
    let (whole, others) =
        (shared.whole.load(Ordering::Relaxed), shared.others.load(Ordering::Relaxed));
    eprintln!("{whole} answers came whole, {others} in part or from Farebox itself");
    let told = &faults[..faults.len().min(10)];
    assert!(faults.is_empty(), "{} calls were mixed up: {told:#?}", faults.len());
    assert!(whole > 1000 && others > 0, "too few calls came through to say anything");
    for process in [&mut plain, &mut tls] {
        settled(process).await;
        process.assert_reconciled().await;
        assert!(process.terminate().success());
        process.wait_for_logs();
        for log in [process.stdout(), process.stderr()] {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

/// Waits until nothing is held.
async fn settled(process: &Process) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let account = process.account("alice").await;
        if account["held"] == 0 {
            return;
        }
        assert!(Instant::now() < limit, "still held: {account}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
