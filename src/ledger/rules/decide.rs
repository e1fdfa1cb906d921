//! The entry points of the rules: one operation, and the ends of holds by time or by a crash.

use crate::ledger::crash::AfterCrash;
use crate::ledger::operation::{Ending, HoldId, Operation, Origin, Outcome, Refusal};
use crate::ledger::rules::claims::End;
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::holds::Charge;
use crate::ledger::rules::state::{Changes, Known, LiveHold, Now, State};

/// Decides one operation, and changes the state unless the operation is refused.
pub(crate) fn decide(
    operation: &Operation,
    state: &mut State,
    known: &mut Known,
    changes: &mut Changes,
    now: Now,
) -> Outcome {
    let mut rules = Rules { state, known, changes, now };
    let decided = match operation {
        Operation::Open { account, signup } => rules.open(account, *signup),
        Operation::Hold(hold) => rules.hold(hold),
        Operation::Extend { hold, account, amount } => rules.extend(hold, account, *amount),
        Operation::Renew { hold, ttl_ms } => rules.renew(hold, *ttl_ms),
        Operation::Capture { hold, account, amount, route, origin, may_overrun, usage, claim } => {
            let charge = Charge {
                amount: *amount,
                route,
                may_overrun: *may_overrun && *origin == Origin::Call,
                usage: usage.as_ref(),
            };
            let captured = rules.capture(hold, account.as_ref(), *origin, charge);
            if let Ok(outcome) = &captured
                && *origin == Origin::Call
            {
                // A capture of zero may correct a capture that was made for a crash. The claim is then given up.
                let end = if amount.is_zero() { End::Released } else { End::of(outcome) };
                rules.settle_claim(hold, *claim, end);
            }
            captured
        }
        Operation::Release { hold, account, origin, claim } => {
            let released = rules.end(hold, account.as_ref(), *origin, Ending::Released);
            if released.is_ok() && *origin == Origin::Call {
                rules.settle_claim(hold, *claim, End::Released);
            }
            released
        }
        Operation::Abandon { hold, account, after, claim, .. } => {
            rules.abandon(hold, account, *after, *claim)
        }
        Operation::MarkClaim { claim, hold, mark } => rules.mark_claim(claim, hold, *mark),
        Operation::Leave { id, hold, account } => rules.leave(*id, hold, account),
        Operation::Post(posting) => rules.post(posting),
        Operation::Refund { hold, reason } => rules.refund(hold, None, reason.clone()),
        Operation::RefundPart { hold, id, amount, reason } => {
            rules.refund(hold, Some((id, *amount)), reason.clone())
        }
        Operation::Import(import) => Ok(rules.import(import)),
        Operation::PutKeys(keys) => rules.put_keys(keys),
        Operation::RevokeKey { id } => rules.revoke_key(id),
        Operation::RecordEvent(event) => rules.record_event(event),
        Operation::EndEvent { id, state, note } => rules.end_event(id, *state, note.as_ref()),
        Operation::TakeFacts(take) => rules.take_facts(take),
        Operation::RecordCustomer { account, customer, instead_of } => {
            rules.record_customer(account, customer, instead_of.as_ref())
        }
        Operation::Thaw { account } => rules.thaw(account),
        Operation::Balance { account } => Ok(Outcome::Balance(rules.state.balance(account))),
        // These operations concern the disk, so the backend decides them itself.
        Operation::Audit | Operation::Fold { .. } => Err(Refusal::Unavailable),
    };
    decided.unwrap_or_else(Outcome::Refused)
}

/// Extends the life of a hold whose time has run out by another `ttl_ms`.
pub(crate) fn renew(
    hold: &HoldId,
    ttl_ms: u64,
    state: &mut State,
    changes: &mut Changes,
    now: Now,
) {
    let mut rules = Rules { state, known: &mut Known::default(), changes, now };
    // The caller has found the hold in the state, so the rule cannot refuse it.
    let _ = rules.renew(hold, ttl_ms);
}

/// Ends a hold whose time has run out; returns the hold as it was before.
pub(crate) fn expire(
    hold: &HoldId,
    state: &mut State,
    changes: &mut Changes,
    now: Now,
) -> Option<LiveHold> {
    let live = state.holds.get(hold)?.clone();
    let mut rules = Rules { state, known: &mut Known::default(), changes, now };
    rules.end(hold, Some(&live.account), live.origin, Ending::Expired).ok()?;
    rules.settle_claim(hold, None, End::Released);
    Some(live)
}

/// Ends the holds of all calls, oldest first. Call this only at a start, before any call runs. The
/// gateway that made these holds is gone, so nothing else would end them.
pub(crate) fn abandon_calls(after: AfterCrash, state: &mut State, changes: &mut Changes, now: Now) {
    let calls = state.holds.iter().filter(|(_, hold)| hold.origin == Origin::Call);
    let mut calls: Vec<_> = calls.map(|(id, hold)| (id.clone(), hold.account.clone())).collect();
    calls.sort();
    for (id, account) in calls {
        let mut rules = Rules { state, known: &mut Known::default(), changes, now };
        let ended = rules.abandon(&id, &account, after, None);
        // The charge is refused only if the balance would leave the range that can be counted.
        if let Err(refusal) = ended {
            tracing::error!(hold = %id, %account, %refusal, "the charge of a cut off call was refused; its hold is released");
            let _ = rules.abandon(&id, &account, AfterCrash::Release, None);
        }
    }
}
