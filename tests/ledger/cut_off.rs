//! Calls that a crash or a stop cut off, and what a gateway that was only paused says of them later.

use farebox::ledger::{
    AfterCrash, Backend as _, CrashOutcome, CrashedCall, EntryKind, Operation, Origin, Outcome,
    Reader, Refusal,
};
use sqlx::Executor as _;

use crate::test_ledger::{
    HOUR_MS, TestLedger, account, api_capture, api_hold, call_capture, call_release, conflict,
    credits, eventually, grant, hold_id, hold_of, on_embedded_ledgers, text,
};

on_embedded_ledgers!("current_thread":
    a_start_ends_what_a_crash_left_once_as_the_config_says,
    a_start_writes_the_batches_that_a_crash_left_in_the_log_once,
    a_stop_charges_the_calls_that_it_cuts_off_where_the_config_says_so,
    a_call_that_is_settled_after_its_crash_capture_gets_the_difference_once,
    the_list_is_bounded_and_paged,
    a_ledger_of_the_version_before_is_brought_up_with_its_holds,
    a_clock_that_was_set_back_gives_an_api_hold_no_more_life,
);

/// The whole list, a call at a time: request id, amount, outcome.
pub async fn listed(reader: &dyn Reader) -> Vec<(String, String, CrashOutcome)> {
    let mut all: Vec<CrashedCall> = Vec::new();
    loop {
        let last = all.last().map(|call| (call.at_ms, call.id.clone()));
        let before = last.as_ref().map(|(at_ms, id)| (*at_ms, id));
        let mut page = reader.crashed(before, 1).await.unwrap();
        let Some(call) = page.pop() else { break };
        assert_eq!(call.account, account("alice"));
        all.push(call);
    }
    assert!(all.is_sorted_by_key(|call| std::cmp::Reverse(call.at_ms)));
    let line = |call: CrashedCall| (call.id.to_string(), call.amount.to_string(), call.outcome);
    all.into_iter().map(line).collect()
}

async fn a_start_ends_what_a_crash_left_once_as_the_config_says(fixture: TestLedger) {
    for after_crash in [AfterCrash::Release, AfterCrash::Charge] {
        let crashed = fixture.crashed();
        let ledger = crashed.open_after(after_crash).await;
        ledger.post(grant("initial", "alice", "20")).await.unwrap();
        let mut calls = Vec::new();
        for amount in ["4", "3"] {
            calls.push(ledger.call(amount).await.unwrap());
        }
        ledger.ask(api_hold("job", "2")).await;
        ledger.reconciles().await; // In `relaxed` this also waits for the disk.
        let crashed = crashed.crashed();
        let (balance, outcome) = match after_crash {
            AfterCrash::Release => ("20", CrashOutcome::Released),
            AfterCrash::Charge => ("13", CrashOutcome::Charged),
        };
        for _ in 0..2 {
            let after = crashed.open_after(after_crash).await;
            assert_eq!(after.has("alice").await, text((balance, "2")), "the API's hold stays");
            let mut listed = listed(after.read()).await;
            listed.sort_by(|a, b| b.1.cmp(&a.1));
            let told = listed.iter().map(|(_, amount, became)| (&**amount, *became));
            assert_eq!(told.collect::<Vec<_>>(), [("4", outcome), ("3", outcome)]);
            let entries = after.entries("alice").await;
            let charges = entries.iter().filter(|entry| entry.kind == EntryKind::Capture);
            let charges: Vec<_> = charges.map(|entry| entry.reason.as_deref()).collect();
            let expected = if outcome == CrashOutcome::Charged { 2 } else { 0 };
            assert_eq!(charges, vec![Some("crash"); expected]);
            after.reconciles().await;
            after.stop().await;
        }
        drop(calls);
        ledger.stop().await;
    }
}

