//! What can be asked of a ledger, and what it answers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};

use super::crash::AfterCrash;
use super::inbox::{EventState, NewEvent};
use super::key::KeyRecord;
use super::payment::{Settled, TakeFacts};
use super::report::{Difference, FoldCursor, FoldReport};
use crate::ledger::imports::Import;

/// The id of a hold. For a proxied call it is the call's request id, made here and never
/// repeated; for a hold made through the API it is the caller's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(Arc<str>);

/// Why a text cannot be an operation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 128 visible ASCII characters, without spaces")]
pub struct IdError;

/// The end of the id of [`OperationId::corrected`].
const CORRECTED: &str = "/corrected";

fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

impl HoldId {
    /// A new id for a proxied call: a UUID of version 7, so ids sort by the time they were made.
    pub fn for_call() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        Self(Arc::from(&*uuid::Uuid::now_v7().as_hyphenated().encode_lower(&mut buffer)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The right to make one call's hold: it is used up by [`Ledger::hold`](super::Ledger::hold), so
/// that no two holds of calls can share an id. What is decided of a call's hold counts on that.
///
/// ```compile_fail,E0382
/// use farebox::{account::AccountId, credits::Credits, ledger::{CallId, Ledger}};
///
/// async fn twice(ledger: Ledger, alice: AccountId, amount: Credits) {
///     let id = CallId::new();
///     let _first = ledger.hold(id, alice.clone(), amount, "/x".into()).await;
///     let _second = ledger.hold(id, alice, amount, "/x".into()).await; // used up
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct CallId(HoldId);

impl CallId {
    /// A new id.
    #[expect(clippy::new_without_default, reason = "a default that differs each time surprises")]
    pub fn new() -> Self {
        Self(HoldId::for_call())
    }

    /// The id that its hold will have.
    pub fn hold_id(&self) -> &HoldId {
        &self.0
    }
}

impl From<CallId> for HoldId {
    fn from(id: CallId) -> Self {
        id.0
    }
}

impl FromStr for HoldId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_id(text) { Ok(Self(text.into())) } else { Err(IdError) }
    }
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Under which name an operation that moves a balance takes effect at most once. The prefix
/// keeps ids of different kinds apart: a grant and an adjustment may both be called `gift-7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(Arc<str>);

impl OperationId {
    /// A grant, adjustment, clawback or reinstatement, by the id its maker chose.
    pub fn posting(kind: EntryKind, id: &str) -> Result<Self, IdError> {
        if is_id(id) { Ok(Self(format!("{}:{id}", kind.as_str()).into())) } else { Err(IdError) }
    }

    /// The capture of a hold.
    pub fn capture(hold: &HoldId) -> Self {
        Self(format!("capture:{hold}").into())
    }

    /// The refund of a hold's capture.
    pub fn refund(hold: &HoldId) -> Self {
        Self(format!("refund:{hold}").into())
    }

    /// The refund of a part of a hold's capture, by the id its maker chose. A space stands in no
    /// hold's id, so no two pairs of hold and id share an operation.
    pub fn refund_part(hold: &HoldId, id: &str) -> Result<Self, IdError> {
        if is_id(id) { Ok(Self(format!("refund:{hold} {id}").into())) } else { Err(IdError) }
    }

    /// The refund of a capture that was made for a crash, once its call is settled after all. A
    /// `/` stands in no id that an API caller can choose, nor in a call's.
    pub fn corrected(hold: &HoldId) -> Self {
        Self(format!("refund:{hold}{CORRECTED}").into())
    }

    /// The sign-up grant of an account: there is one.
    pub fn signup(account: &AccountId) -> Self {
        Self(format!("signup:{account}").into())
    }

    /// What a payment moves, by its checkout session: its grant, or the `nth` time that something
    /// of it is taken back or given back. Nobody else can choose such an id.
    pub(crate) fn payment(session: &str, nth: Option<u32>) -> Self {
        match nth {
            None => Self(format!("stripe:{session}").into()),
            Some(nth) => Self(format!("stripe:{session}:{nth}").into()),
        }
    }

    /// An id read back from the ledger.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text, prefix and all.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The call or hold that a capture or refund belongs to.
    pub fn hold(&self) -> Option<&str> {
        let refunded = || {
            let refund = self.0.strip_prefix("refund:")?;
            // The id of a part, behind the space, is its maker's, and may end in anything.
            Some(match refund.split_once(' ') {
                Some((hold, _)) => hold,
                None => refund.strip_suffix(CORRECTED).unwrap_or(refund),
            })
        };
        self.0.strip_prefix("capture:").or_else(refunded)
    }
}

/// What a ledger entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Credits added.
    Grant,
    /// The part of a hold that was charged.
    Capture,
    /// A capture given back.
    Refund,
    /// A payment that was taken back by Stripe.
    Clawback,
    /// A clawback undone.
    Reinstatement,
    /// A correction by the operator, up or down.
    Adjustment,
    /// What older entries of the account came to when they were folded away.
    Opening,
}

impl EntryKind {
    /// Whether a [`Posting`] of this kind may move a balance by `amount`. Captures and refunds come
    /// from holds, openings from folding.
    pub fn may_post(self, amount: SignedCredits) -> bool {
        match self {
            Self::Grant | Self::Reinstatement => !amount.is_negative(),
            Self::Clawback => amount <= SignedCredits::ZERO,
            Self::Adjustment => true,
            Self::Capture | Self::Refund | Self::Opening => false,
        }
    }

    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Grant,
        Self::Capture,
        Self::Refund,
        Self::Clawback,
        Self::Reinstatement,
        Self::Adjustment,
        Self::Opening,
    ];

