//! Claims and answers in Postgres: the rows that it keeps, and how it finds them.

use bytes::Bytes;
use farebox::ledger::{
    Answers as _, Backend as _, Claim, ClaimState, Kept, Operation, Reader as _,
};

use crate::claiming::{KEEP_MS, claim_id, held, key, mark};
use crate::claims_cluster::{is_charged, stands};
use crate::test_ledger::{
    Kind, TestLedger, credits, eventually, grant, hold_id, on_cluster_ledgers,
};

on_cluster_ledgers!("multi_thread":
    answers_are_kept_for_every_gateway_up_to_their_limit,
    replays_of_every_gateway_are_added_up_and_forgotten_after_a_year,
    an_embedded_ledger_is_moved_with_its_claims,
    claims_are_found_by_their_indexes,
);

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

async fn answers_are_kept_for_every_gateway_up_to_their_limit(fixture: TestLedger) {
    let mut first = fixture.gateway("first").await.unwrap();
    let mut second = fixture.gateway("second").await.unwrap();
    let (one, other) = (first.answers(5000).await.unwrap(), second.answers(5000).await.unwrap());
    assert_eq!(one.secret(), other.secret());
    assert_ne!(one.secret(), &[0; 32]);
    assert!(!format!("{one:?}").contains(&one.secret()[0].to_string()));
    let later = now_ms() + 3_600_000;
    let call = |n: usize| hold_id(&format!("call-{n}"));
    let sealed = |n: usize| Bytes::from(vec![n as u8; 1000]);
    for n in 0..4 {
        let answers = if n % 2 == 0 { &one } else { &other };
        assert_eq!(answers.keep(&call(n), sealed(n), later).await.unwrap(), Kept::Yes);
    }
    assert_eq!(other.keep(&call(4), sealed(4), later).await.unwrap(), Kept::NoRoom);
    assert_eq!(other.keep(&call(0), sealed(9), later).await.unwrap(), Kept::Yes, "a repetition");
    for n in 0..4 {
        assert_eq!(other.read(&call(n)).await.unwrap(), Some(sealed(n)));
    }
    assert_eq!(one.read(&call(4)).await.unwrap(), None);
    // Time passes: these are of the day before yesterday.
    for sql in [
        "UPDATE answers SET until = until - 2 * 86400000",
        "UPDATE answer_sizes SET hour = hour - 48",
        "CREATE TABLE answers_2020_01_01 PARTITION OF answers FOR VALUES FROM (1577836800000) TO (1577923200000)",
        "INSERT INTO answers VALUES ('old', 'x', 1577836800000)",
    ] {
        fixture.execute(sql).await.unwrap();
    }
    assert_eq!(one.read(&call(0)).await.unwrap(), None, "its time is up");
    // Only `other` has tried to make room so far.
    assert_eq!(one.keep(&call(7), sealed(7), later).await.unwrap(), Kept::Yes);
    for sql in [
        "SELECT 1 / (count(*) = 1)::int FROM answers",
        "SELECT 1 / (sum(bytes) BETWEEN 1000 AND 1500)::int FROM answer_sizes",
        "SELECT 1 / (to_regclass('answers_2020_01_01') IS NULL)::int",
    ] {
        fixture.execute(sql).await.unwrap();
    }
    assert!(first.close().await && second.close().await);
    let again = fixture.gateway("first").await.unwrap();
    let answers = again.answers(5000).await.unwrap();
    assert_eq!(answers.secret(), one.secret());
    assert_eq!(answers.read(&call(0)).await.unwrap(), None);
    assert_eq!(answers.read(&call(7)).await.unwrap(), Some(sealed(7)));
}

