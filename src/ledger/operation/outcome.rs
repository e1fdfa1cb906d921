//! The outcomes of operations.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::claim::Claimed;
use crate::ledger::inbox::EventState;
use crate::ledger::operation::entry::{Balance, Entry};
use crate::ledger::operation::refusal::Refusal;
use crate::ledger::payment::PaymentChange;
use crate::ledger::report::{Difference, FoldCursor, FoldReport};

/// The amounts with which a hold ended, for metrics and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEnd {
    /// The account of the hold.
    pub account: AccountId,
    /// The route of the hold.
    pub route: Arc<str>,
    /// The amount that was charged.
    pub captured: Credits,
    /// The amount that was given back.
    pub released: Credits,
}

/// A hold of the API after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedHold {
    /// True if the hold was charged; false if all of it was given back.
    pub is_captured: bool,
    /// True if the hold had expired before, and was charged all the same.
    pub is_late: bool,
    /// The account's balance now.
    pub after: Balance,
    /// The amounts; `None` if the hold had already ended in this way.
    pub end: Option<HoldEnd>,
}

/// The outcome of one [`Operation`](super::Operation), as a backend reports it to the pipeline. The
/// rest of the gateway calls the methods of [`Ledger`](crate::ledger::Ledger) instead, each of which
/// has its own type of result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The account exists; if it is new, with its sign-up entry.
    Opened {
        /// False if the account existed already.
        new: bool,
    },
    /// The credits are set aside, now or by an earlier request of the same operation.
    Held {
        /// The account's balance with the hold counted.
        after: Balance,
    },
    /// Another call has the claim that the hold asked for. Nothing was held.
    Claimed(Claimed),
    /// The claim has the mark of its request, or the claim no longer belongs to this hold.
    ClaimMarked,
    /// The call is recorded as left by its client.
    Left,
    /// The hold lives until its new deadline.
    Renewed,
    /// The hold is charged, now or by an earlier request of the same operation.
    Captured {
        /// The account's balance now.
        after: Balance,
        /// True if the hold had expired or was unknown; the charge counts all the same.
        late: bool,
        /// The amounts. `None` if the hold was charged before, and `None` for a call's hold, whose
        /// guard knows the amounts.
        end: Option<HoldEnd>,
    },
    /// The hold is given back, now or by an earlier request.
    Released {
        /// The account's balance now.
        after: Balance,
        /// The amounts. `None` if the hold was given back before, and `None` for a call's hold,
        /// whose guard knows the amounts.
        end: Option<HoldEnd>,
    },
    /// The balance moved, now or by an earlier request of the same operation.
    Posted {
        /// The entry that moved the balance.
        entry: Entry,
        /// False if the entry existed already.
        new: bool,
    },
    /// The outcome of each row of an [`Import`](crate::ledger::Import), in order:
    /// [`Outcome::Posted`], [`Outcome::KeysStored`] or [`Outcome::Refused`]. If one row is refused,
    /// or in a dry run, nothing has changed, and the outcomes are those that the rows would have
    /// had.
    Imported(Vec<Self>),
    /// The keys are stored.
    KeysStored {
        /// The number of keys that were not stored before.
        new: usize,
    },
    /// The key is revoked, now or by an earlier request.
    KeyRevoked,
    /// The event is in the inbox, or had been there before.
    EventRecorded {
        /// The event's state.
        state: EventState,
        /// False if the event was in the inbox before.
        new: bool,
    },
    /// The event's final state is recorded.
    EventEnded,
    /// The facts are added to their payment.
    PaymentChanged(Box<PaymentChange>),
    /// The customer at Stripe that is recorded for the account: the given one, or an earlier one.
    CustomerRecorded(Arc<str>),
    /// No dispute freezes the account any more.
    Thawed {
        /// The number of disputes that froze the account.
        disputes: usize,
    },
    /// The differences between memory and disk; empty if there are none.
    Audited(Vec<Difference>),
    /// One slice of the old entries is folded.
    Folded {
        /// The sums of this slice.
        report: FoldReport,
        /// The start of the next slice; `None` if this was the last one.
        next: Option<FoldCursor>,
    },
    /// The account's balance; `None` if the account does not exist.
    Balance(Option<Balance>),
    /// The operation changed nothing.
    Refused(Refusal),
}
