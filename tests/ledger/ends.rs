//! Which of several ends of a hold counts, and which comes too late.

use farebox::ledger::{Backend as _, CrashOutcome, Operation, Origin, Outcome, Refusal};

use crate::test_ledger::{
    AnyBackend, TestLedger, account, api_capture, api_hold, api_release, conflict, credits, ended,
    grant, hold_of, on_every_ledger, text,
};

on_every_ledger!("current_thread":
    a_stop_lists_the_calls_that_it_cuts_off_and_no_others,
    a_hold_that_expired_and_was_released_is_not_captured_any_more,
    whoever_names_another_account_finds_no_hold,
);

async fn a_stop_lists_the_calls_that_it_cuts_off_and_no_others(fixture: TestLedger) {
    let ledger = fixture.open_with("20").await;
    let (cut, dropped) = (ledger.call("4").await.unwrap(), ledger.call("3").await.unwrap());
    let (paid, freed) = (ledger.call("2").await.unwrap(), ledger.call("1").await.unwrap());
    drop(dropped);
    let unused = ledger.call("1").await.unwrap();
    ledger.cut_calls_off();
    unused.capture(credits("0"));
    paid.capture(credits("2"));
    freed.release();
    drop(cut);
    // This hold is never granted, so no call is cut off.
    assert!(matches!(ledger.call("100").await, Err(Refusal::Insufficient { .. })));
    ledger.reconciles().await;
    assert_eq!(ledger.has("alice").await, text(("18", "0")));
    ledger.stop().await;
    let ledger = fixture.open().await;
    let listed = crate::cut_off::listed(ledger.read()).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&*listed[0].1, listed[0].2), ("4", CrashOutcome::Released));
    assert_eq!(ledger.has("alice").await, text(("18", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_hold_that_expired_and_was_released_is_not_captured_any_more(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "50"))).await;
    let end = [api_release("a"), api_capture("b", "0"), api_release("c")];
    for id in ["a", "b", "c"] {
        backend.ask(hold_of(Origin::Api, id, "4", 0)).await;
    }
    backend.ask(api_hold("d", "4")).await;
    assert_eq!(backend.tick(&|_| false).await.len(), 3);
    for release in &end {
        let released = backend.ask(release.clone()).await;
        assert!(matches!(released, Outcome::Released { end: None, .. }), "{released:?}");
    }
    // In one batch too, released before or not.
    let both = [api_release("c"), api_capture("c", "4"), api_release("d"), api_capture("d", "4")];
    let outcomes = backend.apply(&both).await;
    assert_eq!([&outcomes[1], &outcomes[3]], [&ended(), &ended()], "{outcomes:?}");
    let all = async |backend: &mut AnyBackend, when: &str| {
        for id in ["a", "b", "c", "d"] {
            assert_eq!(backend.ask(api_capture(id, "4")).await, ended(), "{id} {when}");
            let again = backend.ask(api_release(id)).await;
            assert!(matches!(again, Outcome::Released { .. }), "{id} {when}: {again:?}");
        }
    };
    all(&mut backend, "at once").await;
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.reader().await.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
    drop(backend);
    let mut backend = fixture.backend().await;
    all(&mut backend, "after a restart").await;
    assert!(backend.reader().await.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
}

async fn whoever_names_another_account_finds_no_hold(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "50"))).await;
    backend.ask(Operation::Post(grant("g-bob", "bob", "50"))).await;
    backend.ask(hold_of(Origin::Api, "expired", "4", 0)).await;
    assert_eq!(backend.tick(&|_| false).await.len(), 1);
    for id in ["live", "captured", "released"] {
        backend.ask(api_hold(id, "4")).await;
    }
    backend.ask(api_capture("captured", "4")).await;
    backend.ask(api_release("released")).await;
    let named = |operation: Operation, who: &str| match operation {
        Operation::Capture { hold, amount, route, origin, may_overrun, usage, .. } => {
            let account = Some(account(who));
            Operation::Capture {
                hold,
                account,
                amount,
                route,
                origin,
                may_overrun,
                usage,
                claim: None,
            }
        }
        Operation::Release { hold, origin, .. } => {
            Operation::Release { hold, account: Some(account(who)), origin, claim: None }
        }
        other => other,
    };
    let unknown = Outcome::Refused(Refusal::UnknownHold);
    for id in ["live", "captured", "released", "expired"] {
        for end in
            [api_capture(id, "4"), api_capture(id, "0"), api_capture(id, "9"), api_release(id)]
        {
            let outcome = backend.ask(named(end.clone(), "bob")).await;
            assert_eq!(outcome, unknown, "{end:?}");
        }
    }
    for (end, expected) in [
        (api_capture("captured", "3"), conflict()),
        (api_release("captured"), ended()),
        (api_capture("released", "3"), ended()),
    ] {
        assert_eq!(backend.ask(named(end.clone(), "alice")).await, expected, "{end:?}");
    }
    let late = backend.ask(named(api_capture("expired", "4"), "alice")).await;
    assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    let live = backend.ask(named(api_capture("live", "4"), "alice")).await;
    assert!(matches!(live, Outcome::Captured { late: false, .. }), "{live:?}");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.close().await);
}
