//! The requests that a ledger decides.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::claim::{Claim, ClaimId, RequestMark};
use crate::ledger::crash::{AfterCrash, CrashOutcome, CrashedCall};
use crate::ledger::imports::Import;
use crate::ledger::inbox::{EventState, NewEvent};
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::entry::Posting;
use crate::ledger::operation::ids::{HoldId, OperationId};
use crate::ledger::operation::kinds::Origin;
use crate::ledger::payment::TakeFacts;
use crate::ledger::report::FoldCursor;
use crate::usage::UsageRecord;

/// How long a call's hold lives without a renewal, in milliseconds. While the hold's guard lives,
/// the hold is renewed whenever this time is up. So the limit ends only holds that lost their
/// guard, and not long calls.
pub(crate) const CALL_TTL_MS: u64 = 60_000;

/// Credits to set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHold {
    /// The id of the hold. A repetition of the same hold has no second effect.
    pub id: HoldId,
    /// The account whose credits are set aside.
    pub account: AccountId,
    /// The amount, above zero.
    pub amount: Credits,
    /// The route's pattern, or the endpoint that an API caller named.
    pub route: Arc<str>,
    /// The party that ends the hold.
    pub origin: Origin,
    /// The time without a renewal after which the hold expires, in milliseconds.
    pub ttl_ms: u64,
    /// The claim that the call makes in the same decision; only calls make claims. While another call has the claim,
    /// the outcome is [`Outcome::Claimed`](super::Outcome::Claimed), and nothing is held.
    pub claim: Option<Claim>,
}

/// One request of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes the account exist, with a sign-up grant if it is new.
    Open {
        /// The account.
        account: AccountId,
        /// The sign-up grant; zero for none.
        signup: Credits,
    },
    /// Sets credits aside.
    Hold(NewHold),
    /// Sets more credits aside under the live hold of a call. The operation names the whole amount
    /// and not the increase, so a repetition changes nothing.
    Extend {
        /// The hold.
        hold: HoldId,
        /// The account of the hold.
        account: AccountId,
        /// The amount that the hold shall have. A hold that already has at least this amount does
        /// not change.
        amount: Credits,
    },
    /// Moves a hold's deadline to `ttl_ms` from now.
    Renew {
        /// The hold.
        hold: HoldId,
        /// The time to live, in milliseconds.
        ttl_ms: u64,
    },
    /// Charges a hold, in part or whole, and gives the rest back. The operation has all that is
    /// needed to charge, even if the ledger no longer knows the hold.
    Capture {
        /// The hold.
        hold: HoldId,
        /// The account that pays; `None` for an API caller that names only the hold.
        account: Option<AccountId>,
        /// The amount to charge.
        amount: Credits,
        /// The route of the hold.
        route: Arc<str>,
        /// The origin of the hold.
        origin: Origin,
        /// Whether a call may be charged more than its hold, which may lead to a debt. If false, a
        /// capture above the hold is refused. For holds of the API it is always refused.
        may_overrun: bool,
        /// The usage of a metered call.
        usage: Option<Arc<UsageRecord>>,
        /// The claim of the call under a key. The claim becomes charged together with the hold.
        claim: Option<ClaimId>,
    },
    /// Gives a hold back.
    Release {
        /// The hold.
        hold: HoldId,
        /// The account of the hold; `None` for an API caller that names only the hold.
        account: Option<AccountId>,
        /// The origin of the hold.
        origin: Origin,
        /// The claim of the call under a key. The claim is removed together with the hold.
        claim: Option<ClaimId>,
    },
    /// Ends the hold of a call that was cut off, so that nobody knows how the call would have ended.
    Abandon {
        /// The hold.
        hold: HoldId,
        /// The account of the hold.
        account: AccountId,
        /// The amount of the hold.
        amount: Credits,
        /// The route of the hold.
        route: Arc<str>,
        /// Whether the hold is captured or released.
        after: AfterCrash,
        /// The claim of the call under a key. The claim becomes charged or is removed, like the hold.
        claim: Option<ClaimId>,
    },
    /// Tells which request a claim is for, if the hold was decided before the request's body had arrived. Changes
    /// nothing if the claim no longer belongs to this hold.
    MarkClaim {
        /// The claim.
        claim: ClaimId,
        /// The hold of the call that has the claim.
        hold: HoldId,
        /// Recognises the request.
        mark: RequestMark,
    },
    /// Records that the client of a call, an SDK, left before the head of its answer was sent. For two minutes from now
    /// one [`Claim::Retry`] with this id is told of the call. The record is removed early if the hold is released. A
    /// repetition changes nothing.
    Leave {
        /// The hash of the scope and the request.
        id: ClaimId,
        /// The hold of the call.
        hold: HoldId,
        /// The account of the hold.
        account: AccountId,
    },
    /// Moves a balance.
    Post(Posting),
    /// Refunds a whole capture, less the parts that [`Operation::RefundPart`] refunded.
    Refund {
        /// The hold, or request id, that was captured.
        hold: HoldId,
        /// The reason in the operator's words.
        reason: Option<Arc<str>>,
    },
    /// Refunds a part of a capture. All parts together can never exceed the capture.
    RefundPart {
        /// The hold, or request id, that was captured.
        hold: HoldId,
        /// The id, from [`OperationId::refund_part`] for this hold. A repetition has no second effect.
        id: OperationId,
        /// The amount to give back.
        amount: Credits,
        /// The reason in the operator's words.
        reason: Option<Arc<str>>,
    },
    /// Imports rows from an earlier system.
    Import(Box<Import>),
    /// Stores API keys. Keys that are already stored do not change.
    PutKeys(Vec<KeyRecord>),
    /// Revokes an API key.
    RevokeKey {
        /// The key's id.
        id: Arc<str>,
    },
    /// Stores a Stripe event in the inbox, so that the event can be acknowledged.
    RecordEvent(NewEvent),
    /// Records the final state of an event that moves no credits.
    EndEvent {
        /// The event.
        id: Arc<str>,
        /// The event's final state.
        state: EventState,
        /// The reason, if the event failed.
        note: Option<Arc<str>>,
    },
    /// Adds facts to a payment, and moves the credits that follow from them.
    TakeFacts(Box<TakeFacts>),
    /// Records an account's customer at Stripe.
    RecordCustomer {
        /// The account.
        account: AccountId,
        /// Stripe's id of the customer.
        customer: Arc<str>,
        /// The recorded customer that may be replaced, because Stripe has deleted it. Any other
        /// recorded customer stays.
        instead_of: Option<Arc<str>>,
    },
    /// Unfreezes an account, even if disputes against it are not over.
    Thaw {
        /// The account.
        account: AccountId,
    },
    /// Compares memory with the disk.
    Audit,
    /// Folds one slice of the entries that are older than a moment, into one opening balance for each
    /// account. A slice is small, so that other operations wait only briefly.
    Fold {
        /// The moment, in milliseconds since 1970.
        before_ms: i64,
        /// The start of this slice, which the slice before returned; `None` for the first slice.
        from: Option<FoldCursor>,
    },
    /// Reads a balance, after all operations that were requested earlier and name the account.
    Balance {
        /// The account.
        account: AccountId,
    },
}

