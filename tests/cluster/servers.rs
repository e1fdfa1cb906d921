//! The harness itself: a fault that does not happen would prove nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::clock::Clock;
use crate::support::eventually;
use crate::support::servers::{CutProxy, Family, Flow, Persistence, Postgres, Redis};

const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_redis_keeps_after_kill_9_what_its_persistence_says() {
    let mut none = Redis::start(Persistence::None);
    let mut aof = Redis::start(Persistence::Aof);
    for redis in [&mut none, &mut aof] {
        assert_eq!(redis.ask(&["SET", "key", "1"]), "OK");
        redis.kill();
        assert!(redis.try_ask(&["PING"]).is_err());
        redis.restart();
    }
    assert_eq!(none.ask(&["GET", "key"]), "(nil)");
    assert_eq!(aof.ask(&["GET", "key"]), "1");
}

#[test]
fn a_redis_starts_again_from_an_old_snapshot() {
    let mut redis = Redis::start(Persistence::None);
    redis.ask(&["SET", "key", "old"]);
    let old = redis.snapshot();
    redis.ask(&["SET", "key", "new"]);
    redis.restart_from(&old);
    assert_eq!(redis.ask(&["GET", "key"]), "old");
    redis.flush_all();
    assert_eq!(redis.ask(&["GET", "key"]), "(nil)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_behind_a_stalled_line_lags_and_can_be_promoted() {
    let mut master = Redis::start(Persistence::None);
    let line = CutProxy::before(master.address()).await;
    let mut replica = Redis::replica_of(line.address());
    master.ask(&["SET", "key", "old"]);
    replica.wait_until("the key", |replica| replica.ask(&["GET", "key"]) == "old");
    line.set(Flow::Open, Flow::Stalled);
    master.ask(&["SET", "key", "new"]);
    master.kill();
    replica.promote();
    assert_eq!(replica.ask(&["GET", "key"]), "old");
    assert_eq!(replica.ask(&["SET", "key", "newer"]), "OK");
}

#[test]
fn a_sentinel_promotes_the_replica_of_a_master_that_is_gone() {
    let mut master = Redis::start(Persistence::None);
    let replica = Redis::replica_of(master.address());
    let sentinel = Redis::sentinel_of(master.address(), "farebox");
    let its_replicas = || sentinel.ask(&["SENTINEL", "REPLICAS", "farebox"]);
    sentinel.wait_until("it knows the replica", |_| !its_replicas().is_empty());
    master.kill();
    // A sentinel cuts the connections of a server whose role it changes, so the question may fail.
    let role = |redis: &Redis| redis.try_ask(&["ROLE"]).unwrap_or_default();
    replica.wait_until("it is the master", |replica| role(replica).starts_with("master"));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let say = |what: &str| {
        let mut command = Command::new("sh");
        Family::start(
            command.args(["-c", &format!("echo {what}; exit 1")]),
            &folder.path().join("log"),
        )
    };
    assert!(!say("bind: Address already in use").starts(|_| false), "it is tried on another port");
    let mut full = say("no room");
    let panic = catch_unwind(AssertUnwindSafe(|| full.starts(|_| false))).unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("no room"), "{said}");
}

#[test]
fn a_postgres_that_was_killed_leaves_no_shared_memory() {
    let mut postgres = Postgres::start();
    let segment = postgres.shared_memory();
    let exists = || {
        let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        table.lines().any(|line| line.split_whitespace().nth(1) == Some(&segment))
    };
    assert!(exists());
    postgres.kill();
    drop(postgres);
    assert!(!exists());
}

#[test]
fn a_process_that_was_killed_leaves_nothing_of_its_clock() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let mut command = Command::new("sleep");
    command.arg("60").envs(clock.env());
    let mut process = Family::start(&mut command, &folder.path().join("log"));
    let shared = PathBuf::from(format!("/dev/shm/faketime_shm_{}", process.pid()));
    assert!(process.wait_until(|_| shared.exists()));
    process.kill();
    assert!(shared.exists());
    drop(clock);
    assert!(!shared.exists());
}

#[test]
fn a_postgres_keeps_what_it_committed_after_kill_9() {
    let mut postgres = Postgres::start();
    let database = postgres.database();
    assert_ne!(database, postgres.database());
    postgres.sql(&database, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
    postgres.kill();
    assert!(postgres.try_sql(&database, "SELECT 1").is_err());
    postgres.restart();
    assert_eq!(postgres.sql(&database, "SELECT n FROM t"), "7");
    postgres.stop();
    postgres.restart();
    assert_eq!(postgres.sql(&database, "SELECT n FROM t"), "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_can_be_stalled_be_deaf_be_cut_and_lead_elsewhere() {
    let redis = Redis::start(Persistence::None);
    let line = CutProxy::before(redis.address()).await;
    let ping = async |socket: &mut TcpStream| {
        socket.write_all(b"PING\r\n").await?;
        let mut reply = [0; 7];
        socket.read_exact(&mut reply).await?;
        assert_eq!(&reply, b"+PONG\r\n");
        std::io::Result::Ok(())
    };
    let mut socket = TcpStream::connect(line.address()).await.unwrap();
    ping(&mut socket).await.unwrap();

    line.set(Flow::Open, Flow::Stalled);
    assert!(timeout(SOON, ping(&mut socket)).await.is_err(), "nothing comes");
    line.set(Flow::Open, Flow::Open);
    let mut late = [0; 7];
    socket.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b"+PONG\r\n");

    line.set(Flow::Lost, Flow::Open);
    assert!(timeout(SOON, ping(&mut socket)).await.is_err(), "nothing arrives");
    line.mend();
    // The line is cut by a task of its own, which a ping may overtake.
    assert!(eventually(async || ping(&mut socket).await.is_err()).await, "it is closed");

    let mut socket = TcpStream::connect(line.address()).await.unwrap();
    ping(&mut socket).await.unwrap();
    let other = Redis::start(Persistence::None);
    other.ask(&["SET", "key", "other"]);
    line.lead_to(other.address());
    // The line is cut by a task of its own, which a ping may overtake.
    assert!(eventually(async || ping(&mut socket).await.is_err()).await, "it is closed");
    let mut socket = TcpStream::connect(line.address()).await.unwrap();
    socket.write_all(b"GET key\r\n").await.unwrap();
    let mut reply = [0; 11];
    socket.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"$5\r\nother\r\n");

    line.part();
    let mut socket = TcpStream::connect(line.address()).await.unwrap();
    assert!(ping(&mut socket).await.is_err(), "it is closed at once");
}
