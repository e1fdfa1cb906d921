//! A disk that is full or read-only, a ledger that somebody else has locked, and a rush on the last credits.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::http::Answer;
use crate::process::{Process, config_on_ports};
use crate::support::ai::{Ai, Asked, DONE, Reply, Step, chat_chunk, chat_usage, chat_usage_chunk};
use crate::support::metered::{CHAT, CHAT_TABLES};
use crate::support::{TestGateway, Upstream, config_with, eventually, token};

/// Lets a process write no byte beyond `limit` in any file, as if its disk were full.
fn limit_files(process: &Process, limit: &str) {
    let pid = process.pid().to_string();
    let fsize = format!("--fsize={limit}:unlimited");
    let output = Command::new("prlimit").args(["--pid", &pid, &fsize]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn metric(process: &Process, name: &str) -> f64 {
    let text = process.client.get(format!("http://{}/metrics", process.admin)).send();
    let text = text.await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
}

/// The files of the ledger in `folder` that calls write.
fn files(folder: &Path) -> [PathBuf; 2] {
    ["ledger.db", "ledger.db-wal"].map(|name| folder.join(name))
}

fn set_mode(folder: &Path, mode: u32) {
    for file in files(folder) {
        std::fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    }
}

fn set_immutable(files: &[PathBuf], sign: char) -> bool {
    let output = Command::new("chattr").arg(format!("{sign}i")).args(files).output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether this machine can make a file refuse those who have it open: root can, on ext4.
fn immutable_binds(folder: &Path) -> bool {
    let probe = [folder.join("probe")];
    let mut open = std::fs::File::create(&probe[0]).unwrap();
    let refused = set_immutable(&probe, '+') && open.write_all(b"x").is_err();
    set_immutable(&probe, '-');
    refused
}

/// A folder on a disk, although TMPDIR may be in memory: files in memory that were opened before they became
/// immutable can still be written.
fn folder_on_disk() -> TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// Ways in which a ledger cannot be written any more.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The process can make no file larger.
    FullDisk,
    /// The ledger's user may only read the files, and finds out when it opens them anew.
    ReadOnly,
    /// The files refuse everybody, whoever has them open: as after a remount for reading only.
    Immutable,
}

impl Fault {
    async fn begin(self, gateway: &Process, folder: &Path) {
        match self {
            Self::FullDisk => limit_files(gateway, "1"),
            Self::Immutable => assert!(set_immutable(&files(folder), '+')),
            Self::ReadOnly => {
                let file = format!("sqlite://{}", folder.join("ledger.db").display());
                let mut intruder = sqlx::SqliteConnection::connect(&file).await.unwrap();
                intruder.execute("BEGIN IMMEDIATE").await.unwrap();
                set_mode(folder, 0o444);
                // A write that fails is tried on a new connection.
                let refused = eventually(async || {
                    gateway.post("alice", "/api/ai/generate").await.status == 503
                });
                assert!(refused.await, "{}", gateway.stderr());
                intruder.execute("ROLLBACK").await.unwrap();
            }
        }
    }

    fn end(self, gateway: &Process, folder: &Path) {
        match self {
            Self::FullDisk => limit_files(gateway, "unlimited"),
            Self::Immutable => assert!(set_immutable(&files(folder), '-')),
            Self::ReadOnly => set_mode(folder, 0o644),
        }
    }
}

/// Lets the folder be removed, however its test ends.
struct Mend<'a>(&'a Path);

impl Drop for Mend<'_> {
    fn drop(&mut self) {
        set_immutable(&files(self.0), '-');
    }
}

