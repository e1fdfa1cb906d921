//! The promises of every ledger about credits and ids. Each promise has a test.

use farebox::credits::{Credits, SignedCredits};
use farebox::ledger::{
    Backend as _, CallId, EntryKind, KeyHash, KeyRecord, Operation, Origin, Outcome, Refusal,
};

use crate::test_ledger::{
    HOUR_MS, Running, TestLedger, account, api_capture, api_hold, api_release, call_capture,
    call_release, conflict, credits, ended, grant, hold_id, hold_of, on_every_ledger, posting,
    text,
};

on_every_ledger!("current_thread":
    a_call_is_held_and_charged_and_a_restart_changes_nothing,
    available_never_falls_below_zero_through_a_hold,
    no_posting_moves_a_balance_the_wrong_way,
    a_debt_refuses_holds_until_it_is_paid,
    an_id_takes_effect_once_however_late,
    an_id_with_other_parameters_is_a_conflict,
    an_id_takes_effect_once_in_one_batch,
    a_hold_ends_once,
    a_capture_is_at_most_its_hold,
    a_capture_of_nothing_is_a_release,
    a_release_before_its_hold_leaves_a_tombstone,
    an_end_that_names_another_account_shows_no_balance,
    an_api_hold_is_never_taken_for_a_calls,
    a_capture_is_refunded_once,
    keys_are_stored_once_and_revoked_at_once,
    thousands_of_keys_are_stored_at_once,
    the_signup_grant_is_given_once,
    a_refused_operation_changes_nothing,
);

