//! Claims: which call is forwarded and charged for a request, and what its retries hear.

use farebox::ledger::{
    AfterCrash, Backend as _, Claim, ClaimState, HoldId, Operation, Origin, Outcome, Refusal,
};

use crate::claiming::{
    KEEP_MS, ask, by, capture_of, claim_id, claimed, held, hold_with, key, mark, retry,
};
use crate::test_ledger::{
    TestLedger, account, credits, grant, hold_id, on_cluster_ledgers, on_embedded_ledgers, text,
};

on_embedded_ledgers!("current_thread":
    a_key_is_the_first_calls_while_it_runs_and_once_it_is_charged,
    a_key_is_free_again_where_its_call_was_not_charged,
    a_refused_call_leaves_no_claim,
    another_request_under_the_key_is_a_conflict_also_while_the_first_runs,
    the_same_key_twice_in_one_batch_is_decided_once,
    a_late_capture_takes_its_claim_again,
    a_frozen_account_hears_its_refusal_and_not_of_the_claim,
    a_claim_ends_with_its_time,
    a_crash_settles_claims_as_it_settles_their_holds,
    a_start_finds_the_claims_in_the_log,
);

on_cluster_ledgers!("current_thread":
    a_key_is_the_first_calls_while_it_runs_and_once_it_is_charged,
    a_key_is_free_again_where_its_call_was_not_charged,
    a_refused_call_leaves_no_claim,
    another_request_under_the_key_is_a_conflict_also_while_the_first_runs,
    the_same_key_twice_in_one_batch_is_decided_once,
    a_late_capture_takes_its_claim_again,
);

