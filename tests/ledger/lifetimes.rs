//! How long a hold lives: guards, expiry, crashes and stops.

use std::pin::pin;

use farebox::credits::SignedCredits;
use farebox::ledger::{Backend as _, CallId, HoldId, NewHold, Operation, Origin, Outcome, Refusal};

use crate::test_ledger::{
    HOUR_MS, TestLedger, account, api_capture, api_hold, call_capture, conflict, credits,
    eventually, grant, hold_id, hold_of, on_every_ledger, poll_once, text,
};

on_every_ledger!("current_thread":
    a_dropped_hold_future_leaves_no_hold,
    a_dropped_guard_releases,
    a_panicking_call_releases,
    a_crash_ends_the_holds_of_calls_and_not_those_of_the_api,
    an_api_hold_expires_when_its_time_is_up,
    an_api_hold_is_on_disk_when_it_is_acknowledged,
    a_live_calls_hold_never_expires,
    a_hold_never_expires_while_its_capture_waits_in_the_queue,
    the_hold_of_a_leaked_call_expires,
    a_late_capture_is_recorded_once_and_may_make_a_debt,
    a_stop_writes_what_was_asked_and_takes_nothing_more,
);

async fn a_dropped_hold_future_leaves_no_hold(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let hold = || ledger.call("4");
    // These calls are never polled; or asked for, and dropped at once; or granted, and dropped
    // before they know.
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
    // This call is refused, and dropped before it knows.
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

async fn a_dropped_guard_releases(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let guard = ledger.call("4").await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("10", "4")));
    drop(guard);
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_panicking_call_releases(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let guard = ledger.call("4").await.unwrap();
    let call = tokio::spawn(async move {
        assert_eq!(guard.amount(), credits("5"), "this call panics, as the test wants it to");
        guard.capture(credits("4"));
    });
    assert!(call.await.unwrap_err().is_panic());
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_crash_ends_the_holds_of_calls_and_not_those_of_the_api(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call = ledger.call("4").await.unwrap();
    ledger.ask(api_hold("job", "3")).await;
    ledger.reconciles().await; // In `relaxed` this also waits for the disk.
    let crashed = fixture.crashed();
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
    let after = fixture.open().await;
    assert_eq!(after.has("alice").await, text(("10", "3")));
    after.stop().await;
}

async fn an_api_hold_expires_when_its_time_is_up(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("long", "3")).await;
    ledger.ask(hold_of(Origin::Api, "short", "2", 1)).await;
    eventually("the short one expired", async || ledger.has("alice").await.1 == "3").await;
    ledger.ask(hold_of(Origin::Api, "over-the-restart", "2", 1)).await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    eventually("what expired meanwhile did", async || ledger.has("alice").await.1 == "3").await;
    let renewed = ledger.ask(Operation::Renew { hold: hold_id("long"), ttl_ms: 1 }).await;
    assert_eq!(renewed, Outcome::Renewed);
    eventually("the long one expired", async || ledger.has("alice").await.1 == "0").await;
    let late = ledger.ask(api_capture("long", "3")).await;
    assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    ledger.reconciles().await;
    ledger.stop().await;
}

/// In `relaxed` too: its capture may come much later than the 50 ms that a crash may take.
async fn an_api_hold_is_on_disk_when_it_is_acknowledged(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("job", "3")).await;
    let crashed = fixture.crashed();
    let after = crashed.open().await;
    assert_eq!(after.has("alice").await, text(("10", "3")));
    let charged = after.ask(api_capture("job", "3")).await;
    assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    after.reconciles().await;
    after.stop().await;
    ledger.stop().await;
}

async fn a_live_calls_hold_never_expires(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call_id = CallId::new();
    let id = call_id.hold_id().clone();
    let call = ledger.hold(call_id, account("alice"), credits("4"), "/x".into()).await.unwrap();
    // This hold's time is cut short; another hold of the same time shows that the sweep has passed.
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

/// The call has settled, and a rival that was asked before its capture must not get its credits.
async fn a_hold_never_expires_while_its_capture_waits_in_the_queue(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call_id = CallId::new();
    let id = call_id.hold_id().clone();
    let call = ledger.hold(call_id, account("alice"), credits("10"), "/x".into()).await.unwrap();
    // One batch is full of other operations, and the hold's time runs out in it. The rival and the
    // capture are queued behind it. This thread does not let the pipeline run until its sweep is
    // due.
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

async fn the_hold_of_a_leaked_call_expires(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    // This hold is asked for without a guard, so nothing ends it.
    let leaked = NewHold {
        id: HoldId::for_call(),
        account: account("alice"),
        amount: credits("4"),
        route: "/x".into(),
        origin: Origin::Call,
        ttl_ms: 1,
        claim: None,
    };
    ledger.ask(Operation::Hold(leaked)).await;
    eventually("it expired", async || ledger.has("alice").await.1 == "0").await;
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_late_capture_is_recorded_once_and_may_make_a_debt(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
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
        let Outcome::Captured { late: true, after, end } = late else { panic!("{late:?}") };
        assert_eq!(end.is_some(), origin == Origin::Api);
        let again = Outcome::Captured { late: false, after, end: None };
        assert_eq!(backend.ask(capture).await, again);
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

async fn a_stop_writes_what_was_asked_and_takes_nothing_more(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    let handle = farebox::ledger::Ledger::clone(&ledger);
    let mut guards = Vec::new();
    for _ in 0..200 {
        guards.push(ledger.call("1").await.unwrap());
    }
    // The settlements need several batches, and the stop is queued behind them.
    for _ in 0..5 {
        let more = guards.drain(..40).collect::<Vec<_>>();
        more.into_iter().for_each(|guard| guard.capture(credits("1")));
    }
    ledger.stop().await;
    assert_eq!(handle.balance(&account("alice")).await, Err(Refusal::Unavailable));
    let late = handle.hold(CallId::new(), account("alice"), credits("1"), "/x".into());
    assert_eq!(late.await.unwrap_err(), Refusal::Unavailable);
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("800", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}
