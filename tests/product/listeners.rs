//! Listeners under hostile callers: half-open connections, guessed tokens, few files.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::http::Answer;
use crate::process::{Process, address_of, command, config_on_ports};
use crate::support::wire::{Wire, post, status};
use crate::support::{ADMIN_TOKEN, TestGateway, Upstream, config_with, eventually};

const PROBE: &str = "GET /healthz HTTP/1.1\r\nhost: probe\r\n\r\n";

/// A gateway with a health listener, and that listener's address.
async fn with_health(server: &str) -> (Upstream, TestGateway, SocketAddr) {
    let upstream = Upstream::canned().await;
    let server = format!("health = \"127.0.0.1:0\"\n{server}");
    let gateway = TestGateway::start(&config_with(upstream.address, &server, "", "")).await;
    let health = gateway.gateway.addresses().health.unwrap();
    (upstream, gateway, health)
}

async fn probe(address: SocketAddr) -> u16 {
    let mut wire = Wire::connect(address).await;
    wire.send(PROBE).await;
    status(&wire.message().await.expect("an answer").0)
}

/// The file descriptors of this process that are sockets.
fn sockets() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

#[tokio::test]
async fn half_open_connections_to_private_listeners_take_nothing_down() {
    let (_upstream, gateway, health) = with_health("").await;
    gateway.grant("alice", 100).await;
    for listener in [health, gateway.gateway.addresses().admin] {
        let before = sockets();
        let mut half_open = Vec::new();
        for sent in ["", "GET /healthz HT", PROBE].iter().cycle().take(600) {
            let mut wire = Wire::connect(listener).await;
            let _ = wire.try_send(sent).await;
            half_open.push(wire);
        }
        assert_eq!(probe(listener).await, 200, "a probe gets a place at once");
        // Both ends of a connection are sockets of this process.
        let few = eventually(async || sockets() - before < half_open.len() + 200);
        assert!(few.await, "the listener holds {} connections", sockets() - before - 600);
        assert_eq!(gateway.post("alice", "/api/ai/generate").await.status(), 200);
        drop(half_open);
    }
}

