//! kill -9 under load; then the upstream's own log is joined with the ledger, line by line.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::process::{Process, command, config_on_ports, ok};
use crate::support::http::plain_client;
use crate::support::random::Random;
use crate::support::wire::{RawUpstream, Wire, request, status};
use crate::support::{ADMIN_TOKEN, Upstream, eventually, token};

pub const ACCOUNTS: [&str; 4] = ["alice", "bob", "carol", "dave"];
pub const CLIENTS: usize = 16;
pub const GRANT: u64 = 1_000_000;

/// A call that the upstream answered with 200.
#[derive(Clone, Debug)]
pub struct Served {
    pub request_id: String,
    account: String,
    client: usize,
    at: Instant,
}

pub type Log = Arc<Mutex<Vec<Served>>>;

async fn serve(State(log): State<Log>, request: Request) -> &'static str {
    let (head, body) = request.into_parts();
    // Hyper closes a connection whose request it answered before the body had arrived.
    let _ = axum::body::to_bytes(body, 1024).await;
    let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
    log.lock().unwrap().push(Served {
        request_id: header("x-request-id"),
        account: header("x-farebox-account"),
        client: header("x-client").parse().unwrap(),
        at: Instant::now(),
    });
    "fine"
}

pub async fn upstream() -> (SocketAddr, Log) {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let log = Log::default();
    let router = Router::new().fallback(serve).with_state(log.clone());
    tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
    (address, log)
}

