//! Calls that were cut off, by a crash or by a stop that ran out of time. `[ledger] after_crash`
//! decides whether their holds are captured or released, and a list shows the operator what happened to
//! each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::operation::HoldId;

/// The reason of a capture that was made for a crash.
pub(crate) const CRASH_REASON: &str = "crash";

/// `[ledger] after_crash`: whether the hold of a call that was cut off is captured or released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterCrash {
    /// The hold is given back. The call is free, whatever the upstream did for it.
    #[default]
    Release,
    /// The whole hold is captured, so every call that was forwarded is charged.
    Charge,
}

/// How the hold of a call that was cut off ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CrashOutcome {
    /// The whole hold was captured.
    Charged,
    /// The hold was given back.
    Released,
    /// The gateway had only been paused, and later ended the hold itself. That later end counts.
    Corrected,
}

impl CrashOutcome {
    /// The word that is stored and shown.
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

/// A call in the list of calls that were cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashedCall {
    /// The call's request id, which is the id of its hold.
    pub id: HoldId,
    /// The account that called.
    pub account: AccountId,
    /// The route's label.
    pub route: Arc<str>,
    /// The amount that was charged or given back. For a corrected call, the amount that is finally
    /// charged.
    pub amount: Credits,
    /// How the hold ended.
    pub outcome: CrashOutcome,
    /// The time of the hold's end, in milliseconds since 1970.
    pub at_ms: i64,
}

impl CrashedCall {
    /// Logs the call at WARN.
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
