//! What every ledger promises, a test a promise (LEDGER.md, section 1).

use std::pin::pin;

use farebox::credits::{Credits, SignedCredits};
use farebox::ledger::{
    Backend as _, EntryKind, HoldId, KeyHash, KeyRecord, LedgerError, NewHold, Operation,
    OperationId, Origin, Outcome, Refusal, backup,
};
use sqlx::Executor as _;

use crate::house::{
    HOUR_MS, House, Running, account, api_capture, api_hold, api_release, call_capture,
    call_release, credits, eventually, grant, hold_id, hold_of, on_every_ledger, poll_once,
    posting,
};

on_every_ledger!("current_thread":
    a_call_is_held_and_charged_and_a_restart_changes_nothing,
    available_never_falls_below_zero_through_a_hold,
    a_debt_refuses_holds_until_it_is_paid,
    the_database_itself_refuses_to_change_an_entry,
    an_id_takes_effect_once_however_late,
    an_id_with_other_parameters_is_a_conflict,
    an_id_takes_effect_once_in_one_batch,
    a_hold_ends_once,
    a_capture_is_at_most_its_hold,
    a_capture_of_nothing_is_a_release,
    a_late_capture_is_recorded_once_and_may_make_a_debt,
    a_release_before_its_hold_leaves_a_tombstone,
    an_api_hold_is_never_taken_for_a_calls,
    a_capture_is_refunded_once,
    keys_are_stored_once_and_revoked_at_once,
    the_signup_grant_is_given_once,
    a_refused_operation_changes_nothing,
    a_dropped_hold_future_leaves_no_hold,
    a_dropped_guard_releases,
    a_panicking_call_releases,
    a_crash_ends_the_holds_of_calls_and_not_those_of_the_api,
    an_api_hold_expires_when_its_time_is_up,
    an_api_hold_is_on_disk_when_it_is_acknowledged,
    a_live_calls_hold_never_expires,
    a_hold_never_expires_while_its_capture_waits_in_the_queue,
    the_hold_of_a_leaked_call_expires,
    folding_keeps_balances_ids_and_refunds,
    folding_keeps_what_is_newer,
    reconcile_finds_what_is_wrong,
    a_backup_of_a_live_ledger_opens_and_reconciles,
    the_lock_refuses_a_second_opener,
    the_lock_refuses_a_second_opener_by_another_name,
    any_text_survives_the_disk,
    a_stop_writes_what_was_asked_and_takes_nothing_more,
);

fn text(pair: (&str, &str)) -> (String, String) {
    (pair.0.into(), pair.1.into())
}

fn conflict() -> Outcome {
    Outcome::Refused(Refusal::Conflict)
}

fn ended() -> Outcome {
    Outcome::Refused(Refusal::Ended)
}

