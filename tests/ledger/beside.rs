//! `relaxed` on the embedded ledger: what is decided while a task writes the rows of earlier calls.
//!
//! Another connection has the file locked, so that a write waits as it does for a slow disk. The ledger waits for the
//! lock for a second; then its write fails. On a machine that stands still for that long a round may see the failure
//! too early, and is repeated.

use std::pin::pin;
use std::time::Duration;

use farebox::ledger::{
    Backend as _, ClaimState, Claimed, HoldId, LedgerError, Operation, Origin, Outcome, Refusal,
};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::claiming::{capture_of, claim_id, hold_with, key};
use crate::test_ledger::{
    AnyBackend, HOUR_MS, TestLedger, account, call_capture, call_release, credits, eventually,
    grant, hold_of, on_one_ledger,
};

on_one_ledger!("current_thread", embedded_relaxed, EmbeddedRelaxed,
    a_call_is_answered_while_rows_are_written
    a_second_write_waits_for_the_first_and_so_do_calls
    what_is_decided_while_a_write_fails_is_written_after_it
    a_write_in_doubt_is_settled_by_the_file_and_loses_nothing_that_came_after_it
    a_claim_that_is_charged_while_its_hold_is_written_stays_charged
    a_hold_that_ends_while_it_is_written_leaves_no_row
    a_ledger_that_is_dropped_stays_locked_until_its_write_has_ended
);

/// A ledger that has nothing to write or to delete, in which alice has 1000 credits.
async fn ready(fixture: &TestLedger) -> AnyBackend {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "1000"))).await;
    serves(&mut backend).await;
    backend
}

/// Ticks until holds are granted and all is written.
async fn serves(backend: &mut AnyBackend) {
    eventually("holds are granted", async || {
        backend.tick(&|_| true).await;
        let id = HoldId::for_call();
        let held = backend.ask(hold(id.as_str(), "1")).await;
        backend.ask(call_release(id.as_str())).await;
        matches!(held, Outcome::Held { .. })
    })
    .await;
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
}

/// Locks the file, as a write does that takes long.
async fn locked(fixture: &TestLedger) -> SqliteConnection {
    let mut lock = fixture.sql().await;
    lock.execute("BEGIN IMMEDIATE").await.unwrap();
    lock
}

async fn unlock(mut lock: SqliteConnection) {
    lock.execute("ROLLBACK").await.unwrap();
}

/// Begins to write. The write waits for the lock when this returns.
async fn write_begins(backend: &mut AnyBackend, fixture: &TestLedger) {
    backend.tick(&|_| true).await;
    // A read gives the task the thread for long enough.
    count(fixture, "entries").await;
}

async fn count(fixture: &TestLedger, table: &str) -> i64 {
    let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(count).fetch_one(&mut fixture.sql().await).await.unwrap()
}

fn hold(id: &str, amount: &str) -> Operation {
    hold_of(Origin::Call, id, amount, HOUR_MS)
}

fn extend(id: &str, amount: &str) -> Operation {
    let hold = id.parse().unwrap();
    Operation::Extend { hold, account: account("alice"), amount: credits(amount) }
}

fn is_held(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Held { .. })
}

fn unavailable() -> Outcome {
    Outcome::Refused(Refusal::Unavailable)
}

/// Asks for holds until one is refused; returns how many were granted.
async fn until_holds_are_refused(backend: &mut AnyBackend) -> u32 {
    let mut granted = 0;
    eventually("holds are refused", async || {
        let held = backend.ask(hold(HoldId::for_call().as_str(), "1")).await;
        granted += u32::from(is_held(&held));
        held == unavailable()
    })
    .await;
    granted
}

/// Alice's balance and held credits, in whole credits.
async fn has(backend: &mut AnyBackend) -> (String, String) {
    let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
    let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
    (balance.balance.to_string(), balance.held.to_string())
}