async fn a_key_is_the_first_calls_while_it_runs_and_once_it_is_charged(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let first = held(&ledger, key(1)).await;
    let id = first.id().clone();
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Running));
    held(&ledger, key(2)).await.release();
    first.capture(credits("1"));
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    // An audit writes everything, so the claim is looked up from here on.
    ledger.reconciles().await;
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    assert_eq!(ledger.has("alice").await, text(("9", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_key_is_free_again_where_its_call_was_not_charged(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(1)).await.release();
    drop(held(&ledger, key(1)).await);
    held(&ledger, key(1)).await.capture(credits("0"));
    let last = held(&ledger, key(1)).await;
    // The release of a call that heard of the claim does not free it.
    let late = Operation::Release {
        hold: HoldId::for_call(),
        account: Some(account("alice")),
        origin: Origin::Call,
        claim: Some(claim_id(1)),
    };
    assert!(matches!(ledger.ask(late).await, Outcome::Released { .. }));
    assert_eq!(claimed(&ledger, key(1)).await, by(last.id(), ClaimState::Running));
    drop(last);
    held(&ledger, key(1)).await.release();
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_refused_call_leaves_no_claim(fixture: TestLedger) {
    let ledger = fixture.open().await;
    assert!(matches!(ask(&ledger, key(1)).await, Err(Refusal::Insufficient { .. })));
    ledger.post(grant("one", "alice", "1")).await.unwrap();
    let hold = held(&ledger, key(1)).await;
    // All credits are held, and the retry hears of the first call all the same.
    assert_eq!(claimed(&ledger, key(1)).await, by(hold.id(), ClaimState::Running));
    assert!(matches!(ask(&ledger, key(2)).await, Err(Refusal::Insufficient { .. })));
    let id = hold.id().clone();
    hold.capture(credits("1"));
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    ledger.stop().await;
}

async fn another_request_under_the_key_is_a_conflict_also_while_the_first_runs(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("10").await;
    let with = |mark| Claim::Key { id: claim_id(1), mark, keep_ms: KEEP_MS };
    // The body of the first call is still arriving.
    let first = held(&ledger, with(None)).await;
    let id = first.id().clone();
    assert_eq!(claimed(&ledger, with(Some(mark(2)))).await, by(&id, ClaimState::Running));
    first.mark_claim(mark(1)).await.unwrap();
    first.mark_claim(mark(3)).await.unwrap();
    for settled in [false, true] {
        let same = if settled { ClaimState::Charged } else { ClaimState::Running };
        assert_eq!(claimed(&ledger, with(Some(mark(2)))).await, by(&id, ClaimState::Conflict));
        assert_eq!(claimed(&ledger, with(Some(mark(1)))).await, by(&id, same));
        assert_eq!(claimed(&ledger, with(None)).await, by(&id, same));
        if !settled {
            let capture = capture_of(&id, Some(claim_id(1)));
            assert!(matches!(ledger.ask(capture).await, Outcome::Captured { .. }));
        }
        ledger.reconciles().await;
    }
    // A mark that comes after the charge still counts.
    let early = held(&ledger, Claim::Key { id: claim_id(2), mark: None, keep_ms: KEEP_MS }).await;
    let captured = ledger.ask(capture_of(early.id(), Some(claim_id(2)))).await;
    assert!(matches!(captured, Outcome::Captured { .. }), "{captured:?}");
    ledger.reconciles().await;
    early.mark_claim(mark(7)).await.unwrap();
    assert_eq!(claimed(&ledger, key(2)).await, by(early.id(), ClaimState::Conflict));
    drop((first, early));
    ledger.stop().await;
}

async fn a_frozen_account_hears_its_refusal_and_not_of_the_claim(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(1)).await.capture(credits("1"));
    ledger.stop().await;
    fixture.execute("INSERT INTO freezes VALUES ('dp_1', 'alice')").await.unwrap();
    let ledger = fixture.open().await;
    assert_eq!(ask(&ledger, key(1)).await.unwrap_err(), Refusal::Frozen);
    assert_eq!(ask(&ledger, retry(1)).await.unwrap_err(), Refusal::Frozen);
    ledger.stop().await;
}

async fn a_claim_ends_with_its_time(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let short = || Claim::Key { id: claim_id(1), mark: Some(mark(1)), keep_ms: 100 };
    let first = held(&ledger, short()).await;
    let id = first.id().clone();
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let running = by(&id, ClaimState::Running);
    assert_eq!(claimed(&ledger, short()).await, running, "a call that runs keeps its claim");
    first.capture(credits("1"));
    held(&ledger, key(1)).await.capture(credits("1"));
    ledger.reconciles().await;
    assert_eq!(claimed(&ledger, key(1)).await.state, ClaimState::Charged);
    ledger.stop().await;
    fixture.execute("UPDATE claims SET until = 1000 WHERE charged = 1").await.unwrap();
    let ledger = fixture.open().await;
    drop(held(&ledger, key(1)).await);
    ledger.stop().await;
}

async fn the_same_key_twice_in_one_batch_is_decided_once(fixture: TestLedger) {
    let mut ledger = fixture.backend().await;
    ledger.ask(Operation::Post(grant("g", "alice", "10"))).await;
    let [a, b, c, d] = [(); 4].map(|()| HoldId::for_call());
    // A batch with a grant is written in another way than one without.
    for (n, others) in [(1, vec![]), (2, vec![Operation::Post(grant("h", "alice", "1"))])] {
        let [a, b, c, d] = [&a, &b, &c, &d].map(|id| hold_id(&format!("{}{n}", id.as_str())));
        let mut batch = vec![hold_with(&a, key(n)), hold_with(&b, key(n)), capture_of(&a, None)];
        batch.extend(others);
        batch.extend([hold_with(&c, key(n)), hold_with(&d, key(n + 10)), hold_with(&a, key(n))]);
        let outcomes = ledger.apply(&batch).await;
        assert!(matches!(outcomes[0], Outcome::Held { .. }), "{outcomes:?}");
        assert_eq!(outcomes[1], Outcome::Claimed(by(&a, ClaimState::Running)));
        assert!(matches!(outcomes[2], Outcome::Captured { .. }), "{outcomes:?}");
        let last = outcomes.len() - 3;
        assert_eq!(outcomes[last], Outcome::Claimed(by(&a, ClaimState::Charged)));
        assert!(matches!(outcomes[last + 1], Outcome::Held { .. }), "{outcomes:?}");
        assert_eq!(outcomes[last + 2], Outcome::Refused(Refusal::Ended));
        // A repetition of a hold that lives is no other call.
        let again = ledger.ask(hold_with(&d, key(n + 10))).await;
        assert!(matches!(again, Outcome::Held { .. }), "{again:?}");
        // Charged a moment ago and not written yet, beside an operation that writes everything first.
        let mixed = [
            Operation::Open { account: account("bob"), signup: credits("0") },
            hold_with(&b, key(n)),
        ];
        ledger.apply(&[capture_of(&d, Some(claim_id(n + 10)))]).await;
        let outcomes = ledger.apply(&mixed).await;
        assert_eq!(outcomes[1], Outcome::Claimed(by(&a, ClaimState::Charged)));
        let outcomes = ledger.apply(&[mixed[0].clone(), hold_with(&b, key(n + 10))]).await;
        assert_eq!(outcomes[1], Outcome::Claimed(by(&d, ClaimState::Charged)));
        // The call runs when the batch begins, and is charged and written before the rest of the
        // batch is decided.
        ledger.ask(hold_with(&c, key(n + 20))).await;
        let capture = capture_of(&c, Some(claim_id(n + 20)));
        let batch = [capture, Operation::Audit, hold_with(&b, key(n + 20))];
        let outcomes = ledger.apply(&batch).await;
        assert_eq!(outcomes[1], Outcome::Audited(vec![]));
        assert_eq!(outcomes[2], Outcome::Claimed(by(&c, ClaimState::Charged)));
    }
    assert_eq!(ledger.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(ledger.close().await);
}

async fn a_late_capture_takes_its_claim_again(fixture: TestLedger) {
    let mut ledger = fixture.backend().await;
    ledger.ask(Operation::Post(grant("g", "alice", "10"))).await;
    let [first, second, other] = [(); 3].map(|()| HoldId::for_call());
    for (hold, n) in [(&first, 1), (&second, 2)] {
        ledger.ask(hold_with(hold, key(n))).await;
        ledger.ask(Operation::Renew { hold: hold.clone(), ttl_ms: 0 }).await;
    }
    assert_eq!(ledger.tick(&|_| false).await.len(), 2);
    // Another call has one of the claims meanwhile.
    assert!(matches!(ledger.ask(hold_with(&other, key(2))).await, Outcome::Held { .. }));
    for (hold, n) in [(&first, 1), (&second, 2)] {
        let late = ledger.ask(capture_of(hold, Some(claim_id(n)))).await;
        assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    }
    for (holder, n, state) in [(&first, 1, ClaimState::Charged), (&other, 2, ClaimState::Running)] {
        let outcome = ledger.ask(hold_with(&HoldId::for_call(), key(n))).await;
        assert_eq!(outcome, Outcome::Claimed(by(holder, state)));
    }
    assert!(ledger.close().await);
}

async fn a_crash_settles_claims_as_it_settles_their_holds(fixture: TestLedger) {
    for after_crash in [AfterCrash::Release, AfterCrash::Charge] {
        let crashed = fixture.crashed();
        let ledger = crashed.open_after(after_crash).await;
        ledger.post(grant("initial", "alice", "20")).await.unwrap();
        let (running, done) = (held(&ledger, key(1)).await, held(&ledger, key(2)).await);
        let (id, done_id) = (running.id().clone(), done.id().clone());
        done.capture(credits("1"));
        ledger.reconciles().await; // In `relaxed` this also waits for the disk.
        let crashed = crashed.crashed();
        for _ in 0..2 {
            let after = crashed.open_after(after_crash).await;
            assert_eq!(claimed(&after, key(2)).await, by(&done_id, ClaimState::Charged));
            match after_crash {
                AfterCrash::Release => drop(held(&after, key(1)).await),
                AfterCrash::Charge => {
                    assert_eq!(claimed(&after, key(1)).await, by(&id, ClaimState::Charged));
                }
            }
            after.reconciles().await;
            after.stop().await;
        }
        drop(running);
        ledger.stop().await;
    }
}

/// In `strict` a batch of calls is first written as one row of the log. The copies show the moments before the calls'
/// own rows are written.
async fn a_start_finds_the_claims_in_the_log(fixture: TestLedger) {
    if !fixture.kind.is_strict() {
        return;
    }
    let ledger = fixture.open_with("1000").await;
    for round in 0.. {
        assert!(round < 200, "no copy had everything in its log");
        let n = round * 10;
        let charged = held(&ledger, key(n)).await;
        let id = charged.id().clone();
        let leave = charged.leave(claim_id(n + 5));
        leave.await.unwrap();
        charged.capture(credits("1"));
        held(&ledger, key(n + 1)).await.release();
        let live = held(&ledger, key(n + 2)).await;
        let copy = fixture.crashed();
        let logged = copy.logged_holds().await;
        live.release();
        if logged < 3 {
            ledger.reconciles().await;
            continue;
        }
        let after = copy.open().await;
        assert_eq!(claimed(&after, key(n)).await, by(&id, ClaimState::Charged));
        assert_eq!(claimed(&after, retry(n + 5)).await, by(&id, ClaimState::Charged));
        for free in [key(n + 1), key(n + 2), retry(n + 5)] {
            held(&after, free).await.release();
        }
        after.reconciles().await;
        after.stop().await;
        break;
    }
    ledger.stop().await;
}
