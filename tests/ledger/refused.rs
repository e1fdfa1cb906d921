//! Calls that can only end in 503 hear so at once, whatever their gateway still owes.

use std::time::{Duration, Instant};

use farebox::ledger::Refusal;

use crate::cluster::serves_again;
use crate::test_ledger::{
    Kind, Running, TestLedger, credits, eventually, on_cluster_ledgers, text,
};
use crate::without_postgres::with_a_line;

on_cluster_ledgers!("multi_thread":
    a_redis_without_room_refuses_calls_at_once,
    calls_are_refused_at_once_while_no_epoch_is_open,
);

/// Asks for calls for some seconds. Each is refused. Returns how many, and how long half of them and all of them waited.
async fn refused(ledger: &Running) -> (u64, Duration, Duration) {
    let (began, mut waits) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert_eq!(ledger.call("4").await.unwrap_err(), Refusal::Unavailable);
        waits.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    waits.sort();
    (waits.len() as u64, waits[waits.len() / 2], waits[waits.len() - 1])
}

fn assert_prompt((calls, half, longest): (u64, Duration, Duration)) {
    println!("{calls} calls, half of them refused within {half:?}, all within {longest:?}");
    assert!(half < Duration::from_millis(50), "half of the calls waited {half:?}");
    assert!(longest < Duration::from_secs(1), "a call waited {longest:?}");
}

/// How many scripts failed in Redis.
fn failed(fixture: &TestLedger) -> u64 {
    let stats = fixture.cluster().redis.ask(&["INFO", "commandstats"]);
    let of = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap().trim();
    of.rsplit_once("failed_calls=").unwrap().1.parse().unwrap()
}

async fn a_redis_without_room_refuses_calls_at_once(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.call("1").await.unwrap().release();
    ledger.reconciles().await;
    let redis = &fixture.cluster().redis;
    let before = failed(&fixture);
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let asked = refused(&ledger).await;
    assert_prompt(asked);
    // Each call asks for its hold once. What the gateway owes is tried a few times a second, and not with each call.
    let (calls, failed) = (asked.0, failed(&fixture) - before);
    assert!(failed <= calls + 30, "{failed} scripts failed for {calls} calls");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    serves_again(&ledger).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("10", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// A batch is on its way when Redis loses its data, so the gateway owes what was in it. The recovery waits for Postgres.
async fn calls_are_refused_at_once_while_no_epoch_is_open(fixture: TestLedger) {
    let kind: Kind = fixture.kind;
    let (fixture, line) = with_a_line(kind).await;
    let ledger = fixture.open_with("10").await;
    let call = ledger.call("1").await.unwrap();
    ledger.reconciles().await;
    line.part();
    fixture.cluster().redis.flush_all();
    call.capture(credits("1"));
    assert_eq!(ledger.call("4").await.unwrap_err(), Refusal::Unavailable);
    assert_prompt(refused(&ledger).await);
    line.mend();
    serves_again(&ledger).await;
    eventually("the call is charged", async || ledger.has("alice").await == text(("9", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}
