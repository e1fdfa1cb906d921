//! Calls that their clients left: which retry is told of them.

use farebox::ledger::{AfterCrash, Backend as _, ClaimState, HoldId, NewHold, Operation, Outcome};

use crate::claiming::{by, capture_of, claim_id, claimed, held, hold_with, retry};
use crate::test_ledger::{
    TestLedger, account, credits, grant, hold_id, on_cluster_ledgers, on_embedded_ledgers,
};

on_embedded_ledgers!("current_thread":
    a_call_that_was_left_is_told_to_one_retry_the_oldest_first,
    calls_that_were_left_at_once_are_told_in_their_order,
    a_call_that_was_left_and_not_charged_is_forgotten,
    calls_that_were_left_outlive_a_crash,
);

on_cluster_ledgers!("current_thread":
    a_call_that_was_left_is_told_to_one_retry_the_oldest_first,
    a_call_that_was_left_and_not_charged_is_forgotten,
);

async fn a_call_that_was_left_is_told_to_one_retry_the_oldest_first(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, retry(1)).await.release();
    let (first, second) = (ledger.call("1").await.unwrap(), ledger.call("1").await.unwrap());
    let ids = [first.id().clone(), second.id().clone()];
    for hold in [&first, &second, &first] {
        hold.leave(claim_id(1)).await.unwrap();
    }
    // A retry that has to wait does not use up the call that was left.
    for _ in 0..2 {
        assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[0], ClaimState::Running));
    }
    held(&ledger, retry(2)).await.release();
    second.capture(credits("1"));
    assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[0], ClaimState::Running));
    first.capture(credits("1"));
    assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[0], ClaimState::Charged));
    ledger.reconciles().await;
    assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[1], ClaimState::Charged));
    held(&ledger, retry(1)).await.release();
    // A call that was charged before the news of its client came.
    let third = ledger.call("1").await.unwrap();
    let leave = third.leave(claim_id(3));
    let id = third.id().clone();
    third.capture(credits("1"));
    leave.await.unwrap();
    assert_eq!(claimed(&ledger, retry(3)).await, by(&id, ClaimState::Charged));
    held(&ledger, retry(3)).await.release();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn calls_that_were_left_at_once_are_told_in_their_order(fixture: TestLedger) {
    let mut ledger = fixture.backend().await;
    ledger.ask(Operation::Post(grant("g", "alice", "10"))).await;
    let ids = ["b", "c", "a"].map(hold_id);
    let leave = |hold: &HoldId| Operation::Leave {
        id: claim_id(1),
        hold: hold.clone(),
        account: account("alice"),
    };
    let holds = ids.each_ref().map(|id| without_claim(hold_with(id, retry(9))));
    ledger.apply(&holds).await;
    ledger.apply(&ids.each_ref().map(leave)).await;
    ledger.apply(&ids.each_ref().map(|id| capture_of(id, None))).await;
    for id in &ids {
        let outcome = ledger.ask(hold_with(&HoldId::for_call(), retry(1))).await;
        assert_eq!(outcome, Outcome::Claimed(by(id, ClaimState::Charged)));
    }
    assert!(ledger.close().await);
}

/// This hold, as that of a call without a claim.
fn without_claim(operation: Operation) -> Operation {
    match operation {
        Operation::Hold(hold) => Operation::Hold(NewHold { claim: None, ..hold }),
        other => other,
    }
}

async fn a_call_that_was_left_and_not_charged_is_forgotten(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call = ledger.call("1").await.unwrap();
    call.leave(claim_id(1)).await.unwrap();
    call.release();
    held(&ledger, retry(1)).await.release();
    let call = ledger.call("1").await.unwrap();
    let leave = call.leave(claim_id(1));
    call.release();
    leave.await.unwrap();
    held(&ledger, retry(1)).await.release();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn calls_that_were_left_outlive_a_crash(fixture: TestLedger) {
    let ledger = fixture.open_after(AfterCrash::Charge).await;
    ledger.post(grant("initial", "alice", "20")).await.unwrap();
    let mut ids = Vec::new();
    let live = ledger.call("1").await.unwrap();
    for n in 1..=2 {
        let call = ledger.call("1").await.unwrap();
        ids.push(call.id().clone());
        call.leave(claim_id(n)).await.unwrap();
        call.capture(credits("1"));
    }
    live.leave(claim_id(3)).await.unwrap();
    claimed(&ledger, retry(2)).await;
    ledger.reconciles().await;
    let copy = fixture.crashed();
    let after = copy.open_after(AfterCrash::Charge).await;
    assert_eq!(claimed(&after, retry(1)).await, by(&ids[0], ClaimState::Charged));
    held(&after, retry(2)).await.release();
    assert_eq!(claimed(&after, retry(3)).await, by(live.id(), ClaimState::Charged));
    after.stop().await;
    // As if two minutes had passed.
    copy.execute("UPDATE left_calls SET until = 1000, state = 'charged'").await.unwrap();
    let after = copy.open_after(AfterCrash::Charge).await;
    held(&after, retry(1)).await.release();
    after.stop().await;
    drop(live);
    ledger.stop().await;
}