    /// As it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Capture => "capture",
            Self::Refund => "refund",
            Self::Clawback => "clawback",
            Self::Reinstatement => "reinstatement",
            Self::Adjustment => "adjustment",
            Self::Opening => "opening",
        }
    }

    /// Reads [`EntryKind::as_str`] back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Who will end a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A call that passes through this gateway, by its guard. Its id was made for it, so
    /// nobody has used it before; it does not outlive the gateway.
    Call,
    /// Somebody else through the API, by the id they chose. It outlives the gateway.
    Api,
}

impl Origin {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Api => "api",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Call, Self::Api].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// Credits to set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHold {
    /// Under which id; once only.
    pub id: HoldId,
    /// Whose credits.
    pub account: AccountId,
    /// How many; not zero.
    pub amount: Credits,
    /// What for: the route's pattern, or the endpoint named by an API caller.
    pub route: Arc<str>,
    /// Who ends it.
    pub origin: Origin,
    /// After how long without a renewal it expires.
    pub ttl_ms: u64,
}

/// Credits to add or take under an id of the maker's choosing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Once only; from [`OperationId::posting`] or [`OperationId::signup`].
    pub id: OperationId,
    /// Whose balance moves.
    pub account: AccountId,
    /// What for.
    pub kind: EntryKind,
    /// By how much.
    pub amount: SignedCredits,
    /// In the maker's words, for people who read the ledger.
    pub reason: Option<Arc<str>>,
}

/// One thing asked of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes the account exist, and gives it its sign-up grant if it did not.
    Open {
        /// Whose.
        account: AccountId,
        /// The sign-up grant; zero for none.
        signup: Credits,
    },
    /// Sets credits aside.
    Hold(NewHold),
    /// Keeps a hold from expiring for another `ttl_ms`.
    Renew {
        /// Which.
        hold: HoldId,
        /// From now on.
        ttl_ms: u64,
    },
    /// Charges a hold, in part or whole, and gives the rest back. It carries all it needs to
    /// count even where its hold is no longer known.
    Capture {
        /// Which.
        hold: HoldId,
        /// Whose; `None` from an API caller who names the hold alone.
        account: Option<AccountId>,
        /// How much of it.
        amount: Credits,
        /// As in the hold.
        route: Arc<str>,
        /// As in the hold.
        origin: Origin,
    },
    /// Gives a hold back.
    Release {
        /// Which.
        hold: HoldId,
        /// Whose; `None` from an API caller who names the hold alone.
        account: Option<AccountId>,
        /// As in the hold.
        origin: Origin,
    },
    /// Ends the hold of a call that was cut off: nobody knows how the call ended.
    Abandon {
        /// Which.
        hold: HoldId,
        /// Whose.
        account: AccountId,
        /// As in the hold.
        amount: Credits,
        /// As in the hold.
        route: Arc<str>,
        /// Whether it is captured or released.
        after: AfterCrash,
    },
    /// Moves a balance.
    Post(Posting),
    /// Gives back what is left of a capture: all of it, less what [`Operation::RefundPart`] gave.
    Refund {
        /// The hold, or request id, that was captured.
        hold: HoldId,
        /// In the operator's words.
        reason: Option<Arc<str>>,
    },
    /// Gives a part of a capture back; all parts together are never more than was captured.
    RefundPart {
        /// The hold, or request id, that was captured.
        hold: HoldId,
        /// Once only; from [`OperationId::refund_part`] of this hold.
        id: OperationId,
        /// How much.
        amount: Credits,
        /// In the operator's words.
        reason: Option<Arc<str>>,
    },
    /// Brings over what an earlier system knew.
    Import(Box<Import>),
    /// Stores API keys; those that are there already stay as they are.
    PutKeys(Vec<KeyRecord>),
    /// Revokes an API key.
    RevokeKey {
        /// The key's id.
        id: Arc<str>,
    },
    /// Keeps an event, so that it can be acknowledged.
    KeepEvent(NewEvent),
    /// Says what became of an event that moves nothing.
    EndEvent {
        /// Which.
        id: Arc<str>,
        /// What became of it.
        state: EventState,
        /// Why, where it failed.
        note: Option<Arc<str>>,
    },
    /// Takes up facts about a payment, with all the credits that they move.
    TakeFacts(Box<TakeFacts>),
    /// Remembers an account's customer at Stripe.
    KeepCustomer {
        /// Whose.
        account: AccountId,
        /// Stripe's id.
        customer: Arc<str>,
        /// The one that is known to be gone; any other that is kept already stays.
        instead_of: Option<Arc<str>>,
    },
    /// Lifts whatever freezes an account.
    Thaw {
        /// Whose.
        account: AccountId,
    },
    /// Compares what is in memory with what is on disk.
    Audit,
    /// Folds the entries older than a moment into one opening balance an account: a slice of
    /// them, so that nobody waits long.
    Fold {
        /// In milliseconds since 1970.
        before_ms: i64,
        /// Where the last slice ended; `None` for the first.
        from: Option<FoldCursor>,
    },
    /// Reads a balance, after everything that was asked before it.
    Balance {
        /// Whose.
        account: AccountId,
    },
}