#[tokio::test]
async fn a_private_listener_gives_a_head_and_an_idle_connection_little_time() {
    let server = "header_timeout = \"300ms\"\nkeepalive_timeout = \"500ms\"";
    let (_upstream, gateway, health) = with_health(server).await;
    for listener in [health, gateway.gateway.addresses().admin] {
        for sent in ["", "GET /healthz HTTP/1.1\r\nhost:"] {
            let mut wire = Wire::connect(listener).await;
            let started = Instant::now();
            wire.send(sent).await;
            wire.rest().await;
            assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
            assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        }
        let mut wire = Wire::connect(listener).await;
        for _ in 0..2 {
            wire.send(PROBE).await;
            assert_eq!(status(&wire.message().await.unwrap().0), 200);
        }
        let started = Instant::now();
        wire.rest().await;
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_private_listener_takes_small_heads_of_http_1_alone() {
    let (_upstream, gateway, health) = with_health("").await;
    for listener in [health, gateway.gateway.addresses().admin] {
        let mut wire = Wire::connect(listener).await;
        let large =
            format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
        let _ = wire.try_send(&large).await;
        let answer = wire.rest().await;
        assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
        // HTTP/2 by prior knowledge: its preface is not understood.
        let mut wire = Wire::connect(listener).await;
        wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let answer = wire.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    }
}

/// The command, under a hard limit of open files.
fn limited(command: &Command, files: usize) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("ulimit -Sn {files}; ulimit -Hn {files}; exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    shell
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_few_files_caps_its_connections_and_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let few = limited(&command(folder.path(), &["serve"], &[]), 500);
    let (public, admin) = (address_of(&text, "listen"), address_of(&text, "admin"));
    let gateway = Process::start(few, public, admin);
    assert!(gateway.stderr().contains("fit into the limit of open files"), "{}", gateway.stderr());
    gateway.grant("alice", 100, "gift").await;

    let mut caller = Wire::connect(gateway.public).await;
    caller.send(post("/api/ai/generate", "alice", "{}")).await;
    assert_eq!(status(&caller.message().await.unwrap().0), 200);
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(tokio::net::TcpStream::connect(gateway.public).await.unwrap());
    }
    // All files that clients may have are taken by now.
    caller.send(post("/api/ai/generate", "alice", "{}")).await;
    assert_eq!(status(&caller.message().await.unwrap().0), 200);
    assert_eq!(probe(gateway.admin).await, 200);
    assert_eq!(gateway.grant("bob", 1, "gift-2").await["balance_after"], 1);
    gateway.assert_reconciled().await;
    assert!(!gateway.stderr().contains("Too many open files"), "{}", gateway.stderr());
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_check_says_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let check = command(folder.path(), &["check"], &[]);
    let said = limited(&check, 500).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("not the 20000 of max_connections"), "{said}");
    assert!(said.contains("open 500 files"), "{said}");
    let said = limited(&check, 64).output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("may open 64 files"), "{said}");

    // A soft limit below the hard one does not count, because the gateway raises it.
    let mut soft = Command::new("bash");
    soft.args(["-c", "ulimit -Sn 500; exec \"$0\" \"$@\""]);
    soft.arg(check.get_program()).args(check.get_args()).current_dir(folder.path());
    let said = String::from_utf8(soft.output().unwrap().stdout).unwrap();
    assert!(!said.contains("open 500 files"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_by_the_admin_listener_leaves_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let mut gateway = Process::serve(folder.path(), &config_on_ports(upstream.address, ""));
    gateway.grant("alice", 100, "gift-7").await;
    gateway.post("alice", "/api/ai/generate").await.expect(200);
    let line = "admin request";
    gateway.wait_until(|gateway| gateway.stderr().contains(line));
    let log = gateway.stderr();
    let line = log.lines().find(|logged| logged.contains(line)).unwrap();
    for part in ["POST /admin/accounts/{account}/grants", "alice", "gift-7", "200", "127.0.0.1"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let before = log.matches("admin request").count();
    gateway.account("alice").await;
    assert_eq!(
        gateway.stderr().matches("admin request").count(),
        before,
        "reading changes nothing"
    );
    assert!(!gateway.stderr().contains(ADMIN_TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_admin_tokens_are_counted_logged_and_slowed_down() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let mut gateway = Process::serve(folder.path(), &config_on_ports(upstream.address, ""));
    let ask = async |token: &str| {
        let url = format!("http://{}/admin/accounts", gateway.admin);
        let started = Instant::now();
        let status = Answer::of(gateway.client.get(url).bearer_auth(token)).await.status;
        (status, started.elapsed())
    };
    let mut slowest = Duration::ZERO;
    for guess in 0..5 {
        let (status, took) = ask(&format!("a-guessed-token-{guess}")).await;
        assert_eq!(status, 401);
        slowest = took;
    }
    assert!(slowest >= Duration::from_millis(700), "{slowest:?}");
    // Many guesses at once do not keep the operator waiting.
    let guesses =
        (0..20).map(|guess| ask(if guess == 19 { ADMIN_TOKEN } else { "guess-guess-guess" }));
    let answers = futures_util::future::join_all(guesses).await;
    assert_eq!(answers[19].0, 200);
    assert!(answers[19].1 < Duration::from_millis(500), "{:?}", answers[19].1);
    let refused = |wanted: u16| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert_eq!((refused(401), refused(429)), (8, 11));
    let url = format!("http://{}/metrics", gateway.admin);
    let metrics = gateway.client.get(url).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("farebox_admin_wrong_tokens_total 24"), "{metrics}");
    gateway.wait_until(|gateway| gateway.stderr().contains("with a wrong token"));
    assert!(!gateway.stderr().contains("guess-guess-guess"), "{}", gateway.stderr());
}
