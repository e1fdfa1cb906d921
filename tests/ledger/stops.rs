//! A gateway that stops while its servers are slow or cannot be reached disturbs no other gateway, and stops in time.

use std::time::{Duration, Instant};

use farebox::config::Secret;
use farebox::ledger::CallId;
use farebox::metrics::Metrics;

use crate::cluster::serves_again;
use crate::rare::{locks, until_one_waits_for_a_lock};
use crate::servers::{CutProxy, Flow};
use crate::test_ledger::{
    Running, TestLedger, account, credits, eventually, grant, on_cluster_ledgers, text,
};
use crate::without_postgres::before_postgres;

on_cluster_ledgers!("multi_thread":
    a_gateway_that_stops_with_nothing_unsynced_ends_no_epoch,
    a_stop_with_both_servers_slow_ends_within_its_limit,
    the_ends_of_calls_that_wait_behind_a_grant_for_a_locked_row_end_no_epoch,
    a_charge_that_was_repeated_is_not_lost_by_a_stop_under_a_locked_row,
    a_charge_that_redis_has_no_room_for_is_handed_over_by_a_stop_under_a_locked_row,
    what_a_stop_appended_is_in_the_stream_again_after_a_recovery,
);

/// The longest time that a stop may take, with a margin for a busy machine. An orchestrator usually kills a process
/// after half a minute.
const LIMIT: Duration = Duration::from_secs(24);

/// Stops a gateway, which must leave nothing behind, and must not take long.
async fn stops_in_time(ledger: Running) {
    let began = Instant::now();
    ledger.stop().await;
    let took = began.elapsed();
    println!("the stop took {took:?}");
    assert!(took < LIMIT, "{took:?}");
}

/// A gateway that reaches Redis through a line of its own.
pub async fn with_a_line_to_redis(fixture: &TestLedger, name: &str) -> (Running, CutProxy) {
    let line = CutProxy::before(fixture.cluster().redis.address()).await;
    let mut config = fixture.config(name);
    config.redis_url = Some(Secret::new(format!("redis://{}", line.address())));
    let opened = farebox::gateway::open_ledger(&config, Metrics::new().unwrap()).await;
    (Running::of(opened.unwrap()), line)
}