impl Operation {
    /// The hold that it ends, if it ends one.
    pub(crate) fn ends(&self) -> Option<&HoldId> {
        match self {
            Self::Capture { hold, .. }
            | Self::Release { hold, .. }
            | Self::Abandon { hold, .. } => Some(hold),
            _ => None,
        }
    }

    /// True where a call takes what it has used: nobody asks again if that gets lost.
    pub(crate) fn is_charge(&self) -> bool {
        matches!(self, Self::Capture { origin: Origin::Call, .. })
    }

    /// Who ends the hold that it makes or ends, if it does.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match self {
            Self::Hold(NewHold { origin, .. })
            | Self::Capture { origin, .. }
            | Self::Release { origin, .. } => Some(*origin),
            Self::Abandon { .. } => Some(Origin::Call),
            _ => None,
        }
    }
}

/// What an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The sum of the account's entries; below zero while there is a debt.
    pub balance: SignedCredits,
    /// What its live holds set aside.
    pub held: Credits,
    /// True while a dispute keeps it from spending.
    pub frozen: bool,
}

impl Balance {
    /// What a new hold can take: balance less held, below zero while there is a debt.
    pub fn available(self) -> SignedCredits {
        // Both are within 2^53, so the difference is within 2^54 and fits; the type's range is
        // 2^53, and a balance of -2^53 with 2^53 held cannot come about (holds need a balance).
        self.balance.checked_sub(self.held.signed()).unwrap_or(self.balance)
    }
}

/// One immutable line that moved a balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub account: AccountId,
    /// Counts from 1 without a gap in each account.
    pub seq: u64,
    /// Under which id it took effect, once.
    pub operation: OperationId,
    /// What for.
    pub kind: EntryKind,
    /// By how much the balance moved.
    pub amount: SignedCredits,
    /// The balance with this entry counted.
    pub balance_after: SignedCredits,
    /// The route of the call, for captures and refunds.
    pub route: Option<Arc<str>>,
    /// In the maker's words.
    pub reason: Option<Arc<str>>,
    /// When, in milliseconds since 1970.
    pub created_at_ms: i64,
}

impl Entry {
    /// True where it was folded into an opening balance: that it took effect, and how much, is all that is left.
    pub fn is_folded(&self) -> bool {
        self.created_at_ms == 0
    }
}

/// How a hold ended, other than by a capture (that one is an [`Entry`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Given back.
    Released,
    /// Its time ran out.
    Expired,
}

impl Ending {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Released, Self::Expired].into_iter().find(|ending| ending.as_str() == text)
    }
}

