//! Bodies pass as they come, and are never held as a whole.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::settlement::raw;
use crate::support::http::plain_client;
use crate::support::wire::{LIMIT, RawUpstream, Wire, post, request, status};
use crate::support::{config_text, eventually};

#[tokio::test]
async fn an_event_reaches_the_client_when_the_upstream_sent_it() {
    let (confirm, confirmed) = mpsc::channel::<()>(1);
    let confirmed = std::sync::Arc::new(tokio::sync::Mutex::new(confirmed));
    let upstream = RawUpstream::start(move |mut wire| {
        let confirmed = confirmed.clone();
        async move {
            wire.message().await;
            wire.send(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                 transfer-encoding: chunked\r\n\r\n",
            )
            .await;
            for n in 0..20 {
                let event = format!("data: {n:02}\n\n");
                wire.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
                // The next one is only sent once the client has this one.
                confirmed.lock().await.recv().await.unwrap();
            }
            wire.send("0\r\n\r\n").await;
            wire.rest().await;
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", "{}")).await;
    assert_eq!(status(&client.head().await.unwrap()), 200);
    for n in 0..20 {
        client.up_to(&format!("data: {n:02}\n\n")).await.unwrap();
        assert_eq!(gateway.balance("alice").await["held"], 5, "not settled before its end");
        confirm.send(()).await.unwrap();
    }
    client.up_to("0\r\n\r\n").await.unwrap();
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn a_part_of_a_body_reaches_the_upstream_when_the_client_sent_it() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.up_to("five!").await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    // A body of a small declared length is read first; this one says its length at its end.
    client.send(request("POST /x/y", "alice", "transfer-encoding: chunked\r\n", "")).await;
    for part in ["one..", "two..", "three", "four.", "five!"] {
        client.send(format!("5\r\n{part}\r\n")).await;
        assert!(eventually(async || upstream.seen().concat().contains(part)).await, "{part}");
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.message().await.unwrap().1, "ok");
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

/// The megabytes that go each way: 200, or as many as FAREBOX_TEST_MEGABYTES says.
fn megabytes() -> usize {
    std::env::var("FAREBOX_TEST_MEGABYTES").map_or(200, |text| text.parse().unwrap())
}

/// A gateway in a process of its own, whose memory can be measured.
struct Process {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
}

impl Process {
    async fn start(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (public, admin) = (free_port().await, free_port().await);
        let text = config_text(upstream, "")
            .replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{public}\""))
            .replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{admin}\""));
        let config = folder.path().join("gateway.toml");
        std::fs::write(&config, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_farebox"))
            .args(["serve", "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, public, admin, folder };
        let readyz = format!("http://{}/readyz", process.admin);
        let is_ready =
            async || reqwest::get(&readyz).await.is_ok_and(|ready| ready.status() == 200);
        assert!(eventually(is_ready).await);
        process
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// The most memory it ever had, in KiB.
    fn peak_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Reads a request's body to its end, and answers with one of the same length.
async fn mirror(mut stream: TcpStream, length: usize) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let mut left = length;
    while left > 0 {
        left -= stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    write(&mut stream, length).await
}

async fn write(stream: &mut TcpStream, length: usize) -> Option<()> {
    let chunk = vec![b'x'; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let part = left.min(chunk.len());
        stream.write_all(&chunk[..part]).await.ok()?;
        left -= part;
    }
    Some(())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_and_download_run_in_constant_memory() {
    let length = megabytes() << 20;
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(mirror(stream, length));
        }
    });
    let process = Process::start(upstream).await;
    let grant = format!("http://{}/admin/accounts/alice/grants", process.admin);
    let grant =
        plain_client().build().unwrap().post(grant).bearer_auth(crate::support::ADMIN_TOKEN);
    let grant = grant.body(r#"{"credits":100,"id":"g","reason":"test"}"#).send().await.unwrap();
    assert!(grant.status().is_success());

    let before = process.peak_kib();
    let mut client = TcpStream::connect(process.public).await.unwrap();
    let framing = format!("content-length: {length}\r\n");
    let head = request("POST /api/ai/generate", "alice", &framing, "");
    client.write_all(head.as_bytes()).await.unwrap();
    write(&mut client, length).await.expect("the whole upload");
    // A client that takes its time: what it does not read must not pile up.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    let mut buffer = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let read = tokio::time::timeout(LIMIT, client.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left -= read;
    }
    let grown = process.peak_kib() - before;
    assert!(grown < 16 * 1024, "grew by {grown} KiB for {length} bytes each way");
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_finishes_what_runs_and_exits_0_and_sighup_reloads_all_or_nothing() {
    let go = std::sync::Arc::new(tokio::sync::Notify::new());
    let signal = go.clone();
    let upstream = RawUpstream::start(move |mut wire| {
        let go = signal.clone();
        async move {
            wire.message().await;
            go.notified().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let mut process = Process::start(upstream.address).await;
    let client = plain_client().build().unwrap();
    let grant = format!("http://{}/admin/accounts/alice/grants", process.admin);
    let grant = client.post(grant).bearer_auth(crate::support::ADMIN_TOKEN);
    let grant = grant.body(r#"{"credits":100,"id":"g","reason":"test"}"#).send().await.unwrap();
    assert!(grant.status().is_success());
    let priced = async |path: &str| {
        let url = format!("http://{}/credits/check", process.public);
        let request = client.post(url).bearer_auth(crate::support::token("alice"));
        let answer = request.body(serde_json::json!({ "endpoint": path }).to_string());
        answer.send().await.unwrap().status() == 200
    };

    let config = process.folder.path().join("gateway.toml");
    let first = std::fs::read_to_string(&config).unwrap();
    let new = "[[routes]]\npath = \"/new\"\nupstream = \"ai\"\ncredits = 1\n";
    std::fs::write(&config, format!("{first}{new}bogus = 1\n")).unwrap();
    process.signal("-HUP");
    // A config with a mistake changes nothing. The new route is there once the mistake is corrected.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!priced("/new").await && priced("/api/ai/generate").await);
    std::fs::write(&config, format!("{first}{new}")).unwrap();
    process.signal("-HUP");
    assert!(eventually(async || priced("/new").await).await);

    let mut running = Wire::connect(process.public).await;
    running.send(post("/api/ai/generate", "alice", "{}")).await;
    assert!(eventually(async || upstream.seen().concat().ends_with("{}")).await);
    process.signal("-TERM");
    let refused = async || TcpStream::connect(process.public).await.is_err();
    assert!(eventually(refused).await);
    go.notify_one();
    assert_eq!(running.message().await.unwrap().1, "ok");
    let mut exit = None;
    let exited = eventually(async || {
        exit = process.child.try_wait().unwrap();
        exit.is_some()
    });
    assert!(exited.await);
    assert_eq!(exit.unwrap().code(), Some(0));
}