async fn a_ledger_that_cannot_write_is_503(fault: Fault, durability: &str) {
    let folder = folder_on_disk();
    let _mend = Mend(folder.path());
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let text = text.replace("[ledger]", &format!("[ledger]\ndurability = \"{durability}\""));
    let mut gateway = Process::serve_bound(folder.path(), &text);
    gateway.grant("alice", 100, "gift").await;
    gateway.grant("poor", 1, "gift-poor").await;
    gateway.post("alice", "/api/ai/generate").await.expect(200);
    let settled = eventually(async || gateway.account("alice").await["held"] == 0);
    assert!(settled.await);
    // Entries are read beside the writer: wait until what `relaxed` acknowledged is there.
    assert!(eventually(async || gateway.transactions("alice").await.len() == 2).await);

    let before = upstream.seen().len();
    fault.begin(&gateway, folder.path()).await;
    // In `relaxed` calls may still be granted for a moment, until the ledger notices the fault.
    let noticed =
        eventually(async || gateway.post("alice", "/api/ai/generate").await.status == 503);
    assert!(noticed.await, "{}", gateway.stderr());
    let free = upstream.seen().len() - before;
    assert!(durability == "relaxed" || free == 0, "{free} calls passed");
    let passed = upstream.seen().len();
    // An account with too few credits may get a 402; an account with enough never does.
    let poor = gateway.post("poor", "/api/ai/generate").await;
    assert!(poor.status == 503 || poor.json()["available"] == 1, "{}", poor.text);
    for account in ["alice", "nobody"] {
        let answer = gateway.post(account, "/api/ai/generate").await;
        let problem = answer.problem(503, "LEDGER_UNAVAILABLE");
        assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
        assert_eq!(problem["error"]["type"], "api_error");
    }
    let path = "/admin/accounts/alice/grants";
    let grant = gateway.admin(Method::POST, path, r#"{"credits":5,"id":"later"}"#).await;
    grant.problem(503, "LEDGER_UNAVAILABLE");
    assert_eq!(upstream.seen().len(), passed, "nobody passed for free");
    assert_eq!(metric(&gateway, "farebox_ledger_up").await, 0.0);
    let healthz = gateway.client.get(format!("http://{}/healthz", gateway.admin)).send().await;
    assert_eq!(healthz.unwrap().status(), 200, "the process lives");

    fault.end(&gateway, folder.path());
    let serves = eventually(async || {
        let answer = gateway.post("alice", "/api/ai/generate").await;
        assert!(answer.status == 200 || answer.status == 503, "{}", answer.text);
        answer.status == 200
    });
    assert!(serves.await, "it serves again by itself: {}", gateway.stderr());
    assert_eq!(metric(&gateway, "farebox_ledger_up").await, 1.0);
    gateway.admin(Method::POST, path, r#"{"credits":5,"id":"later"}"#).await.expect(200);
    let served = upstream.seen().len();
    let agreed = eventually(async || {
        gateway.account("alice").await["held"] == 0
            && gateway.transactions("alice").await.len() == 2 + served
    });
    assert!(agreed.await, "{:?} {served}", gateway.transactions("alice").await);
    assert_eq!(gateway.account("alice").await["balance"], 105 - 5 * served as i64);
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_503_and_heals_by_itself_strict() {
    a_ledger_that_cannot_write_is_503(Fault::FullDisk, "strict").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_503_and_heals_by_itself_relaxed() {
    a_ledger_that_cannot_write_is_503(Fault::FullDisk, "relaxed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_ledger_is_503_and_heals_by_itself_strict() {
    a_ledger_that_cannot_write_is_503(Fault::ReadOnly, "strict").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_ledger_is_503_and_heals_by_itself_relaxed() {
    a_ledger_that_cannot_write_is_503(Fault::ReadOnly, "relaxed").await;
}

/// Only root can make a file immutable. The output of other users' runs says that this was not
/// tested (see .config/nextest.toml).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immutable_ledger_is_503_and_heals_by_itself() {
    if !immutable_binds(folder_on_disk().path()) {
        eprintln!(
            "NOT TESTED: a ledger that turns read-only under its open files; that needs root"
        );
        eprintln!("and ext4 under /var/tmp (`chattr +i`).");
        return;
    }
    for durability in ["strict", "relaxed"] {
        a_ledger_that_cannot_write_is_503(Fault::Immutable, durability).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_while_calls_run_loses_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = axum::Router::new().fallback(move || {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            "late"
        }
    });
    let upstream = Upstream::start(slow).await;
    let mut gateway = Process::serve(folder.path(), &config_on_ports(upstream.address, ""));
    gateway.grant("alice", 100, "gift").await;
    let calls = futures_util::future::join_all((0..8).map(|_| {
        let request = gateway.client.post(gateway.url("/api/ai/generate"));
        tokio::spawn(Answer::of(request.bearer_auth(token("alice"))))
    }));
    let calls = tokio::spawn(calls);
    assert!(eventually(async || upstream.seen().len() == 8).await);
    limit_files(&gateway, "1");
    release.send(true).unwrap();
    for call in calls.await.unwrap() {
        call.unwrap().expect(200);
    }
    limit_files(&gateway, "unlimited");
    let settled = eventually(async || gateway.transactions("alice").await.len() == 9);
    assert!(settled.await, "{}", gateway.stderr());
    assert_eq!(gateway.account("alice").await["balance"], 60);
    assert_eq!(gateway.account("alice").await["held"], 0);
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());
}

/// The bytes of `Q` in a stream: those of the model.
fn delivered(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'Q').count()
}

/// A stream whose hold should grow while the disk is full. If `goes_on` is true, the stream uses up its hold
/// meanwhile.
async fn a_stream_on_a_full_disk(durability: &str, goes_on: bool) {
    let folder = tempfile::tempdir().unwrap();
    let [during, after] = [(), ()].map(|()| Arc::new(Semaphore::new(0)));
    // 20 tokens each. The first hold covers 100 tokens, and grows once more than 50 are used.
    let texts = |count| (0..count).map(|_| Step::Chunk(chat_chunk(&"Q".repeat(40)).into_bytes()));
    let mut reply = Reply::begin_events(&[chat_chunk("QQQQ")]).then(Step::Wait(during.clone()));
    reply.0.extend(texts(if goes_on { 10 } else { 3 }));
    reply = reply.then(Step::Wait(after.clone()));
    reply.0.extend(texts(40));
    let usage = chat_usage_chunk(&chat_usage(200, 900));
    reply.0.extend([Step::Chunk(usage.into_bytes()), Step::Chunk(DONE.into()), Step::End]);
    let fine = Reply::whole(200, "", "fine");
    let answers = move |asked: &Asked| if asked.path() == CHAT { &reply } else { &fine }.clone();
    let ai = Ai::start(answers).await;
    let ledger = format!("[ledger]\ndurability = \"{durability}\"");
    let text = config_on_ports(ai.address, CHAT_TABLES).replace("[ledger]", &ledger);
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 1, "gift").await;
    gateway.grant("bob", 100, "gift-bob").await;
    let body = json!({ "model": "m", "stream": true, "messages": [], "user": "x".repeat(349) });
    assert_eq!(body.to_string().len(), 400, "200 tokens");
    let request = gateway.client.post(gateway.url(CHAT)).bearer_auth(token("alice"));
    let request = request.header("content-type", "application/json").body(body.to_string());
    let mut answer = request.send().await.unwrap();
    let mut read = String::new();
    let mut read_until = async |bytes: usize, read: &mut String| {
        while delivered(read) < bytes
            && let Some(part) = answer.chunk().await.unwrap()
        {
            read.push_str(&String::from_utf8_lossy(&part));
        }
    };
    read_until(4, &mut read).await;

    limit_files(&gateway, "1");
    let says = async |status: u16| {
        let asked = async || gateway.post("bob", "/api/ai/generate").await.status == status;
        assert!(eventually(asked).await, "{status}: {}", gateway.stderr());
    };
    says(503).await;
    during.add_permits(1);
    if !goes_on {
        read_until(124, &mut read).await;
        // Long enough for the ledger to refuse what the stream asked for.
        says(503).await;
        limit_files(&gateway, "unlimited");
        says(200).await;
        after.add_permits(1);
    }
    read_until(usize::MAX, &mut read).await;
    limit_files(&gateway, "unlimited");
    says(200).await;
    let balance = if goes_on {
        let error = read.trim_end().rsplit("data: ").next().unwrap();
        let error: Value = serde_json::from_str(error).unwrap_or_else(|_| panic!("{read}"));
        assert_eq!(error["error"]["code"], "LEDGER_UNAVAILABLE", "{error}");
        assert_eq!(delivered(&read), 164, "all that the first hold covers");
        "0.868"
    } else {
        assert!(read.ends_with(DONE), "{read}");
        "0.05"
    };
    let settled = eventually(async || gateway.account("alice").await["held"] == 0).await;
    assert!(settled, "{}", gateway.stderr());
    assert_eq!(gateway.account("alice").await["balance"].to_string(), balance);
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_a_ledger_that_fails_for_a_while() {
    for durability in ["strict", "relaxed"] {
        a_stream_on_a_full_disk(durability, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_our_ledger_ends_is_not_told_that_its_credits_are_used_up() {
    for durability in ["strict", "relaxed"] {
        a_stream_on_a_full_disk(durability, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_somebody_locks_is_503_and_heals_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let mut gateway = Process::serve(folder.path(), &config_on_ports(upstream.address, ""));
    gateway.grant("alice", 100, "gift").await;
    let file = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let mut intruder = sqlx::SqliteConnection::connect(&file).await.unwrap();
    intruder.execute("BEGIN IMMEDIATE").await.unwrap();
    gateway.post("alice", "/api/ai/generate").await.problem(503, "LEDGER_UNAVAILABLE");
    assert_eq!(upstream.seen().len(), 0);
    intruder.execute("ROLLBACK").await.unwrap();
    let serves = eventually(async || gateway.post("alice", "/api/ai/generate").await.status == 200);
    assert!(serves.await, "{}", gateway.stderr());
    let settled = eventually(async || gateway.account("alice").await["balance"] == 95);
    assert!(settled.await);
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_credit_is_spent_once_by_a_thousand_clients() {
    for (durability, enough_for) in [("strict", 1), ("strict", 10), ("relaxed", 137)] {
        let upstream = Upstream::canned().await;
        let ledger = format!("durability = \"{durability}\"");
        let text = config_with(upstream.address, "", &ledger, "");
        let gateway = TestGateway::start(&text).await;
        // Four credits more than whole calls: they pay for nothing.
        gateway.grant("alice", enough_for as u64 * 5 + 4).await;
        let bearer = token("alice");
        let calls = (0..1000).map(|_| {
            let request = gateway.client.post(gateway.url("/api/ai/generate"));
            tokio::spawn(Answer::of(request.bearer_auth(&bearer)))
        });
        let calls: Vec<_> = calls.collect();
        let mut paid = std::collections::HashSet::new();
        for call in calls {
            let answer = call.await.unwrap();
            if answer.status == 200 {
                paid.insert(answer.header("x-request-id").to_owned());
            } else {
                answer.problem(402, "INSUFFICIENT_CREDITS");
            }
        }
        assert_eq!(paid.len(), enough_for, "{durability}");
        let seen: std::collections::HashSet<_> = upstream
            .seen()
            .iter()
            .map(|seen| seen.header("x-request-id").unwrap().to_owned())
            .collect();
        assert_eq!(upstream.seen().len(), enough_for);
        assert_eq!(seen, paid);
        assert_eq!(gateway.settled_balance("alice").await, 4);
        let charged = eventually(async || {
            let lines: Vec<Value> = crate::http::transactions(&gateway, "alice").await;
            let charged = lines.iter().filter_map(|line| line["request_id"].as_str());
            charged.map(str::to_owned).collect::<std::collections::HashSet<_>>() == paid
        });
        assert!(charged.await);
        gateway.assert_reconciled().await;
        gateway.stop().await;
    }
}