/// Makes calls until the gateway is gone, or until an answer is not 200, whose first line is then returned. The calls
/// follow one another on one connection, so the gateway queues a call's capture before the next call's hold.
pub async fn client(number: usize, gateway: SocketAddr) -> std::io::Result<Option<String>> {
    let bearer = token(ACCOUNTS[number % ACCOUNTS.len()]);
    let request = format!(
        "POST /api/ai/generate HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {bearer}\r\n\
         x-client: {number}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let mut socket = BufReader::new(TcpStream::connect(gateway).await?);
    loop {
        socket.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        socket.read_line(&mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        if !line.starts_with("HTTP/1.1 200") {
            return Ok(Some(line));
        }
        let mut length = 0;
        while !line.trim().is_empty() {
            line.clear();
            socket.read_line(&mut line).await?;
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        socket.read_exact(&mut vec![0; length]).await?;
    }
}

/// Grants one credit after the other to `erin` until the gateway is gone. Returns the ids of the
/// acknowledged grants.
async fn granter(gateway: SocketAddr, round: usize) -> Vec<String> {
    let client = plain_client().build().unwrap();
    let url = format!("http://{gateway}/admin/accounts/erin/grants");
    let mut granted = Vec::new();
    loop {
        let id = format!("gift-{round}-{}", granted.len());
        let request = client.post(&url).bearer_auth(ADMIN_TOKEN);
        let request = request.body(format!(r#"{{"credits":1,"id":"{id}"}}"#));
        match request.send().await {
            Ok(answer) if answer.status() == 200 => granted.push(id),
            Ok(answer) => panic!("{}", answer.status()),
            Err(_) => return granted,
        }
    }
}

/// Every account's captures, by request id.
async fn captures(gateway: &Process) -> HashMap<String, (String, Value)> {
    let mut all = HashMap::new();
    for account in ACCOUNTS {
        for line in gateway.transactions(account).await {
            if line["kind"] == "capture" {
                let id = line["request_id"].as_str().unwrap().to_owned();
                let before = all.insert(id, (account.to_owned(), line));
                assert!(before.is_none(), "captured twice: {before:?}");
            }
        }
    }
    all
}

async fn killed_under_load(durability: &str, rounds: usize) {
    let mut random = Random::seeded();
    let folder = tempfile::tempdir().unwrap();
    let (address, log) = upstream().await;
    let text = config_on_ports(address, "");
    let text = text.replace("[ledger]", &format!("[ledger]\ndurability = \"{durability}\""));
    let mut gateway = Process::serve(folder.path(), &text);
    for account in ACCOUNTS {
        gateway.grant(account, GRANT, &format!("gift-{account}")).await;
    }
    // A job's hold is its service's to end: it outlives the gateway.
    let key = gateway.admin(Method::POST, "/admin/accounts/dave/keys", r#"{"service":true}"#);
    let key = key.await.json()["key"].as_str().unwrap().to_owned();
    let hold = gateway.client.post(gateway.url("/credits/holds")).bearer_auth(&key);
    let hold = hold.body(r#"{"credits":7,"id":"job-1","ttl_seconds":3600}"#).send().await.unwrap();
    assert_eq!(hold.status(), 201);
    // In `relaxed` a hold may be lost that is younger than 50 ms; this one is on disk.
    gateway.grant("dave", 1, "flush").await;

    let mut lost = 0;
    let mut granted = Vec::new();
    for round in 0..rounds {
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| tokio::spawn(client(number, gateway.public))).collect();
        let granter = tokio::spawn(granter(gateway.admin, round));
        let calls = 100 + random.below(400);
        let before = log.lock().unwrap().len();
        let started = Instant::now();
        while log.lock().unwrap().len() < before + calls {
            assert!(started.elapsed() < Duration::from_secs(20), "{}", gateway.stderr());
            tokio::time::sleep(Duration::from_micros(100 + random.below(900) as u64)).await;
        }
        let copy = format!("copy-{round}.db");
        ok(folder.path(), &["backup", &copy]);
        gateway.kill();
        granted.extend(granter.await.unwrap());
        for client in clients {
            if let Ok(Some(refused)) = client.await.unwrap() {
                panic!("{refused}{}", gateway.stderr());
            }
        }
        let killed = Instant::now();

        gateway = Process::serve(folder.path(), &text);
        gateway.assert_reconciled().await;
        // In both modes an acknowledged grant is there. A grant that was on its way may be there or
        // not.
        let gifts = gateway.transactions("erin").await;
        let there: HashSet<_> = gifts.iter().map(|line| line["id"].as_str().unwrap()).collect();
        for id in &granted {
            assert!(there.iter().any(|there| there.ends_with(id)), "{id} was acknowledged");
        }
        assert!(gifts.len() <= granted.len() + round + 1, "{} {}", gifts.len(), granted.len());
        // The copy that was made under load is a whole ledger.
        let config = format!("[ledger]\npath = \"{copy}\"\ndurability = \"{durability}\"\n");
        std::fs::write(folder.path().join("copy.toml"), config).unwrap();
        assert!(ok(folder.path(), &["reconcile", "-c", "copy.toml"]).contains("clean"));
        let report = gateway.admin(Method::GET, "/admin/reconcile", "").await.json();
        assert_eq!(report["live_holds"], 1, "the calls' holds are gone: {report}");
        let log = log.lock().unwrap().clone();
        let captured = join(&gateway, &log).await;
        // Entries that an earlier kill lost stay lost, and those that it left stay there.
        assert_eq!(
            log[..before].iter().filter(|c| !captured.contains(&c.request_id)).count(),
            lost
        );
        lost += lost_in_this_round(&log[before..], &captured, durability, killed);
        eprintln!("{durability}, round {round}: {} calls, {lost} lost so far", log.len());
    }
    let end = gateway.client.post(gateway.url("/credits/holds/job-1/capture")).bearer_auth(&key);
    assert_eq!(end.body(r#"{"credits":7}"#).send().await.unwrap().status(), 200);
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());
}

/// The calls of this round that have no capture. A client's next call is held after its previous
/// call was captured, in one queue. So a kill loses only the last calls of a client: in `strict`
/// the one call in flight, in `relaxed` those of the last moments.
fn lost_in_this_round(
    log: &[Served],
    captured: &HashSet<String>,
    durability: &str,
    killed: Instant,
) -> usize {
    let mut lost = 0;
    for number in 0..CLIENTS {
        let calls: Vec<&Served> = log.iter().filter(|call| call.client == number).collect();
        let kept = calls.iter().take_while(|call| captured.contains(&call.request_id)).count();
        let end = &calls[kept..];
        for call in end {
            assert!(!captured.contains(&call.request_id), "a gap before {call:?}: {calls:?}");
            // 50 ms are promised, but on two busy cores any task may have to wait.
            let age = killed.saturating_duration_since(call.at);
            assert!(age < Duration::from_millis(50 + 1000), "{age:?}: {call:?}");
        }
        assert!(durability == "relaxed" || end.len() <= 1, "{end:?}");
        lost += end.len();
    }
    lost
}

/// Compares the upstream's log with the ledger. Returns the calls that were captured.
pub async fn join(gateway: &Process, log: &[Served]) -> HashSet<String> {
    let captures = captures(gateway).await;
    let mut served: HashMap<&str, &Served> = HashMap::new();
    for call in log {
        let before = served.insert(&call.request_id, call);
        assert!(before.is_none(), "{call:?} was sent twice");
    }
    for (id, (account, line)) in &captures {
        let call = served.get(id.as_str()).unwrap_or_else(|| panic!("nobody served {line}"));
        assert_eq!(&call.account, account);
        assert_eq!(line["amount"], -5);
    }
    for account in ACCOUNTS {
        let shown = gateway.account(account).await;
        let calls = captures.values().filter(|(owner, _)| owner == account).count() as i64;
        let granted = GRANT as i64 + i64::from(account == "dave");
        assert_eq!(shown["balance"], granted - 5 * calls, "{shown}");
        assert_eq!(shown["held"], if account == "dave" { 7 } else { 0 }, "{shown}");
    }
    captures.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_answered_and_the_ledger_agree_after_kill_9() {
    killed_under_load("strict", 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_loses_the_last_moments_and_nothing_else() {
    killed_under_load("relaxed", 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holds_of_a_crash_are_given_back() {
    for durability in ["strict", "relaxed"] {
        let folder = tempfile::tempdir().unwrap();
        let silent = Router::new().fallback(std::future::pending::<&'static str>);
        let upstream = Upstream::start(silent).await;
        let text = config_on_ports(upstream.address, "");
        let text = text.replace("[ledger]", &format!("[ledger]\ndurability = \"{durability}\""));
        let mut gateway = Process::serve(folder.path(), &text);
        gateway.grant("alice", 42, "gift").await;
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let request = gateway.client.post(gateway.url("/api/ai/generate"));
                tokio::spawn(request.bearer_auth(token("alice")).send())
            })
            .collect();
        assert!(eventually(async || upstream.seen().len() == 8).await);
        assert_eq!(gateway.account("alice").await["held"], 40);
        assert_eq!(gateway.post("alice", "/api/ai/generate").await.status, 402);
        gateway.kill();
        for call in calls {
            assert!(call.await.unwrap().is_err());
        }
        let gateway = Process::serve(folder.path(), &text);
        let shown = gateway.account("alice").await;
        assert_eq!((shown["held"].as_u64(), shown["available"].as_u64()), (Some(0), Some(42)));
        gateway.assert_reconciled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_a_crash_cuts_stays_paid_for() {
    for durability in ["strict", "relaxed"] {
        let folder = tempfile::tempdir().unwrap();
        let upstream = RawUpstream::start(|mut wire| async move {
            wire.head().await;
            wire.send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                 upgrade: websocket\r\n\r\nhello",
            )
            .await;
            // The connection stays open: only the gateway's end ends it.
            std::future::pending::<()>().await;
        })
        .await;
        let route = "[[routes]]\npath = \"/ws\"\nupstream = \"ai\"\ncredits = 7\nwebsocket = true";
        let text = config_on_ports(upstream.address, route);
        let text = text.replace("[ledger]", &format!("[ledger]\ndurability = \"{durability}\""));
        let mut gateway = Process::serve(folder.path(), &text);
        gateway.grant("alice", 42, "gift").await;
        let mut client = Wire::connect(gateway.public).await;
        let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\n";
        client.send(request("GET /ws", "alice", upgrade, "")).await;
        assert_eq!(status(&client.head().await.unwrap()), 101);
        assert_eq!(client.up_to("hello").await.as_deref(), Some("hello"));
        assert!(eventually(async || gateway.account("alice").await["balance"] == 35).await);
        // In `relaxed` what is younger than 50 ms may be lost; this is on disk after it.
        gateway.grant("bob", 1, "flush").await;
        gateway.kill();
        assert_eq!(client.rest().await, "");
        let gateway = Process::serve(folder.path(), &text);
        let shown = gateway.account("alice").await;
        assert_eq!((shown["held"].as_u64(), shown["available"].as_u64()), (Some(0), Some(35)));
        gateway.assert_reconciled().await;
    }
}

#[tokio::test]
async fn a_start_that_is_killed_at_any_moment_can_be_made_again() {
    let mut random = Random::seeded();
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    for _ in 0..12 {
        let mut serve = command(folder.path(), &["serve"], &[]);
        let serve = serve.stdout(Stdio::null()).stderr(Stdio::null());
        let mut serve = serve.spawn().unwrap();
        tokio::time::sleep(Duration::from_micros(random.below(60_000) as u64)).await;
        serve.kill().unwrap();
        serve.wait().unwrap();
    }
    ok(folder.path(), &["grant", "alice", "5"]);
    assert!(ok(folder.path(), &["reconcile"]).contains("clean"));
}
