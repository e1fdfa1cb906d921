//! `strict` on the cluster ledger: a call is answered once the text of its batch is in Postgres (appended). The rows of
//! the batch are written later (folded), by a transaction that has the shard's row locked.

use std::time::{Duration, Instant};

use farebox::ledger::{Backend as _, HoldId, Operation, Origin, Outcome, Refusal};
use farebox::store::plan_recovery;
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::cluster::serves_again;
use crate::test_cluster::SCHEMA;
use crate::test_ledger::{
    HOUR_MS, Kind, Running, TestLedger, account, api_capture, call_capture, credits, eventually,
    grant, hold_of, text,
};
use crate::without_postgres::with_a_line;

/// A limit for what must not wait; shorter than a transaction may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Locks the shard's row: no gateway can fold while the transaction is open.
const SHARDS_ROW: &str = "SELECT 1 FROM shards FOR UPDATE";

/// An open transaction that has run this statement.
async fn within(fixture: &TestLedger, statement: &str) -> PgConnection {
    let mut sql = fixture.cluster().sql().await;
    run(&mut sql, "BEGIN ISOLATION LEVEL READ COMMITTED").await;
    run(&mut sql, statement).await;
    sql
}

async fn run(sql: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(sql).await.unwrap();
}

/// Counts rows.
async fn count(fixture: &TestLedger, rows: &str) -> i64 {
    let mut sql = fixture.cluster().sql().await;
    let query = AssertSqlSafe(format!("SELECT count(*) FROM {rows}"));
    sqlx::query_scalar(query).fetch_one(&mut sql).await.unwrap()
}

/// The key of the advisory lock that appends share.
fn key_of_appends() -> i64 {
    let digest = Sha256::digest(format!("farebox:{SCHEMA}:appends"));
    i64::from_le_bytes(digest[..8].try_into().unwrap())
}

/// A call's hold. Its id is new, so that Postgres need not be asked about it.
fn hold(id: &HoldId, amount: &str) -> [Operation; 1] {
    [hold_of(Origin::Call, id.as_str(), amount, HOUR_MS)]
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_call_waits_for_nobody_who_has_the_shards_row_locked() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let ledger = fixture.open_with("100").await;
    let other = fixture.open_another("other").await;
    for gateway in [&ledger, &other] {
        gateway.call("1").await.unwrap().release();
    }
    let folding = within(&fixture, SHARDS_ROW).await;
    for _ in 0..10 {
        for gateway in [&ledger, &other] {
            let asked = Instant::now();
            gateway.call("1").await.unwrap().capture(credits("1"));
            assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        }
    }
    drop(folding);
    // The end of the last call waits a moment for another hold, at its own gateway.
    eventually("all are charged", async || ledger.entries("alice").await.len() == 21).await;
    assert_eq!(ledger.has("alice").await, text(("80", "0")));
    ledger.reconciles().await;
    eventually("what is folded leaves the appends", async || count(&fixture, "appends").await == 0)
        .await;
    other.stop().await;
    ledger.stop().await;
}

/// Redis and the gateway are lost at once, before anything is folded.
#[tokio::test(flavor = "multi_thread")]
async fn strict_what_was_answered_and_not_folded_outlives_redis_and_its_gateway() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let mut crashed = fixture.gateway("crashed").await.unwrap();
    crashed.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    crashed.apply(&[Operation::Audit]).await;
    let (live, short) = (HoldId::for_call(), HoldId::for_call());
    crashed.apply(&[Operation::Balance { account: account("alice") }]).await;
    let folding = within(&fixture, SHARDS_ROW).await;
    for (id, amount) in [(&live, "4"), (&short, "2")] {
        let held = crashed.apply(&hold(id, amount)).await;
        assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    }
    let charged = crashed.apply(&[call_capture(short.as_str(), "2")]).await;
    assert!(matches!(charged[..], [Outcome::Captured { late: false, .. }]), "{charged:?}");
    drop(crashed);
    fixture.cluster().redis.flush_all();
    drop(folding);
    let ledger = fixture.open().await;
    serves_again(&ledger).await;
    let has = ledger.has("alice").await;
    assert_eq!(has.0, "8");
    let charged = ledger.ask(call_capture(live.as_str(), "4")).await;
    assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    eventually("nothing is held", async || ledger.has("alice").await == text(("4", "0"))).await;
    ledger.reconciles().await;
    assert_eq!(count(&fixture, "appends WHERE epoch = 1").await, 0);
    ledger.stop().await;
}