async fn a_call_is_held_and_charged_and_a_restart_changes_nothing(house: House) {
    let ledger = house.open_with("10").await;
    let first = ledger.call("5").await.unwrap();
    let second = ledger.call("5").await.unwrap();
    assert_eq!(second.after().available(), SignedCredits::ZERO);
    assert_eq!(ledger.has("alice").await, text(("10", "10")));
    first.capture(credits("4"));
    second.release();
    assert_eq!(ledger.has("alice").await, text(("6", "0")));
    ledger.stop().await;

    let ledger = house.open().await;
    assert_eq!(ledger.has("alice").await, text(("6", "0")));
    let entries = ledger.entries("alice").await;
    let lines: Vec<_> = entries.iter().map(|e| (e.seq, e.kind, e.amount.to_string())).collect();
    assert_eq!(
        lines,
        [(1, EntryKind::Grant, "10".to_owned()), (2, EntryKind::Capture, "-4".to_owned())]
    );
    assert_eq!(entries[1].balance_after.to_string(), "6");
    assert_eq!(entries[1].route.as_deref(), Some("/x"));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn available_never_falls_below_zero_through_a_hold(house: House) {
    let ledger = house.open_with("10").await;
    let held = ledger.call("9.999999").await.unwrap();
    let too_much = ledger.call("0.000002").await.unwrap_err();
    assert_eq!(too_much, Refusal::Insufficient { available: credits("0.000001").signed() });
    let last = ledger.call("0.000001").await.unwrap();
    let nothing_left = Refusal::Insufficient { available: SignedCredits::ZERO };
    assert_eq!(ledger.call("0.000001").await.unwrap_err(), nothing_left);
    let stranger = ledger.hold(HoldId::for_call(), account("eve"), credits("1"), "/x".into());
    assert_eq!(stranger.await.unwrap_err(), nothing_left);
    drop((held, last));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_debt_refuses_holds_until_it_is_paid(house: House) {
    let ledger = house.open_with("10").await;
    let clawback = posting(EntryKind::Clawback, "refund-1", "alice", "-12");
    let (entry, new) = ledger.post(clawback).await.unwrap();
    assert_eq!((entry.balance_after.to_string(), new), ("-2".to_owned(), true));
    let debt = Refusal::Insufficient { available: "-2".parse().unwrap() };
    assert_eq!(ledger.call("0.000001").await.unwrap_err(), debt);
    ledger.post(grant("pays", "alice", "2")).await.unwrap();
    let even = Refusal::Insufficient { available: SignedCredits::ZERO };
    assert_eq!(ledger.call("0.000001").await.unwrap_err(), even);
    ledger.post(grant("more", "alice", "1")).await.unwrap();
    ledger.call("1").await.unwrap().capture(credits("1"));
    assert_eq!(ledger.has("alice").await, text(("0", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn the_database_itself_refuses_to_change_an_entry(house: House) {
    let ledger = house.open_with("10").await;
    let mut sql = house.sql().await;
    for change in [
        "UPDATE entries SET amount = 1",
        "UPDATE entries SET balance_after = 1 WHERE seq = 1",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE account = 'alice'",
    ] {
        let refused = sql.execute(change).await.map(drop);
        let error = refused.expect_err(change).to_string();
        assert!(error.contains("immutable"), "{change}: {error}");
    }
    assert_eq!(ledger.entries("alice").await.len(), 1);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Operations by an id, each asked once, all with an effect; 7 credits are left.
fn by_id() -> Vec<Operation> {
    vec![
        Operation::Post(grant("g", "alice", "10")),
        Operation::Post(posting(EntryKind::Adjustment, "g", "alice", "-1")),
        api_hold("job", "3"),
        api_capture("job", "2"),
        Operation::Refund { hold: hold_id("job"), reason: None },
        api_hold("job-2", "2"),
        api_capture("job-2", "2"),
        api_hold("job-3", "1"),
        api_release("job-3"),
    ]
}

/// Asks them all again: nothing may move.
async fn ask_again(ledger: &Running, when: &str) {
    let before = ledger.has("alice").await;
    for operation in by_id() {
        let again = ledger.ask(operation.clone()).await;
        let as_it_should = match &operation {
            // The hold has ended, so its id cannot be used for a hold.
            Operation::Hold(_) => again == ended(),
            Operation::Capture { .. } => matches!(again, Outcome::Captured { .. }),
            Operation::Release { .. } => matches!(again, Outcome::Released { .. }),
            _ => matches!(again, Outcome::Posted { new: false, .. }),
        };
        assert!(as_it_should, "{when}: {operation:?} got {again:?}");
        assert_eq!(ledger.has("alice").await, before, "{when}: {operation:?}");
    }
    ledger.reconciles().await;
}

async fn an_id_takes_effect_once_however_late(house: House) {
    let ledger = house.open().await;
    for operation in by_id() {
        let outcome = ledger.ask(operation.clone()).await;
        assert!(!matches!(outcome, Outcome::Refused(_)), "{operation:?}: {outcome:?}");
    }
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ask_again(&ledger, "at once").await;
    ledger.stop().await;

    let ledger = house.open().await;
    ask_again(&ledger, "after a restart").await;
    assert!(ledger.fold(i64::MAX).await.unwrap().entries > 0);
    ask_again(&ledger, "after folding").await;
    ledger.stop().await;

    let ledger = house.open().await;
    ask_again(&ledger, "after folding and a restart").await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.stop().await;
}

async fn an_id_with_other_parameters_is_a_conflict(house: House) {
    let ledger = house.open().await;
    ledger.ask(Operation::Open { account: account("bob"), signup: Credits::ZERO }).await;
    for operation in by_id() {
        ledger.ask(operation).await;
    }
    ledger.ask(api_hold("live", "1")).await;
    for when in ["at once", "after folding"] {
        let before = ledger.has("alice").await;
        for other in [
            Operation::Post(grant("g", "alice", "11")),
            Operation::Post(grant("g", "alice", "-10")),
            Operation::Post(grant("g", "bob", "10")),
            api_capture("job", "1"),
            api_capture("job-2", "1.999999"),
            api_hold("live", "0.5"),
        ] {
            assert_eq!(ledger.ask(other.clone()).await, conflict(), "{when}: {other:?}");
        }
        assert_eq!(ledger.has("alice").await, before);
        assert_eq!(ledger.has("bob").await, text(("0", "0")));
        ledger.fold(i64::MAX).await.unwrap();
    }
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn an_id_takes_effect_once_in_one_batch(house: House) {
    let mut backend = house.backend().await;
    let doubled: Vec<_> = by_id().into_iter().flat_map(|o| [o.clone(), o]).collect();
    for pair in backend.apply(&doubled).await.chunks(2) {
        match pair {
            [Outcome::Posted { new: true, entry }, Outcome::Posted { new: false, entry: same }] => {
                assert_eq!(entry, same);
            }
            [first, second] => assert_eq!(first, second),
            _ => unreachable!("they come in pairs"),
        }
    }
    let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
    let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
    assert_eq!((balance.balance.to_string().as_str(), balance.held), ("7", Credits::ZERO));
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.reader().await.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
}

async fn a_hold_ends_once(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("charged", "4")).await;
    ledger.ask(api_hold("given-back", "4")).await;
    let charged = ledger.ask(api_capture("charged", "3")).await;
    assert_eq!(ledger.ask(api_capture("charged", "3")).await, {
        let Outcome::Captured { after, late: false } = charged else { panic!("{charged:?}") };
        Outcome::Captured { after, late: false }
    });
    assert_eq!(ledger.ask(api_capture("charged", "2")).await, conflict());
    assert_eq!(ledger.ask(api_release("charged")).await, ended());
    let released = ledger.ask(api_release("given-back")).await;
    assert!(matches!(released, Outcome::Released { .. }), "{released:?}");
    assert_eq!(ledger.ask(api_release("given-back")).await, released);
    assert_eq!(ledger.ask(api_capture("given-back", "1")).await, ended());
    assert_eq!(ledger.ask(api_hold("charged", "4")).await, ended());
    assert_eq!(ledger.ask(api_hold("given-back", "4")).await, ended());
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    assert_eq!(ledger.entries("alice").await.len(), 2);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_capture_is_at_most_its_hold(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("job", "4")).await;
    let above = ledger.ask(api_capture("job", "4.000001")).await;
    assert_eq!(above, Outcome::Refused(Refusal::AboveHold { held: credits("4") }));
    assert_eq!(ledger.has("alice").await, text(("10", "4")));
    // A guard cannot charge more than it holds.
    ledger.call("1").await.unwrap().capture(credits("5"));
    assert_eq!(ledger.has("alice").await, text(("9", "4")));
    assert!(matches!(ledger.ask(api_capture("job", "4")).await, Outcome::Captured { .. }));
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_capture_of_nothing_is_a_release(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("job", "4")).await;
    assert!(matches!(ledger.ask(api_capture("job", "0")).await, Outcome::Released { .. }));
    assert_eq!(ledger.ask(api_capture("job", "1")).await, ended());
    ledger.call("1").await.unwrap().capture(Credits::ZERO);
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    assert_eq!(ledger.entries("alice").await.len(), 1);
    ledger.stop().await;
}

async fn a_late_capture_is_recorded_once_and_may_make_a_debt(house: House) {
    let mut backend = house.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "5"))).await;
    for (origin, id) in [(Origin::Api, "api"), (Origin::Call, "call")] {
        backend.ask(hold_of(origin, id, "4", 0)).await;
        let expired = backend.tick(&|_| false).await;
        assert_eq!(expired.iter().map(|e| e.hold.as_str()).collect::<Vec<_>>(), [id]);
        assert!(backend.tick(&|_| false).await.is_empty(), "it expires once");
        let capture =
            if origin == Origin::Api { api_capture(id, "4") } else { call_capture(id, "4") };
        let above =
            if origin == Origin::Api { api_capture(id, "4.1") } else { call_capture(id, "4.1") };
        let refused = backend.ask(above.clone()).await;
        assert_eq!(refused, Outcome::Refused(Refusal::AboveHold { held: credits("4") }));
        // The credits went back to the account, which spends them on other work.
        backend.ask(hold_of(Origin::Api, &format!("other-{id}"), "1", HOUR_MS)).await;
        let late = backend.ask(capture.clone()).await;
        let Outcome::Captured { late: true, after } = late else { panic!("{late:?}") };
        assert_eq!(backend.ask(capture).await, Outcome::Captured { late: false, after });
        assert_eq!(backend.ask(above).await, conflict());
        if id == "api" {
            backend.ask(Operation::Post(grant("g2", "alice", "4"))).await;
        }
    }
    let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
    let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
    assert_eq!(balance.balance.to_string(), "1");
    assert_eq!(balance.available().to_string(), "-1", "what other work holds makes a debt");
    let refused = backend.ask(api_hold("next", "1")).await;
    assert_eq!(refused, Outcome::Refused(Refusal::Insufficient { available: balance.available() }));
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.reader().await.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
}

async fn a_release_before_its_hold_leaves_a_tombstone(house: House) {
    let mut backend = house.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "5"))).await;
    let together = [call_release("one"), hold_of(Origin::Call, "one", "1", HOUR_MS)];
    assert_eq!(backend.apply(&together).await[1], ended(), "in one batch");
    backend.ask(call_release("two")).await;
    let later = backend.ask(hold_of(Origin::Call, "two", "1", HOUR_MS)).await;
    assert_eq!(later, ended(), "in a later batch");
    assert_eq!(backend.ask(call_capture("two", "1")).await, ended());
    backend.ask(call_release("two")).await;
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.reader().await.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
}

async fn an_api_hold_is_never_taken_for_a_calls(house: House) {
    let ledger = house.open_with("10").await;
    let call = hold_id("0199-call");
    let guard = ledger.hold(call, account("alice"), credits("4"), "/x".into()).await.unwrap();
    // The backend that owns a service key saw the call's request id, and uses it for a job.
    assert_eq!(ledger.ask(api_hold("0199-call", "4")).await, conflict());
    let unknown = Outcome::Refused(Refusal::UnknownHold);
    assert_eq!(ledger.ask(api_capture("0199-call", "1")).await, unknown);
    assert_eq!(ledger.ask(api_release("0199-call")).await, unknown);
    guard.capture(credits("4"));
    assert_eq!(ledger.ask(api_hold("0199-call", "4")).await, ended());
    assert_eq!(ledger.has("alice").await, text(("6", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_capture_is_refunded_once(house: House) {
    let ledger = house.open_with("10").await;
    let refund = |id: &str| Operation::Refund { hold: hold_id(id), reason: Some("sorry".into()) };
    ledger.ask(api_hold("job", "4")).await;
    let unknown = Outcome::Refused(Refusal::UnknownCapture);
    assert_eq!(ledger.ask(refund("job")).await, unknown, "a hold is not a capture");
    ledger.ask(api_capture("job", "3")).await;
    assert_eq!(ledger.ask(refund("another")).await, unknown);
    let first = ledger.ask(refund("job")).await;
    let Outcome::Posted { entry, new: true } = first else { panic!("{first:?}") };
    assert_eq!((entry.kind, entry.amount.to_string().as_str()), (EntryKind::Refund, "3"));
    assert_eq!(entry.route.as_deref(), Some("/jobs"));
    let other_reason = Operation::Refund { hold: hold_id("job"), reason: None };
    let again = Outcome::Posted { entry, new: false };
    assert_eq!(ledger.ask(other_reason).await, again);
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    // A refund does not open the hold again.
    assert_eq!(ledger.ask(api_hold("job", "4")).await, ended());
    ledger.reconciles().await;
    ledger.stop().await;
}

fn key(id: &str, secret: &str, who: &str) -> KeyRecord {
    KeyRecord {
        id: id.into(),
        hash: KeyHash::of(secret.as_bytes()),
        account: account(who),
        name: "of alice's \"shop\"".into(),
        service: true,
        hint: "fb_12".into(),
        created_at_ms: 1,
        revoked_at_ms: None,
    }
}

async fn keys_are_stored_once_and_revoked_at_once(house: House) {
    let ledger = house.open().await;
    let put = |keys: &[KeyRecord]| ledger.ask(Operation::PutKeys(keys.to_vec()));
    let revoke = |id: &str| ledger.ask(Operation::RevokeKey { id: id.into() });
    let (first, second) = (key("k1", "one", "alice"), key("k2", "two", "bob"));
    let both = [first.clone(), second.clone()];
    assert_eq!(put(&both).await, Outcome::KeysStored { new: 2 });
    assert_eq!(put(&both).await, Outcome::KeysStored { new: 0 });
    assert_eq!(put(&[key("k3", "one", "eve")]).await, conflict(), "another's secret");
    assert_eq!(put(&[key("k1", "three", "alice")]).await, conflict(), "another secret");
    let mixed = [key("k4", "four", "dave"), key("k5", "two", "eve")];
    assert_eq!(put(&mixed).await, conflict());
    assert_eq!(ledger.balance(&account("dave")).await, Ok(None), "all or nothing");
    assert_eq!(ledger.balance(&account("bob")).await, Ok(Some(Default::default())));
    assert_eq!(revoke("k9").await, Outcome::Refused(Refusal::UnknownKey));
    assert_eq!(revoke("k1").await, Outcome::KeyRevoked);
    let stored = ledger.read().keys(Some(&account("alice"))).await.unwrap();
    let revoked_at_ms = stored[0].revoked_at_ms;
    assert!(revoked_at_ms.is_some());
    assert_eq!(stored, [KeyRecord { revoked_at_ms, ..first.clone() }]);
    // Neither a second time, nor an import of the same key, brings it back or moves its date.
    assert_eq!(revoke("k1").await, Outcome::KeyRevoked);
    assert_eq!(put(&[first]).await, Outcome::KeysStored { new: 0 });
    ledger.stop().await;
    let ledger = house.open().await;
    let keys = ledger.read().keys(None).await.unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys.iter().find(|k| &*k.id == "k1").unwrap().revoked_at_ms, revoked_at_ms);
    assert_eq!(keys.iter().find(|k| &*k.id == "k2"), Some(&second));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn the_signup_grant_is_given_once(house: House) {
    let ledger = house.open().await;
    let alice = account("alice");
    let (first, second) =
        tokio::join!(ledger.open(&alice, credits("5")), ledger.open(&alice, credits("5")));
    assert_eq!((first, second), (Ok(()), Ok(())));
    ledger.open(&alice, credits("7")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.fold(i64::MAX).await.unwrap();
    ledger.stop().await;
    let ledger = house.open().await;
    ledger.open(&alice, credits("5")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.open(&account("bob"), Credits::ZERO).await.unwrap();
    assert_eq!(ledger.has("bob").await, text(("0", "0")));
    assert!(ledger.entries("bob").await.is_empty());
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_refused_operation_changes_nothing(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("live", "2")).await;
    ledger.ask(api_hold("spent", "2")).await;
    ledger.ask(api_capture("spent", "2")).await;
    let most = Credits::from_micros(farebox::credits::MAX_MICROS).unwrap().to_string();
    let before = snapshot(&house, &ledger).await;
    for refused in [
        api_hold("next", "6.000001"),
        api_hold("nothing", "0"),
        api_hold("live", "1"),
        api_hold("spent", "2"),
        api_capture("live", "3"),
        api_capture("nobody", "1"),
        api_release("nobody"),
        api_release("spent"),
        Operation::Renew { hold: hold_id("nobody"), ttl_ms: 1 },
        Operation::Post(grant("initial", "alice", "9")),
        Operation::Post(grant("nothing", "alice", "0")),
        Operation::Post(grant("nothing", "nobody", "0")),
        Operation::Post(grant("too-much", "alice", &most)),
        Operation::Post(grant("initial", "nobody", "10")),
        Operation::Refund { hold: hold_id("live"), reason: None },
        Operation::RevokeKey { id: "nobody".into() },
    ] {
        let outcome = ledger.ask(refused.clone()).await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{refused:?}: {outcome:?}");
        assert_eq!(snapshot(&house, &ledger).await, before, "{refused:?}");
    }
    assert_eq!(ledger.balance(&account("nobody")).await, Ok(None));
    ledger.stop().await;
}

/// Everything the ledger says it has, in memory and on disk.
async fn snapshot(house: &House, ledger: &Running) -> String {
    ledger.reconciles().await;
    let mut rows = format!("{:?}", ledger.has("alice").await);
    let mut sql = house.sql().await;
    for table in ["accounts", "entries", "holds", "ended_holds", "api_keys", "folded_operations"] {
        let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut sql).await.unwrap();
        rows.push_str(&format!(" {table}: {count}"));
    }
    rows
}

async fn a_dropped_hold_future_leaves_no_hold(house: House) {
    let ledger = house.open_with("10").await;
    let hold = || ledger.call("4");
    // Never polled; asked, and dropped at once; asked and granted, and dropped before it heard.
    drop(hold());
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    {
        let mut asked = pin!(hold());
        assert!(!poll_once(asked.as_mut()).await, "the answer takes another task");
    }
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    {
        let mut granted = pin!(hold());
        assert!(!poll_once(granted.as_mut()).await);
        assert_eq!(ledger.has("alice").await, text(("10", "4")), "granted, and not yet heard");
    }
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    {
        let mut heard = pin!(hold());
        assert!(!poll_once(heard.as_mut()).await);
        assert_eq!(ledger.has("alice").await, text(("10", "4")));
        assert!(poll_once(heard.as_mut()).await, "heard, and its guard dropped");
    }
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    // Refused, and dropped before it heard.
    {
        let mut refused = pin!(ledger.call("11"));
        assert!(!poll_once(refused.as_mut()).await);
        assert_eq!(ledger.has("alice").await, text(("10", "0")));
    }
    for deadline_us in 0..200 {
        let timed = tokio::time::timeout(std::time::Duration::from_micros(deadline_us), hold());
        if let Ok(held) = timed.await {
            drop(held.unwrap());
        }
    }
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_dropped_guard_releases(house: House) {
    let ledger = house.open_with("10").await;
    let guard = ledger.call("4").await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("10", "4")));
    drop(guard);
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_panicking_call_releases(house: House) {
    let ledger = house.open_with("10").await;
    let guard = ledger.call("4").await.unwrap();
    let call = tokio::spawn(async move {
        assert_eq!(guard.amount(), credits("5"), "this call panics, as the test wants it to");
        guard.capture(credits("4"));
    });
    assert!(call.await.unwrap_err().is_panic());
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_crash_ends_the_holds_of_calls_and_not_those_of_the_api(house: House) {
    let ledger = house.open_with("10").await;
    let call = ledger.call("4").await.unwrap();
    ledger.ask(api_hold("job", "3")).await;
    ledger.reconciles().await; // In `relaxed` this also waits for the disk.
    let crashed = house.crashed();
    let after = crashed.open().await;
    assert_eq!(after.has("alice").await, text(("10", "3")));
    after.reconciles().await;
    assert!(matches!(after.ask(api_capture("job", "3")).await, Outcome::Captured { .. }));
    assert_eq!(after.has("alice").await, text(("7", "0")));
    after.stop().await;
    // An orderly restart does the same.
    assert_eq!(ledger.has("alice").await, text(("10", "7")));
    drop(call);
    ledger.stop().await;
    let after = house.open().await;
    assert_eq!(after.has("alice").await, text(("10", "3")));
    after.stop().await;
}

async fn an_api_hold_expires_when_its_time_is_up(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("long", "3")).await;
    ledger.ask(hold_of(Origin::Api, "short", "2", 1)).await;
    eventually("the short one expired", async || ledger.has("alice").await.1 == "3").await;
    ledger.ask(hold_of(Origin::Api, "over-the-restart", "2", 1)).await;
    ledger.stop().await;
    let ledger = house.open().await;
    eventually("what expired meanwhile did", async || ledger.has("alice").await.1 == "3").await;
    let renewed = ledger.ask(Operation::Renew { hold: hold_id("long"), ttl_ms: 1 }).await;
    assert_eq!(renewed, Outcome::Renewed);
    eventually("the long one expired", async || ledger.has("alice").await.1 == "0").await;
    let late = ledger.ask(api_capture("long", "3")).await;
    assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_live_calls_hold_never_expires(house: House) {
    let ledger = house.open_with("10").await;
    let id = HoldId::for_call();
    let call = ledger.hold(id.clone(), account("alice"), credits("4"), "/x".into()).await.unwrap();
    // Its time is cut short; another hold of the same time shows that the sweep has passed.
    for round in ["first", "second"] {
        ledger.ask(Operation::Renew { hold: id.clone(), ttl_ms: 1 }).await;
        ledger.ask(hold_of(Origin::Api, round, "1", 1)).await;
        eventually("the sweep passed", async || ledger.has("alice").await.1 == "4").await;
    }
    call.capture(credits("4"));
    assert_eq!(ledger.has("alice").await, text(("6", "0")));
    assert_eq!(ledger.entries("alice").await.len(), 2);
    ledger.stop().await;
}

/// In `relaxed` too: its capture may come much later than the 50 ms that a crash may take.
async fn an_api_hold_is_on_disk_when_it_is_acknowledged(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("job", "3")).await;
    let crashed = house.crashed();
    let after = crashed.open().await;
    assert_eq!(after.has("alice").await, text(("10", "3")));
    let charged = after.ask(api_capture("job", "3")).await;
    assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    after.reconciles().await;
    after.stop().await;
    ledger.stop().await;
}

/// The call has settled, and a rival that was asked before its capture must not get its credits.
async fn a_hold_never_expires_while_its_capture_waits_in_the_queue(house: House) {
    let ledger = house.open_with("10").await;
    let id = HoldId::for_call();
    let call = ledger.hold(id.clone(), account("alice"), credits("10"), "/x".into()).await.unwrap();
    // One batch full of other things, in which the hold's time runs out; behind it the rival
    // and the capture. This thread does not let the pipeline run until its sweep is due.
    let mut batch = vec![Operation::Renew { hold: id, ttl_ms: 0 }];
    batch.resize(1024, Operation::Balance { account: account("alice") });
    batch.push(api_hold("rival", "10"));
    let mut asked: Vec<_> = batch.into_iter().map(|o| Box::pin(ledger.ask(o))).collect();
    for asking in &mut asked {
        assert!(!poll_once(asking.as_mut()).await);
    }
    call.capture(credits("10"));
    std::thread::sleep(std::time::Duration::from_millis(600));
    let mut outcomes = Vec::new();
    for asking in asked {
        outcomes.push(asking.await);
    }
    let rival = outcomes.pop().unwrap();
    let nothing_left = Refusal::Insufficient { available: SignedCredits::ZERO };
    assert_eq!(rival, Outcome::Refused(nothing_left));
    assert_eq!(ledger.has("alice").await, text(("0", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn the_hold_of_a_leaked_call_expires(house: House) {
    let ledger = house.open_with("10").await;
    // Asked for without a guard, so nobody lives to end it.
    let leaked = NewHold {
        id: HoldId::for_call(),
        account: account("alice"),
        amount: credits("4"),
        route: "/x".into(),
        origin: Origin::Call,
        ttl_ms: 1,
    };
    ledger.ask(Operation::Hold(leaked)).await;
    eventually("it expired", async || ledger.has("alice").await.1 == "0").await;
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn folding_keeps_balances_ids_and_refunds(house: House) {
    let ledger = house.open_with("10").await;
    for (job, amount) in [("a", "1"), ("b", "2"), ("c", "3")] {
        ledger.ask(api_hold(job, amount)).await;
        ledger.ask(api_capture(job, amount)).await;
    }
    ledger.post(grant("of-bob", "bob", "1")).await.unwrap();
    let nothing = ledger.fold(0).await.unwrap();
    assert_eq!((nothing.accounts, nothing.entries), (0, 0), "nothing is that old");
    let folded = ledger.fold(i64::MAX).await.unwrap();
    assert_eq!((folded.accounts, folded.entries), (2, 5));
    let again = ledger.fold(i64::MAX).await.unwrap();
    assert_eq!((again.accounts, again.entries), (0, 0), "an opening is not folded again");
    let entries = ledger.entries("alice").await;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].kind, entries[0].seq), (EntryKind::Opening, 4));
    assert_eq!(entries[0].balance_after.to_string(), "4");
    ledger.reconciles().await;
    let refund = ledger.ask(Operation::Refund { hold: hold_id("c"), reason: None }).await;
    assert!(matches!(refund, Outcome::Posted { new: true, .. }), "{refund:?}");
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    assert_eq!(ledger.ask(api_hold("a", "1")).await, ended());
    assert_eq!(ledger.fold(i64::MAX).await.unwrap().entries, 2);
    assert_eq!(ledger.entries("alice").await[0].seq, 5);
    let mut sql = house.sql().await;
    assert!(sql.execute("DELETE FROM entries").await.is_err(), "still immutable");
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = house.open().await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn folding_keeps_what_is_newer(house: House) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("old", "1")).await;
    ledger.ask(api_capture("old", "1")).await;
    let last_old = ledger.entries("alice").await.last().unwrap().created_at_ms;
    let mut n = 0;
    eventually("the clock moved on", async || {
        n += 1;
        let posting = grant(&format!("new-{n}"), "alice", "1");
        ledger.post(posting).await.unwrap().0.created_at_ms > last_old
    })
    .await;
    let before = ledger.entries("alice").await;
    let newer = before.iter().filter(|entry| entry.created_at_ms > last_old).count();
    let folded = ledger.fold(last_old + 1).await.unwrap();
    assert_eq!((folded.accounts, folded.entries), (1, (before.len() - newer) as u64));
    let after = ledger.entries("alice").await;
    assert_eq!(after[1..], before[before.len() - newer..]);
    assert_eq!(after[0].kind, EntryKind::Opening);
    assert_eq!(after[0].balance_after, before[before.len() - newer - 1].balance_after);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn reconcile_finds_what_is_wrong(house: House) {
    let ledger = house.open_with("10").await;
    for operation in [api_hold("charged", "2"), api_capture("charged", "2"), api_hold("live", "1")]
    {
        ledger.ask(operation).await;
    }
    ledger.post(grant("second", "alice", "3")).await.unwrap();
    ledger.reconciles().await;
    let changed = "DROP TRIGGER entries_are_never_updated; UPDATE entries ";
    let deleted = "DROP TRIGGER entries_are_never_deleted; DELETE FROM entries ";
    for (harm, found) in [
        ("UPDATE accounts SET balance = balance + 1".to_owned(), "the balance is"),
        ("UPDATE accounts SET seq = seq + 1".to_owned(), "the newest of them"),
        (format!("{changed} SET amount = amount + 1 WHERE seq = 2"), "does not continue"),
        (format!("{changed} SET balance_after = 0 WHERE seq = 3"), "does not continue"),
        (format!("{deleted} WHERE seq = 1"), "does not continue"),
        (format!("{deleted} WHERE seq = 2"), "does not continue"),
        (format!("{deleted} WHERE seq = 3"), "the newest of them"),
        ("DELETE FROM accounts".to_owned(), "does not exist"),
        (
            "INSERT INTO ended_holds SELECT id, account, amount, origin, 'expired', 1 FROM holds"
                .to_owned(),
            "live and ended",
        ),
        (
            "INSERT INTO holds VALUES ('charged', 'alice', 1, '/', 'api', 1)".to_owned(),
            "live and ended",
        ),
        (
            "INSERT INTO ended_holds VALUES ('charged', 'alice', 1, 'api', 'released', 1)"
                .to_owned(),
            "released and captured",
        ),
    ] {
        let harmed = house.crashed();
        let mut sql = harmed.sql().await;
        sql.execute(sqlx::AssertSqlSafe(harm.clone())).await.unwrap();
        let reader = farebox::ledger::SqliteReader::open(&harmed.path()).await.unwrap();
        let report = farebox::ledger::Reader::reconcile(&reader).await.unwrap();
        let differences = report.differences;
        assert!(differences.iter().any(|d| d.what.contains(found)), "{harm}: {differences:#?}");
    }
    // What fits together on disk, and is not what the running ledger knows.
    let mut sql = house.sql().await;
    sql.execute("UPDATE holds SET amount = amount + 1").await.unwrap();
    let differences = ledger.reconcile().await.unwrap().differences;
    assert!(differences.iter().any(|d| d.what.contains("memory has")), "{differences:#?}");
    sql.execute("UPDATE holds SET amount = amount - 1").await.unwrap();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_backup_of_a_live_ledger_opens_and_reconciles(house: House) {
    let ledger = house.open_with("1000").await;
    ledger.reconciles().await;
    let copy = House::new(house.kind);
    std::fs::create_dir_all(copy.dir()).unwrap();
    let calls = async {
        for _ in 0..100 {
            ledger.call("1").await.unwrap().capture(credits("1"));
        }
    };
    let (source, target) = (house.path(), copy.path());
    let ((), backed_up) = tokio::join!(calls, backup(&source, &target));
    backed_up.unwrap();
    let again = backup(&house.path(), &target).await;
    assert!(matches!(again, Err(LedgerError::Exists { .. })), "{again:?}");
    assert_eq!(ledger.has("alice").await, text(("900", "0")));
    let restored = copy.open().await;
    restored.reconciles().await;
    let entries = restored.entries("alice").await;
    let (balance, held) = restored.has("alice").await;
    assert_eq!(entries.last().unwrap().balance_after.to_string(), balance);
    assert_eq!(held, "0", "calls do not outlive their gateway");
    let first = ledger.entries("alice").await;
    assert_eq!(entries, first[..entries.len()], "one moment of the ledger, whole");
    restored.stop().await;
    ledger.stop().await;
}

async fn the_lock_refuses_a_second_opener(house: House) {
    let ledger = house.open_with("10").await;
    for _ in 0..2 {
        let second = house.embedded().await;
        assert!(matches!(second, Err(LedgerError::Locked { .. })), "{second:?}");
    }
    // Nothing was touched: a live call's hold above all.
    let call = ledger.call("4").await.unwrap();
    assert!(house.embedded().await.is_err());
    assert_eq!(ledger.has("alice").await, text(("10", "4")));
    ledger.reconciles().await;
    drop(call);
    ledger.stop().await;
    house.open().await.stop().await;
}

async fn the_lock_refuses_a_second_opener_by_another_name(house: House) {
    let ledger = house.open_with("10").await;
    let other = House::new(house.kind);
    std::fs::create_dir_all(other.dir()).unwrap();
    std::os::unix::fs::symlink(house.path(), other.path()).unwrap();
    let second = other.embedded().await;
    assert!(matches!(second, Err(LedgerError::Locked { .. })), "{second:?}");
    ledger.stop().await;
    let ledger = other.open().await;
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn any_text_survives_the_disk(house: House) {
    let ledger = house.open().await;
    let whose = r#"a"b\c:%'{}[],/<é>"#.replace('é', "e");
    let reason = "\"quoted\" \\ back\tslash\n\u{1}\u{7f}é 漢字 \u{1F600} \u{2028} 'x'; --";
    for (id, who) in [("123", whose.as_str()), ("null", "123"), ("1e3", "null")] {
        let posting = farebox::ledger::Posting {
            reason: Some(reason.into()),
            ..posting(EntryKind::Adjustment, id, who, "1.5")
        };
        assert!(ledger.post(posting.clone()).await.unwrap().1);
        assert!(!ledger.post(posting).await.unwrap().1, "{id} is found again");
        let hold = NewHold {
            id: hold_id(&format!(r#"{id}"\"#)),
            account: account(who),
            amount: credits("1"),
            route: reason.into(),
            origin: Origin::Api,
            ttl_ms: u64::MAX,
        };
        let held = ledger.ask(Operation::Hold(hold.clone())).await;
        assert!(matches!(held, Outcome::Held { .. }), "{held:?}");
    }
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = house.open().await;
    for (id, who) in [("123", whose.as_str()), ("null", "123"), ("1e3", "null")] {
        assert_eq!(ledger.has(who).await, text(("1.5", "1")));
        let capture = api_capture(&format!(r#"{id}"\"#), "1");
        assert!(matches!(ledger.ask(capture).await, Outcome::Captured { late: false, .. }));
        let entries = ledger.read().entries(&account(who), None, 10).await;
        let entries = entries.unwrap();
        let adjustment = entries.last().unwrap();
        assert_eq!(adjustment.reason.as_deref(), Some(reason));
        assert_eq!(adjustment.operation, OperationId::posting(EntryKind::Adjustment, id).unwrap());
    }
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_stop_writes_what_was_asked_and_takes_nothing_more(house: House) {
    let ledger = house.open_with("1000").await;
    let handle = farebox::ledger::Ledger::clone(&ledger);
    let mut guards = Vec::new();
    for _ in 0..200 {
        guards.push(ledger.call("1").await.unwrap());
    }
    // Enough settlements to need several batches, and the stop behind them.
    for _ in 0..5 {
        let more = guards.drain(..40).collect::<Vec<_>>();
        more.into_iter().for_each(|guard| guard.capture(credits("1")));
    }
    ledger.stop().await;
    assert_eq!(handle.balance(&account("alice")).await, Err(Refusal::Unavailable));
    let late = handle.hold(HoldId::for_call(), account("alice"), credits("1"), "/x".into());
    assert_eq!(late.await.unwrap_err(), Refusal::Unavailable);
    let ledger = house.open().await;
    assert_eq!(ledger.has("alice").await, text(("800", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}