/// In `strict` a batch of calls is first written as one row of the log. The copies show the moments before the calls'
/// own rows are written.
async fn a_start_writes_the_batches_that_a_crash_left_in_the_log_once(fixture: TestLedger) {
    if !fixture.kind.is_strict() {
        return;
    }
    let ledger = fixture.open_after(AfterCrash::Charge).await;
    ledger.post(grant("initial", "alice", "100")).await.unwrap();
    for round in 0.. {
        assert!(round < 200, "no copy had both calls in its log");
        let balance = ledger.has("alice").await.0;
        let (charged, freed) = (ledger.call("3").await.unwrap(), ledger.call("4").await.unwrap());
        charged.capture(credits("2"));
        freed.release();
        let live = ledger.call("1").await.unwrap();
        let copy = fixture.crashed();
        let logged = copy.logged_holds().await;
        live.release();
        if logged < 3 {
            eventually("all holds have ended", async || ledger.has("alice").await.1 == "0").await;
            continue;
        }
        let balance = (credits(&balance).micros() - credits("3").micros()) as i64;
        for _ in 0..2 {
            let after = copy.open_after(AfterCrash::Charge).await;
            let (now, held) = after.has("alice").await;
            assert_eq!((credits(&now).micros() as i64, &*held), (balance, "0"));
            assert_eq!(listed(after.read()).await.len(), 1, "the call that lived is charged");
            after.reconciles().await;
            after.stop().await;
        }
        break;
    }
    ledger.stop().await;
}

async fn a_stop_charges_the_calls_that_it_cuts_off_where_the_config_says_so(fixture: TestLedger) {
    let ledger = fixture.open_after(AfterCrash::Charge).await;
    ledger.post(grant("initial", "alice", "20")).await.unwrap();
    let (cut, freed) = (ledger.call("4").await.unwrap(), ledger.call("3").await.unwrap());
    ledger.cut_calls_off();
    freed.release();
    drop(cut);
    ledger.reconciles().await;
    assert_eq!(ledger.has("alice").await, text(("16", "0")));
    let listed = listed(ledger.read()).await;
    assert_eq!((&*listed[0].1, listed[0].2, listed.len()), ("4", CrashOutcome::Charged, 1));
    let id = hold_id(&listed[0].0);
    for new in [true, false] {
        let refund = Operation::Refund { hold: id.clone(), reason: None };
        let given = ledger.ask(refund).await;
        assert!(matches!(given, Outcome::Posted { new: now, .. } if now == new), "{given:?}");
    }
    assert_eq!(ledger.has("alice").await, text(("20", "0")));
    ledger.stop().await;
}

fn abandon(id: &str, amount: &str) -> Operation {
    Operation::Abandon {
        hold: hold_id(id),
        account: account("alice"),
        amount: credits(amount),
        route: "/x".into(),
        after: AfterCrash::Charge,
        claim: None,
    }
}

/// A gateway that was only paused says later what the call cost: less than was charged, all of it, or nothing.
async fn a_call_that_is_settled_after_its_crash_capture_gets_the_difference_once(
    fixture: TestLedger,
) {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "100"))).await;
    let has = async |backend: &mut crate::test_ledger::AnyBackend| {
        let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
        let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
        balance.available().to_string()
    };
    for (id, end, left) in [
        ("less", call_capture("less", "4"), "96"),
        ("all", call_capture("all", "10"), "86"),
        ("none", call_release("none"), "86"),
    ] {
        backend.ask(hold_of(Origin::Call, id, "10", HOUR_MS)).await;
        let charged = backend.ask(abandon(id, "10")).await;
        assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
        // The answer was lost, and it is asked again.
        let before = has(&mut backend).await;
        assert_eq!(backend.ask(abandon(id, "10")).await, charged);
        assert_eq!(has(&mut backend).await, before, "{id}");
        for _ in 0..2 {
            let outcome = backend.ask(end.clone()).await;
            let is_done = matches!(
                (&end, &outcome),
                (Operation::Capture { .. }, Outcome::Captured { end: None, .. })
                    | (Operation::Release { .. }, Outcome::Released { end: None, .. })
            );
            assert!(is_done, "{id}: {outcome:?}");
            assert_eq!(has(&mut backend).await, left, "{id}");
        }
    }
    // An API caller cannot correct the charge, no capture exceeds the hold, and a second correction with another
    // amount is refused.
    for (other, refusal) in [
        (api_capture("all", "4"), conflict()),
        (call_capture("all", "11"), Outcome::Refused(Refusal::AboveHold { held: credits("10") })),
        (call_capture("less", "3"), conflict()),
        (call_release("less"), conflict()),
    ] {
        assert_eq!(backend.ask(other.clone()).await, refusal, "{other:?}");
        assert_eq!(has(&mut backend).await, "86", "{other:?}");
    }
    // A refund gives back what is left; and what an operator has given back is not given twice.
    let refund = |id: &str| Operation::Refund { hold: hold_id(id), reason: None };
    backend.ask(refund("less")).await;
    assert_eq!(has(&mut backend).await, "90");
    backend.ask(hold_of(Origin::Call, "refunded", "10", HOUR_MS)).await;
    backend.ask(abandon("refunded", "10")).await;
    backend.ask(refund("refunded")).await;
    backend.ask(call_capture("refunded", "4")).await;
    assert_eq!(has(&mut backend).await, "90");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    let reader = backend.reader().await;
    assert!(reader.reconcile().await.unwrap().is_clean());
    let mut listed = listed(&*reader).await;
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    let listed: Vec<_> = listed.iter().map(|(id, amount, o)| (&**id, &**amount, *o)).collect();
    let corrected = CrashOutcome::Corrected;
    let expected = [("all", "10"), ("less", "4"), ("none", "0"), ("refunded", "4")];
    assert_eq!(listed, expected.map(|(id, amount)| (id, amount, corrected)));
    let entries = reader.entries(&account("alice"), None, 100).await.unwrap();
    let posted = entries.iter().filter(|entry| entry.operation.as_str().ends_with("/corrected"));
    let mut posted: Vec<_> =
        posted.map(|entry| (entry.operation.hold().unwrap(), entry.amount.to_string())).collect();
    posted.sort();
    assert_eq!(posted, [("less", "6".to_owned()), ("none", "10".to_owned())]);
    assert!(backend.close().await);
}

