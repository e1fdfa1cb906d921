//! Memory over many requests.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::process::{Process, config_on_ports};
use crate::support::token;

const CLIENTS: usize = 16;

/// An upstream that answers everything with the same bytes, so that nearly all of the CPU time is
/// the gateway's.
async fn canned() -> std::net::SocketAddr {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 8192];
                // Heads here are one segment, and no request has a body.
                while let Ok(1..) = socket.read(&mut buffer).await {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if socket.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Makes `calls` calls over [`CLIENTS`] connections, each with another token in turn. Returns how
/// many were answered with 200.
async fn load(gateway: &Process, calls: usize) -> usize {
    let client = async |number: usize| {
        let mut socket = tokio::net::TcpStream::connect(gateway.public).await.unwrap();
        let mut buffer = vec![0; 8192];
        let account = format!("account-{number}");
        let bearer = token(&account);
        let request = format!(
            "POST /api/ai/generate HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {bearer}\r\n\
             content-length: 0\r\n\r\n"
        );
        let mut good = 0;
        for _ in 0..calls / CLIENTS {
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut length = 0;
            // Every answer ends with the two bytes of its body, or is a problem in JSON.
            while !buffer[..length].ends_with(b"\r\n\r\nok") && !buffer[..length].ends_with(b"}}") {
                let read = socket.read(&mut buffer[length..]).await.unwrap();
                assert!(read > 0, "closed");
                length += read;
            }
            good += usize::from(buffer.starts_with(b"HTTP/1.1 200"));
        }
        good
    };
    futures_util::future::join_all((0..CLIENTS).map(client)).await.into_iter().sum()
}

/// How much the ledger's files have grown; SQLite caches pages of them.
fn ledger_kib(folder: &std::path::Path) -> u64 {
    let size = |name: &str| std::fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    (size("ledger.db") + size("ledger.db-wal")) / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_flat_over_many_requests() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = canned().await;
    let mut gateway = Process::serve(folder.path(), &config_on_ports(upstream, ""));
    for number in 0..CLIENTS {
        gateway.grant(&format!("account-{number}"), 5_000, &format!("gift-{number}")).await;
    }
    // Warm-up: pools, allocator, caches.
    assert_eq!(load(&gateway, 4_000).await, 4_000);
    let (warm, small) = (gateway.resident_kib(), ledger_kib(folder.path()));
    // Paid calls make the ledger grow, and with it the part of it that SQLite keeps in memory.
    assert_eq!(load(&gateway, 12_000).await, 12_000);
    let (paid, grown) = (gateway.resident_kib(), ledger_kib(folder.path()) - small);
    // All is spent: refused calls write nothing, so nothing may grow.
    assert_eq!(load(&gateway, 12_000).await, 0);
    let refused = gateway.resident_kib();
    eprintln!("resident: {warm} KiB, paid {paid} KiB, refused {refused} KiB; ledger +{grown} KiB");
    assert!(paid < warm + grown + 2048, "{warm} KiB → {paid} KiB, the ledger grew {grown} KiB");
    assert!(refused < paid + 1024, "{paid} KiB → {refused} KiB");
    tokio::time::timeout(Duration::from_secs(10), gateway.assert_reconciled()).await.unwrap();
    assert!(gateway.terminate().success());
}

/// Twice the memory that a connection may take besides its head. tests/deploy/test_deploy.py counts with this number.
const CONNECTION_BYTES: usize = 32 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_sends_an_endless_head_takes_little_more_than_the_largest_head() {
    const CONNECTIONS: usize = 800;
    const MOST_HEAD: usize = 16 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let upstream = canned().await;
    let text = config_on_ports(upstream, "");
    let text = text.replacen("[ledger]", &format!("max_header_bytes = {MOST_HEAD}\n[ledger]"), 1);
    let gateway = Process::serve(folder.path(), &text);
    // Warm-up.
    assert_eq!(load(&gateway, CLIENTS).await, 0, "nobody has credits");
    let before = gateway.resident_kib();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut socket = tokio::net::TcpStream::connect(gateway.public).await.unwrap();
        let head = "GET /api/ai/generate HTTP/1.1\r\nhost: g\r\nx: ".to_owned();
        let rest = "y".repeat(MOST_HEAD - 1 - head.len());
        socket.write_all((head + &rest).as_bytes()).await.unwrap();
        open.push(socket);
    }
    // The last one has been read once it is answered.
    let mut last = open.pop().unwrap();
    last.write_all(b"yy").await.unwrap();
    let mut answer = [0; 64];
    let read = last.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
    let grown = (gateway.resident_kib() - before) as usize * 1024;
    let each = grown / CONNECTIONS;
    println!("{each} bytes for each connection");
    assert!(each <= 2 * MOST_HEAD + CONNECTION_BYTES, "{each} bytes for each connection");
}
