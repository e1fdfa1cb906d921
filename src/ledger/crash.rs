//! Calls that their gateway did not settle: a crash, or a stop that ran out of time, cut them off.
//! `[ledger] after_crash` says what becomes of their holds, and a list says what did.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::credits::Credits;

use super::operation::{
    Balance, Ending, Entry, EntryKind, HoldId, Operation, OperationId, Origin, Outcome, Refusal,
};
use crate::ledger::rules::holds::Rules;
use crate::ledger::rules::state::LiveHold;

/// For how long a call that was cut off stands in the list.
pub(crate) const CRASHED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The reason of a capture that was made for a call that nobody settled.
pub(crate) const CRASH: &str = "crash";

/// The reason of what is given back once such a call is settled after all.
const CORRECTED: &str = "corrected";

/// `[ledger] after_crash`: whether the hold of a call that was cut off is captured or released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterCrash {
    /// The hold is given back: the call is free, whatever the upstream did for it.
    #[default]
    Release,
    /// The whole hold is captured: no call that was forwarded escapes its debit.
    Charge,
}

/// How the hold of a call that was cut off ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CrashOutcome {
    /// The hold was captured whole.
    Charged,
    /// The hold was given back.
    Released,
    /// The gateway was only paused, and settled the call later: that counts.
    Corrected,
}

impl CrashOutcome {
    /// As it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charged => "charged",
            Self::Released => "released",
            Self::Corrected => "corrected",
        }
    }

    /// Reads [`CrashOutcome::as_str`] back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Charged, Self::Released, Self::Corrected].into_iter().find(|o| o.as_str() == text)
    }
}

/// A call that was cut off, in the list of such calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashedCall {
    /// The call's request id, which is the id of its hold.
    pub id: HoldId,
    /// Who pays.
    pub account: AccountId,
    /// The route's label.
    pub route: Arc<str>,
    /// How much was charged or given back; of a corrected call, how much it is charged in the end.
    pub amount: Credits,
    /// How its hold ended.
    pub outcome: CrashOutcome,
    /// When its hold ended, in milliseconds since 1970.
    pub at_ms: i64,
}

impl CrashedCall {
    /// A call whose hold was given back by this operation, if it was one.
    pub(crate) fn released(operation: &Operation, at_ms: i64) -> Option<Self> {
        let Operation::Abandon { hold, account, amount, route, .. } = operation else {
            return None;
        };
        Some(Self {
            id: hold.clone(),
            account: account.clone(),
            route: route.clone(),
            amount: *amount,
            outcome: CrashOutcome::Released,
            at_ms,
        })
    }

    /// The line that each such call leaves in the log.
    pub(crate) fn log(&self) {
        tracing::warn!(
            account = %self.account,
            route = &*self.route,
            amount = %self.amount,
            request_id = %self.id,
            outcome = self.outcome.as_str(),
            "a crash or a stop cut a call off"
        );
    }
}

impl Rules<'_> {
    /// Ends the hold of a call that was cut off. A hold that has ended, or was never granted, is
    /// not charged.
    pub fn abandon(
        &mut self,
        id: &HoldId,
        account: &AccountId,
        after: AfterCrash,
    ) -> Result<Outcome, Refusal> {
        let is_ours = |live: &&LiveHold| live.origin == Origin::Call && live.account == *account;
        let Some(live) = self.state.holds.get(id).filter(is_ours).cloned() else {
            // Asked again, since the answer was lost.
            if let Some(charged) = self.captured_for_a_crash(id, Some(account), Origin::Call) {
                let after = self.balance(&charged.account);
                return Ok(Outcome::Captured { after, late: false, settled: None });
            }
            return self.end(id, Some(account), Origin::Call, Ending::Released);
        };
        let (outcome, became) = match after {
            AfterCrash::Charge => {
                let charged = self.charge(id, live.clone(), live.amount, Some(CRASH.into()))?;
                (charged, CrashOutcome::Charged)
            }
            AfterCrash::Release => {
                let released = self.end(id, Some(account), Origin::Call, Ending::Released)?;
                (released, CrashOutcome::Released)
            }
        };
        self.list(id, account, &live.route, live.amount, became);
        Ok(outcome)
    }

    /// Settles a call after all whose capture was made for a crash: its gateway was only paused.
    /// Gives back, once, what the call did not use of it, less what an operator has given back.
    pub(crate) fn correct(
        &mut self,
        id: &HoldId,
        capture: &Entry,
        used: Credits,
    ) -> Result<Balance, Refusal> {
        let charged = (-capture.amount).spendable();
        let operation = OperationId::corrected(id);
        if let Some(corrected) = self.known.entries.get(&operation) {
            let given = charged.checked_sub(used).unwrap_or_default();
            let limited = corrected.amount < given.signed() && self.left_of(id, capture).is_zero();
            let same = corrected.amount == given.signed() || limited;
            return if same { Ok(self.balance(&capture.account)) } else { Err(Refusal::Conflict) };
        }
        let too_much = charged.checked_sub(used).ok_or(Refusal::AboveHold { held: charged })?;
        let given = too_much.min(self.left_of(id, capture));
        if !given.is_zero() {
            self.enter(
                &capture.account,
                operation,
                EntryKind::Refund,
                given.signed(),
                capture.route.clone(),
                Some(CORRECTED.into()),
            )?;
        }
        let route = capture.route.clone().unwrap_or_default();
        self.list(id, &capture.account, &route, used, CrashOutcome::Corrected);
        Ok(self.balance(&capture.account))
    }

    fn list(
        &mut self,
        id: &HoldId,
        account: &AccountId,
        route: &Arc<str>,
        amount: Credits,
        outcome: CrashOutcome,
    ) {
        let (account, route) = (account.clone(), route.clone());
        let at_ms = self.now.wall_ms;
        let call = CrashedCall { id: id.clone(), account, route, amount, outcome, at_ms };
        self.changes.crashed.insert(id.clone(), call);
    }
}
