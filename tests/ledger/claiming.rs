//! Calls with a claim: what the tests of claims ask of a ledger, and what they expect.

use farebox::ledger::{
    CallId, Claim, ClaimId, ClaimState, Claimed, HeldOrClaimed, Hold, HoldId, Ledger, NewHold,
    Operation, Origin, Refusal, RequestMark,
};

use crate::test_ledger::{HOUR_MS, account, credits};

/// The time that a key is kept, in milliseconds.
pub const KEEP_MS: u64 = 24 * HOUR_MS;

pub fn claim_id(n: u64) -> ClaimId {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    ClaimId::new(bytes)
}

pub fn mark(n: u8) -> RequestMark {
    RequestMark::new([n; 32])
}

pub fn key(n: u64) -> Claim {
    Claim::Key { id: claim_id(n), mark: Some(mark(1)), keep_ms: KEEP_MS }
}

pub fn retry(n: u64) -> Claim {
    Claim::Retry { id: claim_id(n) }
}

/// A call of alice's with a claim.
pub async fn ask(ledger: &Ledger, claim: Claim) -> Result<HeldOrClaimed, Refusal> {
    let (alice, route) = (account("alice"), "/x".into());
    ledger.hold_claiming(CallId::new(), alice, credits("1"), route, Some(claim)).await
}

/// The hold of a call that got its claim.
pub async fn held(ledger: &Ledger, claim: Claim) -> Hold {
    match ask(ledger, claim).await {
        Ok(HeldOrClaimed::Held(hold)) => hold,
        other => panic!("{other:?}"),
    }
}

/// The ledger's answer to a call whose claim another call has.
pub async fn claimed(ledger: &Ledger, claim: Claim) -> Claimed {
    match ask(ledger, claim).await {
        Ok(HeldOrClaimed::Claimed(claimed, _)) => claimed,
        other => panic!("{other:?}"),
    }
}

/// The claim of this call, in this state.
pub fn by(hold: &HoldId, state: ClaimState) -> Claimed {
    Claimed { hold: hold.clone(), state }
}

/// A call's hold of one credit, for a bare backend.
pub fn hold_with(id: &HoldId, claim: Claim) -> Operation {
    Operation::Hold(NewHold {
        id: id.clone(),
        account: account("alice"),
        amount: credits("1"),
        route: "/x".into(),
        origin: Origin::Call,
        ttl_ms: HOUR_MS,
        claim: Some(claim),
    })
}

/// The capture of a call's hold of one credit.
pub fn capture_of(hold: &HoldId, claim: Option<ClaimId>) -> Operation {
    Operation::Capture {
        hold: hold.clone(),
        account: Some(account("alice")),
        amount: credits("1"),
        route: "/x".into(),
        origin: Origin::Call,
        may_overrun: true,
        usage: None,
        claim,
    }
}