async fn adds_up(backend: &mut AnyBackend) {
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    let report = backend.reader().await.reconcile().await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

async fn a_call_is_answered_while_rows_are_written(fixture: TestLedger) {
    let mut backend = ready(&fixture).await;
    eventually("a call is answered during a write", async || {
        serves(&mut backend).await;
        let [first, next] = [(); 2].map(|()| HoldId::for_call());
        let before = count(&fixture, "holds").await;
        let lock = locked(&fixture).await;
        assert!(is_held(&backend.ask(hold(first.as_str(), "2")).await));
        write_begins(&mut backend, &fixture).await;
        let held = backend.ask(hold(next.as_str(), "3")).await;
        let charged = backend.ask(call_capture(first.as_str(), "2")).await;
        assert_eq!(count(&fixture, "holds").await, before, "the write has not ended");
        unlock(lock).await;
        is_held(&held) && matches!(charged, Outcome::Captured { late: false, .. })
    })
    .await;
    adds_up(&mut backend).await;
    assert!(backend.close().await);
}

/// Otherwise a slow disk would let changes grow without a limit, and a crash would lose all of them.
async fn a_second_write_waits_for_the_first_and_so_do_calls(fixture: TestLedger) {
    let mut backend = ready(&fixture).await;
    eventually("a second write waits", async || {
        serves(&mut backend).await;
        let [first, next] = [(); 2].map(|()| HoldId::for_call());
        let lock = locked(&fixture).await;
        backend.ask(hold(first.as_str(), "2")).await;
        write_begins(&mut backend, &fixture).await;
        backend.ask(hold(next.as_str(), "3")).await;
        tokio::time::sleep(backend.tick_after()).await;
        let mut tick = pin!(backend.tick(&|_| true));
        let ended = tokio::time::timeout(Duration::from_millis(100), tick.as_mut()).await.is_ok();
        unlock(lock).await;
        if !ended {
            tick.await;
        }
        !ended
    })
    .await;
    adds_up(&mut backend).await;
    assert!(backend.close().await);
}

async fn what_is_decided_while_a_write_fails_is_written_after_it(fixture: TestLedger) {
    let mut backend = ready(&fixture).await;
    let lock = locked(&fixture).await;
    for operation in [hold("a", "10"), hold("b", "20"), hold("c", "30"), call_capture("a", "1")] {
        backend.ask(operation).await;
    }
    write_begins(&mut backend, &fixture).await;
    // One batch each: an operation that names a hold of its own batch would be looked up in the file.
    for operation in [
        call_capture("b", "2"),
        call_release("c"),
        hold("d", "40"),
        extend("d", "50"),
        hold("e", "60"),
        call_capture("e", "4"),
    ] {
        let outcome = backend.ask(operation).await;
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
    let granted = until_holds_are_refused(&mut backend).await;
    // The end of a call counts even now.
    let charged = backend.ask(call_capture("d", "3")).await;
    assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    assert_eq!((count(&fixture, "entries").await, count(&fixture, "holds").await), (1, 0));

    unlock(lock).await;
    serves(&mut backend).await;
    adds_up(&mut backend).await;
    assert_eq!(has(&mut backend).await, ("990".to_owned(), granted.to_string()));
    let mut entries = backend.reader().await.entries(&account("alice"), None, 100).await.unwrap();
    entries.reverse();
    let entries: Vec<_> = entries.iter().map(|entry| entry.operation.as_str()).collect();
    assert_eq!(entries, ["grant:g", "capture:a", "capture:b", "capture:e", "capture:d"]);
    // A crash: all of this is on disk.
    drop(backend);
    let mut backend = fixture.backend().await;
    assert_eq!(has(&mut backend).await, ("990".to_owned(), "0".to_owned()));
    adds_up(&mut backend).await;
    assert!(backend.close().await);
}

/// The file says that a write failed, and cannot be read. Later the ledger goes by the file's content.
async fn a_write_in_doubt_is_settled_by_the_file_and_loses_nothing_that_came_after_it(
    fixture: TestLedger,
) {
    for landed in [true, false] {
        let fixture = TestLedger::new(fixture.kind);
        let mut backend = ready(&fixture).await;
        backend.apply(&[hold("job", "5"), hold("next", "6")]).await;
        assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
        let mut lock = locked(&fixture).await;
        backend.ask(call_capture("job", "4")).await;
        write_begins(&mut backend, &fixture).await;
        let charged = backend.ask(call_capture("next", "2")).await;
        assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
        let away = fixture.dir().with_file_name("away");
        std::fs::rename(fixture.dir(), &away).unwrap();
        let granted = until_holds_are_refused(&mut backend).await;
        assert_eq!(backend.ask(call_release("other")).await, unavailable(), "it is in doubt");

        lock.execute(if landed { LANDS } else { "ROLLBACK" }).await.unwrap();
        std::fs::rename(&away, fixture.dir()).unwrap();
        serves(&mut backend).await;
        assert_eq!(has(&mut backend).await, ("994".to_owned(), granted.to_string()));
        let again = backend.ask(call_capture("job", "4")).await;
        assert!(matches!(again, Outcome::Captured { late: false, .. }), "{again:?}");
        adds_up(&mut backend).await;
        assert_eq!(count(&fixture, "entries").await, 3, "landed: {landed}");
        drop(backend);
        let mut backend = fixture.backend().await;
        assert_eq!(has(&mut backend).await, ("994".to_owned(), "0".to_owned()));
        adds_up(&mut backend).await;
        assert!(backend.close().await);
    }
}

/// What the failed write of the capture of `job` would have written.
const LANDS: &str = "INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, \
     created_at) VALUES ('alice', 2, 'capture:job', 'capture', -4000000, 996000000, '/jobs', 1); \
     UPDATE accounts SET balance = 996000000, seq = 2 WHERE id = 'alice'; \
     UPDATE ledger SET commits = commits + 1; \
     COMMIT";

/// The file then has the claim as it was when the write began: running. A retry that went by the file would be a call
/// of its own, and charged again.
async fn a_claim_that_is_charged_while_its_hold_is_written_stays_charged(fixture: TestLedger) {
    let mut backend = ready(&fixture).await;
    let id = HoldId::for_call();
    let lock = locked(&fixture).await;
    assert!(is_held(&backend.ask(hold_with(&id, key(1))).await));
    write_begins(&mut backend, &fixture).await;
    backend.ask(capture_of(&id, Some(claim_id(1)))).await;
    unlock(lock).await;
    eventually("the hold is written", async || count(&fixture, "claims").await == 1).await;
    for _ in 0..2 {
        // The ledger takes the result of the write here.
        backend.ask(Operation::Balance { account: account("alice") }).await;
        let retry = backend.ask(hold_with(&HoldId::for_call(), key(1))).await;
        let charged = Claimed { hold: id.clone(), state: ClaimState::Charged };
        assert_eq!(retry, Outcome::Claimed(charged));
        adds_up(&mut backend).await;
    }
    assert!(backend.close().await);
}

async fn a_hold_that_ends_while_it_is_written_leaves_no_row(fixture: TestLedger) {
    let mut backend = ready(&fixture).await;
    let lock = locked(&fixture).await;
    backend.apply(&[hold("a", "1"), hold("b", "2"), hold("c", "3")]).await;
    write_begins(&mut backend, &fixture).await;
    backend.apply(&[call_capture("a", "1"), call_release("b"), extend("c", "4")]).await;
    unlock(lock).await;
    adds_up(&mut backend).await;
    assert_eq!(count(&fixture, "holds").await, 1);
    backend.ask(call_capture("c", "4")).await;
    adds_up(&mut backend).await;
    assert_eq!((count(&fixture, "holds").await, count(&fixture, "call_holds").await), (0, 0));
    assert!(backend.close().await);
}

/// Otherwise the write would change a file that another ledger has read already.
async fn a_ledger_that_is_dropped_stays_locked_until_its_write_has_ended(fixture: TestLedger) {
    let mut backend = ready(&fixture).await;
    let lock = locked(&fixture).await;
    backend.apply(&[hold("a", "10"), call_capture("a", "1")]).await;
    write_begins(&mut backend, &fixture).await;
    drop(backend);
    let locked_out = fixture.embedded().await;
    assert!(matches!(locked_out, Err(LedgerError::Locked { .. })), "{locked_out:?}");
    unlock(lock).await;
    let mut opened = None;
    eventually("the ledger opens again", async || {
        opened = fixture.embedded().await.ok();
        opened.is_some()
    })
    .await;
    let mut backend = AnyBackend::Embedded(Box::new(opened.unwrap()));
    assert_eq!(has(&mut backend).await, ("999".to_owned(), "0".to_owned()));
    adds_up(&mut backend).await;
    assert!(backend.close().await);
}
