//! Two versions of Farebox on one ledger, whose data in Redis differ.

use std::time::{Duration, Instant};

use farebox::ledger::{Overrun, Refusal, Settlement};
use farebox::metrics::Metrics;
use farebox::store::recover_cluster;
use farebox::usage::UsageRecord;

use crate::test_ledger::{
    Kind, Running, TestLedger, api_capture, api_hold, credits, eventually, on_cluster_ledgers, text,
};

on_cluster_ledgers!("multi_thread":
    versions_of_two_layouts_take_turns_and_never_the_ledger_from_each_other,
);

/// The layout of this version's scripts, and the one before.
const NOW: i32 = 3;
const BEFORE: i32 = NOW - 1;

/// The time in which a gateway looks at the ledger twice. It looks once a second.
const SOME_LOOKS: Duration = Duration::from_millis(2500);

/// A gateway of a version with this layout, and its metrics.
async fn version(fixture: &TestLedger, layout: i32) -> (Running, Metrics) {
    let mut config = fixture.config(&format!("layout-{layout}"));
    config.layout = Some(layout);
    let metrics = Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&config, metrics.clone()).await;
    (Running::of(opened.unwrap()), metrics)
}

/// The epoch and its layout, as Postgres has them.
async fn epoch(fixture: &TestLedger) -> (i64, i32) {
    let mut sql = fixture.cluster().sql().await;
    let sql = sqlx::query_as("SELECT epoch, layout FROM shards").fetch_one(&mut sql);
    sql.await.unwrap()
}

/// Expects that `serving` serves and `waiting` does not, for some time and in one epoch.
async fn serves_alone(fixture: &TestLedger, serving: &Running, waiting: &Running) {
    let (began, before) = (Instant::now(), epoch(fixture).await);
    while began.elapsed() < SOME_LOOKS {
        serving.call("1").await.unwrap().release();
        assert_eq!(waiting.call("1").await.unwrap_err(), Refusal::Unavailable);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(epoch(fixture).await, before);
}

async fn serves(ledger: &Running) {
    eventually("it serves", async || ledger.call("1").await.is_ok()).await;
    eventually("nothing else is held", async || ledger.has("alice").await.1 == "3").await;
}

async fn versions_of_two_layouts_take_turns_and_never_the_ledger_from_each_other(
    fixture: TestLedger,
) {
    let (old, _) = version(&fixture, BEFORE).await;
    old.post(crate::test_ledger::grant("g", "alice", "10")).await.unwrap();
    old.ask(api_hold("job", "3")).await;
    let live = old.call("2").await.unwrap();
    let (first, layout) = epoch(&fixture).await;
    assert_eq!(layout, BEFORE);

    // The old gateway goes on, and settles the calls that it has begun.
    let (new, metrics) = version(&fixture, NOW).await;
    assert_eq!(metrics.ledger_up.get(), 0);
    serves_alone(&fixture, &old, &new).await;
    let mut command = fixture.config("command");
    command.layout = Some(NOW);
    let refused = recover_cluster(&command, Metrics::new().unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("another layout"), "{refused}");
    assert_eq!(epoch(&fixture).await.0, first);
    live.capture(credits("2"));
    assert_eq!(old.has("alice").await, text(("8", "3")));
    old.stop().await;

    // The new one takes the ledger, once.
    serves(&new).await;
    assert_eq!(epoch(&fixture).await, (first + 1, NOW));
    assert_eq!((metrics.ledger_recoveries.get(), metrics.ledger_up.get()), (1, 1));
    assert_eq!(new.has("alice").await, text(("8", "3")));
    let mut call = new.call("1").await.unwrap();
    call.extend(credits("1")).await.unwrap();
    call.release();

    // Another old gateway waits likewise. It is the way back, once the new one has ended.
    let (old, _) = version(&fixture, BEFORE).await;
    serves_alone(&fixture, &new, &old).await;
    // A loss of Redis changes nothing about it.
    fixture.cluster().redis.flush_all();
    serves(&new).await;
    assert_eq!(epoch(&fixture).await, (first + 2, NOW));
    serves_alone(&fixture, &new, &old).await;
    new.ask(api_capture("job", "3")).await;
    new.reconciles().await;
    new.stop().await;
    eventually("the old one serves", async || old.call("1").await.is_ok()).await;
    assert_eq!(epoch(&fixture).await, (first + 3, BEFORE));
    eventually("it is as it was left", async || old.has("alice").await == text(("5", "0"))).await;
    old.reconciles().await;
    old.stop().await;
}

/// The version before serves, somebody dumps the database, and a new gateway starts.
#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_brought_up_while_gateways_serve_and_none_waits_for_a_dump() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let ledger = fixture.open_with("100").await;
    // The calls below do not need these columns. Without them the tables are those of the version before.
    for undo in [
        "ALTER TABLE entries DROP COLUMN held, DROP COLUMN model, DROP COLUMN usage, \
         DROP COLUMN prices",
        "ALTER TABLE owed DROP COLUMN usage",
        "DELETE FROM migrations WHERE version = 10",
    ] {
        fixture.execute(undo).await.unwrap();
    }
    let mut dump = fixture.cluster().sql().await;
    let mut dump = sqlx::Connection::begin(&mut dump).await.unwrap();
    sqlx::query("SELECT count(*) FROM entries").fetch_one(&mut *dump).await.unwrap();
    let migrating = fixture.open_another("new");
    let calls = async {
        let began = Instant::now();
        let (mut longest, mut calls) = (Duration::ZERO, 0);
        while began.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            ledger.call("0.1").await.unwrap().capture(credits("0.1"));
            longest = longest.max(asked.elapsed());
            calls += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        dump.rollback().await.unwrap();
        (longest, calls)
    };
    let (new, (longest, calls)) = tokio::join!(migrating, calls);
    assert!(longest < Duration::from_millis(1500) && calls > 40, "{longest:?}, {calls} calls");
    for ledger in [&new, &ledger] {
        let used = UsageRecord { held: credits("1"), ..UsageRecord::unknown() };
        let (amount, overrun) = (credits("1"), Overrun::Cap);
        let settlement = Settlement { amount, overrun, usage: Some(used.clone()) };
        ledger.call("1").await.unwrap().settle(settlement);
        let entries = ledger.entries("alice").await;
        assert_eq!(entries.last().unwrap().usage.as_deref(), Some(&used));
    }
    new.reconciles().await;
    new.stop().await;
    ledger.stop().await;
}

/// The last gateway of the old layout crashes, and of two newer versions one takes the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_versions_that_wait_one_takes_the_ledger_of_a_crashed_one() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let old = fixture.gateway("old").await.unwrap();
    let (first, layout) = epoch(&fixture).await;
    let waiting = [version(&fixture, layout + 1).await, version(&fixture, layout + 2).await];
    drop(old);
    let serving = async || {
        let mut serving = Vec::new();
        for (ledger, metrics) in &waiting {
            let balance = ledger.balance(&crate::test_ledger::account("alice")).await;
            assert!(balance.is_err() || metrics.ledger_up.get() == 1);
            serving.push(balance.is_ok());
        }
        serving
    };
    eventually("one serves", async || serving().await.contains(&true)).await;
    let (began, one) = (Instant::now(), serving().await);
    assert_eq!(one.iter().filter(|serves| **serves).count(), 1);
    while began.elapsed() < SOME_LOOKS {
        assert_eq!(serving().await, one);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(epoch(&fixture).await.0, first + 1);
    for (ledger, _) in waiting {
        ledger.stop().await;
    }
}