async fn replays_of_every_gateway_are_added_up_and_forgotten_after_a_year(fixture: TestLedger) {
    let mut first = fixture.gateway("first").await.unwrap();
    let mut second = fixture.gateway("second").await.unwrap();
    let (one, other) = (first.answers(5000).await.unwrap(), second.answers(5000).await.unwrap());
    let calls: Vec<_> = (0..50).map(|n| hold_id(&format!("call-{n}"))).collect();
    for round in 0..40 {
        // Both write the same rows, in opposite orders.
        calls.iter().for_each(|call| one.count_replay(call));
        calls.iter().rev().for_each(|call| other.count_replay(call));
        if round % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let read = async || second.reader().replays(&calls).await.unwrap();
    eventually("all replays are written", async || {
        let replays = read().await;
        replays.len() == calls.len() && replays.values().all(|replays| replays.times == 80)
    })
    .await;
    let unknown = second.reader().replays(&[hold_id("never")]).await.unwrap();
    assert!(unknown.is_empty());
    let aged = "UPDATE replays SET last = last - 401 * 86400000::int8 WHERE call <> 'call-7'";
    fixture.execute(aged).await.unwrap();
    // An answer for which there is no room has old ones deleted, as the janitor does every minute.
    let too_large = Bytes::from(vec![1; 6000]);
    let kept = one.keep(&calls[0], too_large, now_ms() + 3_600_000).await.unwrap();
    assert_eq!((kept, read().await.len()), (Kept::NoRoom, 1));
    assert!(first.close().await && second.close().await);
}

async fn an_embedded_ledger_is_moved_with_its_claims(fixture: TestLedger) {
    let from = TestLedger::new(Kind::EmbeddedStrict);
    let ledger = from.open_with("10").await;
    held(&ledger, key(1)).await.capture(credits("1"));
    let unmarked = Claim::Key { id: claim_id(2), mark: None, keep_ms: KEEP_MS };
    held(&ledger, unmarked).await.capture(credits("1"));
    held(&ledger, key(3)).await.release();
    is_charged(&ledger, "two are charged", "8", "0").await;
    ledger.stop().await;
    let embedded = from.embedded().await.unwrap();
    let secret = *embedded.answers(1 << 20).await.unwrap().secret();
    drop(embedded);
    farebox::store::import(&fixture.config("import"), &from.path()).await.unwrap();
    let ledger = fixture.open().await;
    let other = Claim::Key { id: claim_id(1), mark: Some(mark(2)), keep_ms: KEEP_MS };
    assert_eq!(stands(&ledger, other).await, Some(ClaimState::Conflict));
    for (n, expected) in [(1, Some(ClaimState::Charged)), (2, Some(ClaimState::Charged)), (3, None)]
    {
        assert_eq!(stands(&ledger, key(n)).await, expected, "key {n}");
    }
    let gateway = fixture.gateway("another").await.unwrap();
    assert_eq!(gateway.answers(1 << 20).await.unwrap().secret(), &secret);
    ledger.stop().await;
}

/// Postgres logs the plan of each statement that the gateway runs. No plan may scan the table.
async fn claims_are_found_by_their_indexes(fixture: TestLedger) {
    let mut before = fixture.gateway("before").await.unwrap();
    before.apply(&[Operation::Post(grant("g", "alice", "100"))]).await;
    before.answers(1 << 30).await.unwrap();
    assert!(before.close().await);
    let later = now_ms() + 3_600_000;
    let database = &fixture.cluster().database;
    for sql in [
        format!(
            "INSERT INTO claims SELECT sha256(n::text::bytea), 'old-' || n, NULL, {later}, n % 50 > 0 \
             FROM generate_series(1, 100000) n"
        ),
        format!(
            "INSERT INTO left_calls SELECT 'old-' || n, sha256(n::text::bytea), {later}, false \
             FROM generate_series(1, 20000) n"
        ),
        format!(
            "INSERT INTO answers SELECT 'old-' || n, 'x', {later} FROM generate_series(1, 20000) n"
        ),
        "ANALYZE claims, left_calls, answers, holds, accounts".to_owned(),
        format!("ALTER DATABASE {database} SET session_preload_libraries = 'auto_explain'"),
        format!("ALTER DATABASE {database} SET auto_explain.log_min_duration = 0"),
    ] {
        fixture.execute(&sql).await.unwrap();
    }
    let log = || fixture.cluster().postgres.lock().unwrap().said();
    let ledger = fixture.open().await;
    let (marked, charged) = (held(&ledger, key(1)).await, held(&ledger, key(2)).await);
    ledger.reconciles().await;
    let unmarked =
        held(&ledger, Claim::Key { id: claim_id(3), mark: None, keep_ms: KEEP_MS }).await;
    ledger.reconciles().await;
    unmarked.mark_claim(mark(1)).await.unwrap();
    marked.leave(claim_id(9)).await.unwrap();
    charged.capture(credits("1"));
    ledger.reconciles().await;
    // A recovery loads every claim. One that is asked for before its turn is looked up by its id.
    eventually("a claim is looked up by its id", async || {
        fixture.cluster().redis.flush_all();
        assert_eq!(stands(&ledger, key(2)).await, Some(ClaimState::Charged));
        log().contains("WHERE id = ANY($1) AND charged")
    })
    .await;
    assert_eq!(stands(&ledger, Claim::Retry { id: claim_id(9) }).await, Some(ClaimState::Running));
    marked.capture(credits("1"));
    unmarked.release();
    is_charged(&ledger, "both are charged", "98", "0").await;
    assert_eq!(stands(&ledger, Claim::Retry { id: claim_id(9) }).await, Some(ClaimState::Charged));
    let redis = &fixture.cluster().redis;
    eventually("every claim is in Redis", async || {
        redis.ask(&["HGET", "{s00}:meta", "claims"]) == "0"
    })
    .await;
    ledger.reconciles().await;
    let gateway = fixture.gateway("another").await.unwrap();
    let answers = gateway.answers(1 << 30).await.unwrap();
    answers.keep(&hold_id("call"), Bytes::from_static(b"sealed"), later).await.unwrap();
    assert!(answers.read(&hold_id("call")).await.unwrap().is_some());
    ledger.stop().await;
    let log = log();
    for statement in [
        "UPDATE farebox_test.claims c SET mark",
        "INSERT INTO farebox_test.claims AS c",
        "INSERT INTO farebox_test.claims (id",
        "INSERT INTO farebox_test.left_calls",
        "UPDATE farebox_test.left_calls",
        "WHERE id = ANY($1) AND charged",
        "WHERE id > $1 AND charged",
        "max(until) FROM farebox_test.claims",
        "LEFT JOIN farebox_test.claims c",
        "FROM farebox_test.left_calls WHERE id = ANY",
        "SELECT sealed FROM farebox_test.answers",
    ] {
        assert!(log.contains(statement), "{statement} was not seen");
    }
    for table in ["claims", "left_calls", "answers_2"] {
        let scan = format!("Seq Scan on {table}");
        // An empty table has no cheaper plan than a scan.
        let is_scan = |line: &str| line.contains(&scan) && !line.contains("(cost=0.00..0.00 ");
        let scans = log.split("LOG:").filter(|entry| entry.lines().any(is_scan));
        let scans: Vec<_> = scans.collect();
        assert!(scans.is_empty(), "{}", scans[0]);
    }
}