impl Operation {
    /// The hold that the operation ends, if it ends one.
    pub(crate) fn ends(&self) -> Option<&HoldId> {
        match self {
            Self::Capture { hold, .. }
            | Self::Release { hold, .. }
            | Self::Abandon { hold, .. } => Some(hold),
            _ => None,
        }
    }

    /// Whether the operation charges a call. No caller repeats a lost charge.
    pub(crate) fn is_charge(&self) -> bool {
        matches!(self, Self::Capture { origin: Origin::Call, .. })
    }

    /// The origin of the hold that the operation makes, extends or ends; `None` for other
    /// operations.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match self {
            Self::Hold(NewHold { origin, .. })
            | Self::Capture { origin, .. }
            | Self::Release { origin, .. } => Some(*origin),
            Self::Extend { .. } | Self::Abandon { .. } => Some(Origin::Call),
            _ => None,
        }
    }

    /// Whether the operation sets credits aside.
    pub(crate) fn takes_credits(&self) -> bool {
        matches!(self, Self::Hold(_) | Self::Extend { .. })
    }

    /// The entry for the list of calls that were cut off, if this operation ended the hold of such
    /// a call at `at_ms`; `None` for other operations.
    pub(crate) fn crashed_call(&self, at_ms: i64) -> Option<CrashedCall> {
        let Self::Abandon { hold, account, amount, route, .. } = self else { return None };
        Some(CrashedCall {
            id: hold.clone(),
            account: account.clone(),
            route: route.clone(),
            amount: *amount,
            outcome: CrashOutcome::Released,
            at_ms,
        })
    }
}

impl From<Import> for Operation {
    fn from(import: Import) -> Self {
        Self::Import(Box::new(import))
    }
}