async fn a_gateway_that_stops_with_nothing_unsynced_ends_no_epoch(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    let (other, line) = with_a_line_to_redis(&fixture, "other").await;
    other.call("1").await.unwrap().capture(credits("1"));
    eventually("the charge is there", async || ledger.has("alice").await == text(("99", "0")))
        .await;
    other.reconciles().await;
    // The other gateway knows that Postgres has everything.
    other.call("1").await.unwrap().release();
    other.reconciles().await;
    let epoch = || fixture.cluster().redis.ask(&["HGET", "{s00}:meta", "number"]);
    let before = epoch();
    line.part();
    let stopping = tokio::spawn(other.stop());
    let mut calls = 0;
    while !stopping.is_finished() {
        let hold = ledger.call("1").await;
        hold.expect("the stop of another gateway breaks no call").release();
        calls += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stopping.await.unwrap();
    for _ in 0..20 {
        ledger.call("1").await.expect("nor afterwards").release();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(epoch(), before, "after {calls} calls");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_stop_with_both_servers_slow_ends_within_its_limit(mut fixture: TestLedger) {
    let redis = CutProxy::before(fixture.cluster().redis.address()).await;
    let postgres = before_postgres(&mut fixture).await;
    fixture.cluster_mut().redis_url = Some(format!("redis://{}", redis.address()));
    let ledger = fixture.open_with("100").await;
    let mut holds = Vec::new();
    for _ in 0..20 {
        let (id, alice) = (CallId::new(), account("alice"));
        holds.push(ledger.hold(id, alice, credits("1"), "/x".into()).await.unwrap());
    }
    let (flows, lines) = (tokio::sync::watch::channel(true), [redis, postgres]);
    let (slow, mut is_slow) = flows;
    let slowness = tokio::spawn(async move {
        while *is_slow.borrow_and_update() {
            for flow in [Flow::Stalled, Flow::Open] {
                lines.iter().for_each(|line| line.set(flow, flow));
                let wait = if flow == Flow::Open { 30 } else { 900 };
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
        lines
    });
    holds.into_iter().for_each(|hold| hold.capture(credits("1")));
    let (ledger, pipeline) = ledger.apart();
    let began = Instant::now();
    let is_written = pipeline.stop().await;
    let took = began.elapsed();
    println!("the stop took {took:?}, and wrote everything: {is_written}");
    assert!(took < LIMIT, "a stop took {took:?}");
    drop(ledger);
    slow.send(false).unwrap();
    let lines = slowness.await.unwrap();
    fixture.cluster_mut().redis_url = None;
    fixture.cluster_mut().postgres_url = None;
    let ledger = fixture.open().await;
    if is_written {
        eventually("all is charged", async || ledger.has("alice").await == text(("80", "0"))).await;
    }
    ledger.reconciles().await;
    ledger.stop().await;
    drop(lines);
}

/// Alice's row is locked. A grant waits for it, and the ends of her calls wait for the grant. A stop has them decided in
/// Redis, instead of leaving them to a recovery, which would wait for the row as well.
async fn the_ends_of_calls_that_wait_behind_a_grant_for_a_locked_row_end_no_epoch(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("100").await;
    let other = fixture.open_another("other").await;
    other.post(grant("g-bob", "bob", "100")).await.unwrap();
    let mut holds = Vec::new();
    for _ in 0..20 {
        holds.push(ledger.call("1").await.unwrap());
    }
    other.reconciles().await;
    let epoch = || fixture.cluster().redis.ask(&["HGET", "{s00}:meta", "number"]);
    let before = epoch();
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    let (ledger, pipeline) = ledger.apart();
    let late = ledger.clone();
    let granting = tokio::spawn(async move { late.post(grant("late", "alice", "5")).await });
    until_one_waits_for_a_lock(&fixture).await;
    holds.into_iter().for_each(|hold| hold.capture(credits("1")));
    let began = Instant::now();
    let stopping = tokio::spawn(pipeline.stop());
    while !stopping.is_finished() {
        let call = other.hold(CallId::new(), account("bob"), credits("1"), "/x".into()).await;
        call.expect("the stop of another gateway breaks no call").release();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the stop took {:?}", began.elapsed());
    assert!(stopping.await.unwrap(), "the stop leaves something behind");
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    granting.await.unwrap().expect_err("the row is locked");
    for _ in 0..20 {
        let call = other.hold(CallId::new(), account("bob"), credits("1"), "/x".into()).await;
        call.expect("nor afterwards").release();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(epoch(), before);
    fixture.execute("SELECT 1 / (count(*) = 0)::int FROM owed").await.unwrap();
    drop(locked);
    eventually("all is charged", async || other.has("alice").await == text(("80", "0"))).await;
    assert_eq!(epoch(), before);
    other.reconciles().await;
    other.stop().await;
}

/// The answer to the charge is lost, so the gateway repeats it, and no redo log and no append has its batch. The gateway
/// stops while alice's row is locked, and then Redis loses everything.
async fn a_charge_that_was_repeated_is_not_lost_by_a_stop_under_a_locked_row(fixture: TestLedger) {
    let other = fixture.open_with("100").await;
    let (ledger, line) = with_a_line_to_redis(&fixture, "gateway").await;
    other.post(grant("g-bob", "bob", "100")).await.unwrap();
    let call = ledger.call("4").await.unwrap();
    other.reconciles().await;
    let redis = &fixture.cluster().redis;
    let epoch = || redis.ask(&["HGET", "{s00}:meta", "number"]);
    let before = epoch();
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    line.set(Flow::Open, Flow::Lost);
    call.capture(credits("3"));
    let stream = || redis.ask(&["XREVRANGE", "{s00}:out", "+", "-", "COUNT", "1"]);
    eventually("it is in the stream", async || stream().contains("c0 ")).await;
    line.mend();
    // The charge is repeated before this call.
    eventually("Redis is reached again", async || match ledger.call("1").await {
        Ok(call) => {
            call.release();
            true
        }
        Err(_) => false,
    })
    .await;
    stops_in_time(ledger).await;
    for _ in 0..20 {
        let call = other.hold(CallId::new(), account("bob"), credits("1"), "/x".into()).await;
        call.expect("the stop of another gateway breaks no call").release();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(epoch(), before);
    fixture.execute("SELECT 1 / (count(*) = 0)::int FROM owed").await.unwrap();
    redis.flush_all();
    drop(locked);
    serves_again(&other).await;
    eventually("all is charged", async || other.has("alice").await == text(("97", "0"))).await;
    other.reconciles().await;
    other.stop().await;
}

/// Redis answers, and decides nothing. The stop appends its batches, and leaves the charge to a recovery.
async fn a_charge_that_redis_has_no_room_for_is_handed_over_by_a_stop_under_a_locked_row(
    fixture: TestLedger,
) {
    let other = fixture.open_with("100").await;
    let ledger = fixture.open_another("gateway").await;
    let mut calls = Vec::new();
    for _ in 0..21 {
        calls.push(ledger.call("1").await.unwrap());
    }
    let last = calls.pop().unwrap();
    ledger.reconciles().await;
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    calls.into_iter().for_each(|call| call.capture(credits("1")));
    eventually("all but one are charged", async || other.has("alice").await == text(("80", "1")))
        .await;
    let redis = &fixture.cluster().redis;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    last.capture(credits("1"));
    stops_in_time(ledger).await;
    fixture.execute("SELECT 1 / (count(*) = 1)::int FROM owed").await.unwrap();
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    drop(locked);
    let is_none_owed =
        async || fixture.execute("SELECT 1 / (count(*) = 0)::int FROM owed").await.is_ok();
    eventually("a recovery writes the charge", is_none_owed).await;
    serves_again(&other).await;
    eventually("all is charged", async || other.has("alice").await == text(("79", "0"))).await;
    other.reconciles().await;
    other.stop().await;
}

/// Redis is emptied, so the recovery takes the charge from the appends. Postgres may then fail over to a replica that
/// lacks the recovery. So Redis keeps the charge, as it keeps all that Postgres has had for seconds only.
async fn what_a_stop_appended_is_in_the_stream_again_after_a_recovery(fixture: TestLedger) {
    let other = fixture.open_with("100").await;
    let ledger = fixture.open_another("gateway").await;
    let call = ledger.call("4").await.unwrap();
    ledger.reconciles().await;
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    call.capture(credits("3"));
    eventually("it is charged", async || other.has("alice").await == text(("97", "0"))).await;
    stops_in_time(ledger).await;
    let redis = &fixture.cluster().redis;
    let is_kept = || redis.ask(&["XRANGE", "{s00}:out", "-", "+"]).contains("c0 ");
    assert!(is_kept());
    redis.flush_all();
    assert!(!is_kept());
    // A batch that was read from the stream before waits for the row as well, but not for so long.
    let waits = "SELECT 1 / count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > '1500 ms'";
    let recovery_waits = async || fixture.execute(waits).await.is_ok();
    eventually("the recovery waits for the row", recovery_waits).await;
    drop(locked);
    serves_again(&other).await;
    assert_eq!(other.has("alice").await, text(("97", "0")));
    assert!(is_kept(), "a Postgres that fails over loses the charge");
    other.reconciles().await;
    other.stop().await;
}