async fn the_list_is_bounded_and_paged(fixture: TestLedger) {
    const CALLS: usize = 30;
    let ledger = fixture.open_with("100").await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(ledger.call("1").await.unwrap());
    }
    ledger.cut_calls_off();
    drop(calls);
    ledger.reconciles().await;
    assert_eq!(listed(ledger.read()).await.len(), CALLS);
    ledger.stop().await;
    // One of these rows is a day younger than the age at which rows are deleted. All others are
    // older.
    let mut sql = fixture.sql().await;
    for (days, which) in [(31, "<>"), (29, "=")] {
        let aged = format!(
            "UPDATE crashed SET at = at - {days} * 86400000 WHERE id {which} (SELECT min(id) FROM crashed)"
        );
        sql.execute(sqlx::AssertSqlSafe(aged)).await.unwrap();
    }
    drop(sql);
    let ledger = fixture.open().await;
    eventually("the old ones are forgotten", async || listed(ledger.read()).await.len() == 1).await;
    ledger.stop().await;
}

async fn a_ledger_of_the_version_before_is_brought_up_with_its_holds(fixture: TestLedger) {
    let ledger = fixture.open_with("20").await;
    let call = ledger.call("4").await.unwrap();
    ledger.ask(api_hold("job", "3")).await;
    ledger.reconciles().await;
    let crashed = fixture.crashed();
    let mut sql = crashed.sql().await;
    for undo in [
        "DROP TABLE crashed",
        "ALTER TABLE api_holds DROP COLUMN ttl_ms",
        "DELETE FROM _sqlx_migrations WHERE version = 4",
    ] {
        sql.execute(undo).await.unwrap();
    }
    drop(sql);
    let after = crashed.open_after(AfterCrash::Charge).await;
    assert_eq!(after.has("alice").await, text(("16", "3")));
    let listed = listed(after.read()).await;
    assert_eq!((&*listed[0].1, listed[0].2, listed.len()), ("4", CrashOutcome::Charged, 1));
    after.ask(api_capture("job", "3")).await;
    assert_eq!(after.has("alice").await, text(("13", "0")));
    after.reconciles().await;
    after.stop().await;
    drop(call);
    ledger.stop().await;
}

/// The end of the hold's time lies a year ahead, which is what a ledger sees whose clock was set back by a year before
/// it started.
async fn a_clock_that_was_set_back_gives_an_api_hold_no_more_life(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(hold_of(Origin::Api, "short", "2", 1500)).await;
    ledger.ask(hold_of(Origin::Api, "renewed", "3", 10)).await;
    let renewed = Operation::Renew { hold: hold_id("renewed"), ttl_ms: HOUR_MS };
    assert_eq!(ledger.ask(renewed).await, Outcome::Renewed);
    ledger.stop().await;
    let later = "UPDATE api_holds SET expires_at = expires_at + 366 * 86400000";
    fixture.execute(later).await.unwrap();
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("10", "5")));
    eventually("the short one expired", async || ledger.has("alice").await.1 == "3").await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("10", "3")), "an hour is not over");
    ledger.stop().await;
}