/// What the end of a hold came to, for whoever counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEnd {
    /// Whose credits they are.
    pub account: AccountId,
    /// What the hold was for.
    pub route: Arc<str>,
    /// How much was charged.
    pub captured: Credits,
    /// How much was given back.
    pub released: Credits,
}

/// What a ledger answers to one [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The account exists; with its sign-up entry if this made it.
    Opened {
        /// False where it existed already.
        new: bool,
    },
    /// The credits are set aside, or were already, by the same operation.
    Held {
        /// What the account has with the hold counted.
        after: Balance,
    },
    /// The hold lives on.
    Renewed,
    /// The hold is charged, or was already, by the same operation.
    Captured {
        /// What the account has now.
        after: Balance,
        /// The hold had expired or was not known: the charge counts all the same.
        late: bool,
        /// `None` where this was done before, and for a call's hold, whose guard knows it.
        settled: Option<HoldEnd>,
    },
    /// The hold is given back, or was already.
    Released {
        /// What the account has now.
        after: Balance,
        /// `None` where this was done before, and for a call's hold, whose guard knows it.
        settled: Option<HoldEnd>,
    },
    /// The balance moved, or had already, by the same operation.
    Posted {
        /// The line that moved it.
        entry: Entry,
        /// False where the entry was there already.
        new: bool,
    },
    /// The outcome of each row of an [`Import`], in their order: [`Outcome::Posted`],
    /// [`Outcome::KeysStored`] or [`Outcome::Refused`]. Where one is refused, and in a dry run, these
    /// say what would have become of them, and nothing has changed.
    Imported(Vec<Self>),
    /// The keys are stored.
    KeysStored {
        /// How many were not there before.
        new: usize,
    },
    /// The key is revoked, now or before.
    KeyRevoked,
    /// The event is kept, now or before.
    EventKept {
        /// What became of it so far.
        state: EventState,
        /// False where it was kept before.
        new: bool,
    },
    /// What became of the event is remembered.
    EventEnded,
    /// The facts are taken up.
    Settled(Box<Settled>),
    /// The account's customer at Stripe, this one or one that was kept before.
    CustomerKept(Arc<str>),
    /// Nothing freezes the account any more.
    Thawed {
        /// How many disputes did.
        disputes: usize,
    },
    /// Where memory and disk differ; nowhere, if all is well.
    Audited(Vec<Difference>),
    /// A slice of the old entries is folded.
    Folded {
        /// What this slice came to.
        report: FoldReport,
        /// Where the next one starts; `None` if this was the last.
        next: Option<FoldCursor>,
    },
    /// What the account has; `None` where it does not exist.
    Balance(Option<Balance>),
    /// Nothing changed.
    Refused(Refusal),
}

/// Why an operation changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too few credits.
    #[error("too few credits")]
    Insufficient {
        /// What the account has.
        available: SignedCredits,
    },
    /// A dispute stands, and the account waits for its end.
    #[error("the account is frozen while a dispute stands")]
    Frozen,
    /// The id was used before, for something else.
    #[error("this id was used before, with other parameters")]
    Conflict,
    /// The hold ended in another way before.
    #[error("the hold has ended before")]
    Ended,
    /// Nobody knows such a hold.
    #[error("there is no such hold")]
    UnknownHold,
    /// No such capture to refund.
    #[error("there is no such capture")]
    UnknownCapture,
    /// Nobody knows such an event.
    #[error("there is no such event")]
    UnknownEvent,
    /// Nobody knows such a key.
    #[error("there is no such key")]
    UnknownKey,
    /// A capture above its hold.
    #[error("a capture cannot be more than its hold")]
    AboveHold {
        /// What was set aside.
        held: Credits,
    },
    /// A refund above what is left of its capture.
    #[error("a refund cannot be more than what is left of its capture")]
    AboveCapture {
        /// The part that has not been given back.
        left: Credits,
    },
    /// The payment was imported or sold before: under another id, for another account, for other
    /// credits or at another price.
    #[error(
        "this payment, or this id, is known already: with another id, account, price or other credits"
    )]
    PaymentKnown,
    /// A hold of nothing, or a posting that moves nothing.
    #[error("the amount cannot be zero")]
    Zero,
    /// A grant that takes, a clawback that gives, or an entry that only a hold can make.
    #[error("an entry of this kind cannot move a balance this way")]
    WrongWay,
    /// The balance would leave the range that can be counted.
    #[error("the balance would pass what can be counted (2^53 micro-credits)")]
    OutOfRange,
    /// The ledger cannot write now. It will tell nobody that it did.
    #[error("the ledger cannot write at the moment")]
    Unavailable,
}
