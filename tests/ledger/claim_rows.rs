//! The rows of claims in the embedded ledger: how many there are, and how little memory they take.

use farebox::ledger::{Backend as _, ClaimState, Claimed, HoldId, Outcome};

use crate::claiming::{capture_of, claim_id, claimed, held, hold_with, key};
use crate::test_ledger::{AnyBackend, TestLedger, credits, eventually, on_embedded_ledgers};

on_embedded_ledgers!("current_thread":
    old_claims_are_deleted,
    a_call_without_a_claim_writes_nothing_of_claims,
    memory_is_flat_with_a_million_claims,
);

async fn rows(fixture: &TestLedger, table: &str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(count).fetch_one(&mut fixture.sql().await).await.unwrap()
}

/// Writes `count` charged claims into the database past the ledger. Their time is up at `until`.
async fn add_claims(fixture: &TestLedger, count: u32, until: i64) {
    let add = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
         INSERT INTO claims \
         SELECT unhex(printf('%064x', n)), 'hold-' || n, zeroblob(32), {until}, 1 FROM n"
    );
    fixture.execute(&add).await.unwrap();
}

async fn old_claims_are_deleted(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(1)).await.capture(credits("1"));
    ledger.stop().await;
    add_claims(&fixture, 5000, 1000).await;
    fixture
        .execute("INSERT INTO left_calls SELECT 'left', randomblob(32), 'charged', 1000")
        .await
        .unwrap();
    let ledger = fixture.open().await;
    eventually("the old claims are gone", async || rows(&fixture, "claims").await == 1).await;
    eventually("the old record is gone", async || rows(&fixture, "left_calls").await == 0).await;
    assert_eq!(claimed(&ledger, key(1)).await.state, ClaimState::Charged);
    ledger.stop().await;
}

async fn a_call_without_a_claim_writes_nothing_of_claims(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    for _ in 0..50 {
        ledger.call("1").await.unwrap().capture(credits("1"));
        let of_claims = "SELECT count(*) FROM batch_log WHERE json_array_length(batch) <> 4";
        let of_claims: i64 =
            sqlx::query_scalar(of_claims).fetch_one(&mut fixture.sql().await).await.unwrap();
        assert_eq!(of_claims, 0);
    }
    ledger.reconciles().await;
    assert_eq!((rows(&fixture, "claims").await, rows(&fixture, "left_calls").await), (0, 0));
    ledger.stop().await;
}

/// The memory of this process, in bytes.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

async fn memory_is_flat_with_a_million_claims(fixture: TestLedger) {
    fixture.open_with("1000000").await.stop().await;
    add_claims(&fixture, 1_000_000, i64::MAX).await;
    let before = resident();
    let mut ledger = fixture.backend().await;
    // The file's own cache has 32 MiB.
    let grown = resident() - before;
    assert!(grown < 50 << 20, "a start with a million claims takes {} kB", grown >> 10);
    println!("a start with a million claims takes {} kB", grown >> 10);
    let in_memory = |ledger: &AnyBackend| {
        let AnyBackend::Embedded(ledger) = ledger else { panic!("an embedded ledger") };
        format!("{ledger:?}").matches("KeyClaim").count()
    };
    for batch in 0..10 {
        let calls: Vec<_> = (0..500).map(|n| (HoldId::for_call(), batch * 500 + n)).collect();
        let holds: Vec<_> = calls.iter().map(|(id, n)| hold_with(id, key(*n))).collect();
        let captures: Vec<_> =
            calls.iter().map(|(id, n)| capture_of(id, Some(claim_id(*n)))).collect();
        let held = ledger.apply(&holds).await;
        assert!(held.iter().all(|held| matches!(held, Outcome::Held { .. })), "{:?}", held[0]);
        eventually("memory has the claims of the calls that run alone", async || {
            ledger.tick(&|_| true).await;
            in_memory(&ledger) == 500
        })
        .await;
        ledger.apply(&captures).await;
        eventually("charged claims are in the file alone", async || {
            ledger.tick(&|_| true).await;
            in_memory(&ledger) == 0
        })
        .await;
    }
    let again = ledger.ask(hold_with(&HoldId::for_call(), key(17))).await;
    assert!(matches!(again, Outcome::Claimed(Claimed { state: ClaimState::Charged, .. })));
    assert!(ledger.close().await);
}
