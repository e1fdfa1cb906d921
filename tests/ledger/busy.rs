//! Much at once on one account: everything is decided, as on a quiet ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farebox::ledger::{Ledger, Operation, Outcome};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::payments::{nth, paid, take};
use crate::rare::EVERY;
use crate::test_ledger::{
    TestLedger, account, api_capture, api_hold, credits, grant, hold_id, on_cluster_ledgers,
};

on_cluster_ledgers!("multi_thread":
    what_needs_the_row_of_a_busy_account_is_decided,
    what_needs_the_tables_of_postgres_takes_milliseconds,
    a_postgres_that_writes_slowly_refuses_nothing_that_waits_for_its_tables,
);

/// How many callers of one account each gateway has.
const CALLERS: usize = 24;

/// How often everything that needs the account's row is asked for.
const ROUNDS: usize = 25;

/// Calls of alice, one after the other, until `is_over`. Returns how many.
async fn calls(ledger: Ledger, is_over: Arc<AtomicBool>) -> usize {
    let mut calls = 0;
    while !is_over.load(Ordering::Relaxed) {
        let id = farebox::ledger::CallId::new();
        let hold = ledger.hold(id, account("alice"), credits("0.001"), "/x".into());
        hold.await.unwrap().capture(credits("0.001"));
        calls += 1;
        tokio::time::sleep(EVERY * 2).await;
    }
    calls
}

/// Asks for everything that needs alice's row, all at once. Returns the longest wait.
async fn needs_the_row(ledger: &Ledger, n: usize) -> Duration {
    let (began, job) = (Instant::now(), format!("job-{n}"));
    let ends_job = async {
        let held = ledger.ask(api_hold(&job, "3")).await;
        assert!(matches!(held, Outcome::Held { .. }), "{held:?}");
        let captured = ledger.ask(api_capture(&job, "3")).await;
        assert!(matches!(captured, Outcome::Captured { .. }), "{captured:?}");
        let refund = Operation::Refund { hold: hold_id(&job), reason: None };
        let refunded = ledger.ask(refund).await;
        assert!(matches!(refunded, Outcome::Posted { new: true, .. }), "{refunded:?}");
    };
    let grants = ledger.post(grant(&format!("more-{n}"), "alice", "1"));
    let buys = take(ledger, nth(n, &paid()));
    let ((), granted, bought) = tokio::join!(ends_job, grants, buys);
    granted.unwrap();
    bought.unwrap();
    began.elapsed()
}

async fn what_needs_the_row_of_a_busy_account_is_decided(fixture: TestLedger) {
    let ledger = fixture.open_with("1000000").await;
    let other = fixture.open_another("other").await;
    let is_over = Arc::<AtomicBool>::default();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(calls(Ledger::clone(&ledger), is_over.clone()));
        callers.spawn(calls(Ledger::clone(&other), is_over.clone()));
    }
    let mut waits = Vec::new();
    for n in 0..ROUNDS {
        let (one, two) =
            tokio::join!(needs_the_row(&ledger, 2 * n), needs_the_row(&other, 2 * n + 1));
        waits.extend([one, two]);
    }
    is_over.store(true, Ordering::Relaxed);
    let calls: usize = callers.join_all().await.into_iter().sum();
    waits.sort();
    println!("{calls} calls; {:?}, at worst {:?}", waits[waits.len() / 2], waits[waits.len() - 1]);
    other.stop().await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Each write of the syncer takes longer than an operation waits for it at first. Operations that stop waiting must not
/// stop the write.
async fn a_postgres_that_writes_slowly_refuses_nothing_that_waits_for_its_tables(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("1000000").await;
    let mut sql = fixture.cluster().sql().await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                PERFORM pg_sleep(0.6); RETURN NEW; END $$; \
                CREATE TRIGGER slow BEFORE UPDATE ON shards FOR EACH ROW \
                WHEN (OLD.checkpoint IS DISTINCT FROM NEW.checkpoint) EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&mut sql).await.unwrap();
    let is_over = Arc::<AtomicBool>::default();
    let callers = tokio::spawn(calls(Ledger::clone(&ledger), is_over.clone()));
    for n in 0..3 {
        let job = format!("job-{n}");
        let held = ledger.ask(api_hold(&job, "3")).await;
        assert!(matches!(held, Outcome::Held { .. }), "hold {n}: {held:?}");
        let captured = ledger.ask(api_capture(&job, "3")).await;
        assert!(matches!(captured, Outcome::Captured { .. }), "capture {n}: {captured:?}");
        ledger.post(grant(&format!("more-{n}"), "alice", "1")).await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(callers.await.unwrap() > 0);
    sqlx::raw_sql("DROP TRIGGER slow ON shards").execute(&mut sql).await.unwrap();
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The tables lag behind, and the syncer brings them up to date in one short write. The shortest wait of many is told,
/// so that other work on the machine does not count.
async fn what_needs_the_tables_of_postgres_takes_milliseconds(fixture: TestLedger) {
    let ledger = fixture.open_with("1000000").await;
    let other = fixture.open_another("other").await;
    let is_over = Arc::<AtomicBool>::default();
    let mut callers = JoinSet::new();
    for ledger in [&ledger, &other] {
        callers.spawn(calls(Ledger::clone(ledger), is_over.clone()));
    }
    let mut shortest = [Duration::MAX; 2];
    for n in 0..20 {
        for (which, ledger) in [&ledger, &other].into_iter().enumerate() {
            let began = Instant::now();
            let held = ledger.ask(api_hold(&format!("job-{n}-{which}"), "3")).await;
            assert!(matches!(held, Outcome::Held { .. }), "{held:?}");
            shortest[which] = shortest[which].min(began.elapsed());
        }
    }
    is_over.store(true, Ordering::Relaxed);
    callers.join_all().await;
    // An end that waits for the delayed acknowledgement of what was sent before it waits for 40 ms.
    let limit = Duration::from_millis(80);
    assert!(shortest.iter().all(|wait| *wait < limit), "{shortest:?}");
    other.stop().await;
    ledger.stop().await;
}