/// A batch that no gateway could append was acknowledged to no caller. The batches after it count all the same.
#[tokio::test(flavor = "multi_thread")]
async fn strict_a_batch_that_is_missing_between_others_is_no_loss() {
    let (mut fixture, line) = with_a_line(Kind::ClusterStrict).await;
    let mut cut_off = fixture.gateway("cut-off").await.unwrap();
    cut_off.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    let [first, missing, after] = [(); 3].map(|()| HoldId::for_call());
    cut_off.apply(&hold(&first, "1")).await;
    fixture.cluster_mut().postgres_url = None;
    let mut other = fixture.gateway("other").await.unwrap();
    other.apply(&[Operation::Audit]).await;
    let folding = within(&fixture, SHARDS_ROW).await;
    line.part();
    let refused = cut_off.apply(&hold(&missing, "2")).await;
    assert_eq!(refused[..], [Outcome::Refused(Refusal::Unavailable)]);
    let live = fixture.cluster().redis.ask(&["HKEYS", "{s00}:1:live"]);
    assert!(live.contains(missing.as_str()), "Redis has decided it: {live}");
    let held = other.apply(&hold(&after, "3")).await;
    assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    drop((cut_off, other));
    fixture.cluster().redis.flush_all();
    let plan = plan_recovery(&fixture.config("gateway")).await.unwrap();
    assert_eq!(plan.lost, [""; 0], "{plan:?}");
    assert!(plan.steps.iter().any(|step| step.contains("1 appended")), "{plan:?}");
    drop(folding);
    let ledger = fixture.open().await;
    serves_again(&ledger).await;
    for (id, amount) in [(&first, "1"), (&after, "3")] {
        let charged = ledger.ask(call_capture(id.as_str(), amount)).await;
        assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    }
    eventually("nothing is held", async || ledger.has("alice").await == text(("6", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The 503 comes before any limit of time, and the hold that Redis granted is given back.
#[tokio::test(flavor = "multi_thread")]
async fn strict_a_batch_is_refused_at_once_while_somebody_ends_the_epoch() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let ledger = fixture.open_with("10").await;
    ledger.call("1").await.unwrap().release();
    let lock = format!("SELECT pg_advisory_xact_lock({})", key_of_appends());
    let recovering = within(&fixture, &lock).await;
    let asked = Instant::now();
    assert_eq!(ledger.call("4").await.unwrap_err(), Refusal::Unavailable);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    drop(recovering);
    serves_again(&ledger).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("10", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_recovery_waits_for_an_append_that_is_under_way_and_counts_it() {
    a_recovery_waits_for_an_append(TestLedger::new(Kind::ClusterStrict)).await;
}

/// A transaction of such a database would read the appends as they were before it waited.
#[tokio::test(flavor = "multi_thread")]
async fn strict_a_database_that_is_serializable_by_default_loses_no_append_in_a_recovery() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    fixture.set_in_database("default_transaction_isolation", "serializable").await;
    a_recovery_waits_for_an_append(fixture).await;
}

/// An append has passed its checks and has not committed when a recovery begins.
async fn a_recovery_waits_for_an_append(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.reconciles().await;
    // A lost gateway had Redis decide this batch.
    let append = format!(
        "SELECT append_batch({}, 0, epoch, nonce, checkpoint + 1, \
         E'1795412683123 3600000 *\\n1\\n0000000004000000 a alice 7 /jobs\\nh0 job') FROM shards",
        key_of_appends()
    );
    let open = sqlx::query_as("SELECT epoch, nonce FROM shards");
    let open = open.fetch_one(&mut fixture.cluster().sql().await).await;
    let (epoch, nonce): (i64, String) = open.unwrap();
    let mut appending = within(&fixture, &append).await;
    fixture.cluster().redis.flush_all();
    let waiting = "pg_locks WHERE locktype = 'advisory' AND NOT granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("a recovery waits", async || count(&fixture, waiting).await > 0).await;
    run(&mut appending, "COMMIT").await;
    serves_again(&ledger).await;
    eventually("it counts", async || ledger.has("alice").await == text(("10", "4"))).await;
    let charged = ledger.ask(api_capture("job", "4")).await;
    assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    // That gateway was stopped meanwhile, and goes on.
    let late = format!("SELECT append_batch({}, 0, $1, $2, 99, 'late')", key_of_appends());
    let late = sqlx::query_scalar(AssertSqlSafe(late)).bind(epoch).bind(nonce);
    let mut sql = fixture.cluster().sql().await;
    run(&mut sql, "SET default_transaction_isolation = 'read committed'").await;
    let late: String = late.fetch_one(&mut sql).await.unwrap();
    assert_eq!(late, "ended");
    ledger.reconciles().await;
    ledger.stop().await;
}

/// While a commit takes long, the next batch is decided, and no third one.
#[tokio::test(flavor = "multi_thread")]
async fn strict_two_batches_are_in_flight_at_most() {
    const GATE: i64 = 4711;
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let ledger = fixture.open_with("1000").await;
    ledger.call("1").await.unwrap().release();
    let slow = format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$; \
         CREATE TRIGGER slow AFTER INSERT ON appends FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    fixture.execute(&slow).await.unwrap();
    let under_way = format!(
        "pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {GATE} \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    let mut most = 0;
    // On a machine that is busy a commit may be given up before the second batch comes. The hold of such a call is
    // released by an append of its own, so that round does not count, and the next one waits for the release.
    eventually("two are in flight", async || {
        eventually("nothing is held", async || ledger.has("alice").await.1 == "0").await;
        let mut seen = 0;
        let gate = within(&fixture, &format!("SELECT pg_advisory_xact_lock({GATE})")).await;
        let began = Instant::now();
        let calls: Vec<_> = (0..6).map(|n| spawn_call(&ledger, n)).collect();
        while began.elapsed() < Duration::from_millis(600) {
            seen = seen.max(count(&fixture, &under_way).await);
        }
        drop(gate);
        let mut all_held = true;
        for call in calls {
            all_held &= call.await.unwrap();
        }
        if all_held {
            most = most.max(seen);
        }
        most >= 2
    })
    .await;
    assert_eq!(most, 2);
    eventually("nothing is held", async || ledger.has("alice").await.1 == "0").await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// A call that begins a little later than the one before it, so that it comes in a batch of its own.
/// Returns whether it got its hold.
fn spawn_call(ledger: &Running, number: u64) -> tokio::task::JoinHandle<bool> {
    let ledger = farebox::ledger::Ledger::clone(ledger);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50 * number)).await;
        let (id, alice) = (farebox::ledger::CallId::new(), account("alice"));
        let hold = ledger.hold(id, alice, credits("1"), "/x".into()).await;
        hold.map(farebox::ledger::Hold::release).is_ok()
    })
}