async fn a_call_is_held_and_charged_and_a_restart_changes_nothing(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let first = ledger.call("5").await.unwrap();
    let second = ledger.call("5").await.unwrap();
    assert_eq!(second.after().available(), SignedCredits::ZERO);
    assert_eq!(ledger.has("alice").await, text(("10", "10")));
    first.capture(credits("4"));
    second.release();
    assert_eq!(ledger.has("alice").await, text(("6", "0")));
    ledger.stop().await;

    let ledger = fixture.open().await;
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

async fn available_never_falls_below_zero_through_a_hold(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let held = ledger.call("9.999999").await.unwrap();
    let too_much = ledger.call("0.000002").await.unwrap_err();
    assert_eq!(too_much, Refusal::Insufficient { available: credits("0.000001").signed() });
    let last = ledger.call("0.000001").await.unwrap();
    let nothing_left = Refusal::Insufficient { available: SignedCredits::ZERO };
    assert_eq!(ledger.call("0.000001").await.unwrap_err(), nothing_left);
    let stranger = ledger.hold(CallId::new(), account("eve"), credits("1"), "/x".into());
    assert_eq!(stranger.await.unwrap_err(), nothing_left);
    drop((held, last));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn no_posting_moves_a_balance_the_wrong_way(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for (kind, amount) in [
        (EntryKind::Grant, "-1"),
        (EntryKind::Reinstatement, "-1"),
        (EntryKind::Clawback, "1"),
        (EntryKind::Capture, "-1"),
        (EntryKind::Refund, "1"),
        (EntryKind::Opening, "1"),
    ] {
        let refused = ledger.post(posting(kind, "wrong", "alice", amount)).await.unwrap_err();
        assert_eq!(refused, Refusal::WrongWay, "{kind:?}");
    }
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_debt_refuses_holds_until_it_is_paid(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
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

/// Asks all of these operations again. No balance may move.
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

async fn an_id_takes_effect_once_however_late(fixture: TestLedger) {
    let ledger = fixture.open().await;
    for operation in by_id() {
        let outcome = ledger.ask(operation.clone()).await;
        assert!(!matches!(outcome, Outcome::Refused(_)), "{operation:?}: {outcome:?}");
    }
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ask_again(&ledger, "at once").await;
    ledger.stop().await;

    let ledger = fixture.open().await;
    ask_again(&ledger, "after a restart").await;
    assert!(ledger.fold(i64::MAX).await.unwrap().entries > 0);
    ask_again(&ledger, "after folding").await;
    ledger.stop().await;

    let ledger = fixture.open().await;
    ask_again(&ledger, "after folding and a restart").await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.stop().await;
}

async fn an_id_with_other_parameters_is_a_conflict(fixture: TestLedger) {
    let ledger = fixture.open().await;
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

async fn an_id_takes_effect_once_in_one_batch(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    let doubled: Vec<_> = by_id().into_iter().flat_map(|o| [o.clone(), o]).collect();
    for pair in backend.apply(&doubled).await.chunks(2) {
        match pair {
            [Outcome::Posted { new: true, entry }, Outcome::Posted { new: false, entry: same }] => {
                assert_eq!(entry, same);
            }
            [
                Outcome::Captured { end: _, after, late: false },
                Outcome::Captured { end: None, after: same, late: false },
            ]
            | [Outcome::Released { end: _, after }, Outcome::Released { end: None, after: same }] =>
            {
                assert_eq!(after, same)
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

async fn a_hold_ends_once(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("charged", "4")).await;
    ledger.ask(api_hold("given-back", "4")).await;
    let charged = ledger.ask(api_capture("charged", "3")).await;
    assert_eq!(ledger.ask(api_capture("charged", "3")).await, {
        let Outcome::Captured { after, late: false, end: Some(settled) } = charged else {
            panic!("{charged:?}")
        };
        assert_eq!((settled.captured, settled.released), (credits("3"), credits("1")));
        Outcome::Captured { after, late: false, end: None }
    });
    assert_eq!(ledger.ask(api_capture("charged", "2")).await, conflict());
    assert_eq!(ledger.ask(api_release("charged")).await, ended());
    let released = ledger.ask(api_release("given-back")).await;
    let Outcome::Released { after, end: Some(settled) } = released else { panic!("{released:?}") };
    assert_eq!((settled.captured, settled.released), (credits("0"), credits("4")));
    let again = Outcome::Released { after, end: None };
    assert_eq!(ledger.ask(api_release("given-back")).await, again);
    assert_eq!(ledger.ask(api_capture("given-back", "1")).await, ended());
    assert_eq!(ledger.ask(api_hold("charged", "4")).await, ended());
    assert_eq!(ledger.ask(api_hold("given-back", "4")).await, ended());
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    assert_eq!(ledger.entries("alice").await.len(), 2);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_capture_is_at_most_its_hold(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
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

async fn a_capture_of_nothing_is_a_release(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("job", "4")).await;
    for _ in 0..2 {
        assert!(matches!(ledger.ask(api_capture("job", "0")).await, Outcome::Released { .. }));
    }
    assert_eq!(ledger.ask(api_capture("job", "1")).await, ended());
    ledger.call("1").await.unwrap().capture(Credits::ZERO);
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    assert_eq!(ledger.entries("alice").await.len(), 1);
    ledger.stop().await;
}

async fn a_release_before_its_hold_leaves_a_tombstone(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
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

async fn an_end_that_names_another_account_shows_no_balance(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let unknown = Outcome::Refused(Refusal::UnknownHold);
    for origin in [Origin::Call, Origin::Api] {
        let id = format!("{origin:?}-1");
        let release_for = |who: Option<&str>| Operation::Release {
            hold: hold_id(&id),
            account: who.map(account),
            origin,
            claim: None,
        };
        ledger.ask(hold_of(origin, &id, "2", HOUR_MS)).await;
        assert_eq!(ledger.ask(release_for(Some("bob"))).await, unknown, "it is live");
        let released = ledger.ask(release_for(Some("alice"))).await;
        assert!(matches!(released, Outcome::Released { .. }), "{released:?}");
        assert_eq!(ledger.ask(release_for(Some("bob"))).await, unknown, "it is released");
        let again = ledger.ask(release_for(Some("alice"))).await;
        assert!(matches!(again, Outcome::Released { end: None, .. }), "{again:?}");
    }
    // The release of a call that came before its hold.
    assert!(matches!(ledger.ask(call_release("early")).await, Outcome::Released { .. }));
    let release = Operation::Release {
        hold: hold_id("early"),
        account: Some(account("bob")),
        origin: Origin::Call,
        claim: None,
    };
    assert_eq!(ledger.ask(release).await, unknown);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn an_api_hold_is_never_taken_for_a_calls(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call = CallId::new();
    let request_id = call.hold_id().to_string();
    let guard = ledger.hold(call, account("alice"), credits("4"), "/x".into()).await.unwrap();
    // The backend that owns a service key saw the call's request id, and uses it for a job.
    assert_eq!(ledger.ask(api_hold(&request_id, "4")).await, conflict());
    let unknown = Outcome::Refused(Refusal::UnknownHold);
    assert_eq!(ledger.ask(api_capture(&request_id, "1")).await, unknown);
    assert_eq!(ledger.ask(api_release(&request_id)).await, unknown);
    guard.capture(credits("4"));
    assert_eq!(ledger.ask(api_hold(&request_id, "4")).await, ended());
    assert_eq!(ledger.has("alice").await, text(("6", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_capture_is_refunded_once(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
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
        hash: KeyHash::of(secret),
        account: account(who),
        name: "of alice's \"shop\"".into(),
        service: true,
        hint: "fb_12".into(),
        created_at_ms: 1,
        revoked_at_ms: None,
    }
}

async fn keys_are_stored_once_and_revoked_at_once(fixture: TestLedger) {
    let ledger = fixture.open().await;
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
    // A second revocation, or an import of the same key, does not bring the key back and does not move its date.
    assert_eq!(revoke("k1").await, Outcome::KeyRevoked);
    assert_eq!(put(&[first]).await, Outcome::KeysStored { new: 0 });
    ledger.stop().await;
    let ledger = fixture.open().await;
    let keys = ledger.read().keys(None).await.unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys.iter().find(|k| &*k.id == "k1").unwrap().revoked_at_ms, revoked_at_ms);
    assert_eq!(keys.iter().find(|k| &*k.id == "k2"), Some(&second));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// There are more keys than a transaction on Postgres has the time for, one by one.
async fn thousands_of_keys_are_stored_at_once(fixture: TestLedger) {
    const COUNT: usize = 8_000;
    let ledger = fixture.open().await;
    let keys: Vec<_> = (0..COUNT)
        .map(|n| key(&format!("k{n}"), &format!("secret {n}"), &format!("customer-{n}")))
        .collect();
    for new in [COUNT, 0] {
        let stored = ledger.ask(Operation::PutKeys(keys.clone())).await;
        assert_eq!(stored, Outcome::KeysStored { new });
    }
    assert_eq!(ledger.read().keys(None).await.unwrap().len(), COUNT);
    assert_eq!(ledger.read().keys(Some(&account("customer-7"))).await.unwrap(), keys[7..8]);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn the_signup_grant_is_given_once(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let alice = account("alice");
    let (first, second) =
        tokio::join!(ledger.open(&alice, credits("5")), ledger.open(&alice, credits("5")));
    assert_eq!((first, second), (Ok(()), Ok(())));
    ledger.open(&alice, credits("7")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.fold(i64::MAX).await.unwrap();
    ledger.stop().await;
    let ledger = fixture.open().await;
    ledger.open(&alice, credits("5")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.open(&account("bob"), Credits::ZERO).await.unwrap();
    assert_eq!(ledger.has("bob").await, text(("0", "0")));
    assert!(ledger.entries("bob").await.is_empty());
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_refused_operation_changes_nothing(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("live", "2")).await;
    ledger.ask(api_hold("spent", "2")).await;
    ledger.ask(api_capture("spent", "2")).await;
    let most = Credits::from_micros(farebox::credits::MAX_MICROS).unwrap().to_string();
    let before = snapshot(&fixture, &ledger).await;
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
        assert_eq!(snapshot(&fixture, &ledger).await, before, "{refused:?}");
    }
    assert_eq!(ledger.balance(&account("nobody")).await, Ok(None));
    ledger.stop().await;
}

/// Everything the ledger says it has, in memory and on disk.
async fn snapshot(fixture: &TestLedger, ledger: &Running) -> String {
    ledger.reconciles().await;
    format!("{:?}{}", ledger.has("alice").await, fixture.row_counts().await)
}
