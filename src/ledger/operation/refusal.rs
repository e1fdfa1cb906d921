//! The reasons why an operation changed nothing.

use crate::credits::{Credits, SignedCredits};

/// The reason why an operation changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The account has too few credits.
    #[error("too few credits")]
    Insufficient {
        /// The credits that are available.
        available: SignedCredits,
    },
    /// The account is frozen until a dispute is over.
    #[error("the account is frozen while a dispute stands")]
    Frozen,
    /// The id was used before, for something else.
    #[error("this id was used before, with other parameters")]
    Conflict,
    /// The hold ended in another way before.
    #[error("the hold has ended before")]
    Ended,
    /// The ledger has no such hold.
    #[error("there is no such hold")]
    UnknownHold,
    /// The ledger has no such capture.
    #[error("there is no such capture")]
    UnknownCapture,
    /// The refund's capture is on its way: the call still has its hold. Nothing was applied.
    #[error("the charge of this call is not settled yet; ask again in a few seconds")]
    Unsettled,
    /// The inbox has no such event.
    #[error("there is no such event")]
    UnknownEvent,
    /// The ledger has no such key.
    #[error("there is no such key")]
    UnknownKey,
    /// The capture is larger than its hold.
    #[error("a capture cannot be more than its hold")]
    AboveHold {
        /// The amount that was set aside.
        held: Credits,
    },
    /// The refund is larger than the part of its capture that has not been refunded.
    #[error("a refund cannot be more than what is left of its capture")]
    AboveCapture {
        /// The part of the capture that has not been given back.
        left: Credits,
    },
    /// The payment was imported or sold before: under another id, for another account, for other
    /// credits or at another price.
    #[error(
        "this payment, or this id, is known already: with another id, account, price or other credits"
    )]
    PaymentKnown,
    /// The amount of a hold or posting is zero.
    #[error("the amount cannot be zero")]
    Zero,
    /// The sign of the amount does not fit the kind of entry (a negative grant, a positive clawback),
    /// or an entry of this kind can only come from a hold.
    #[error("an entry of this kind cannot move a balance this way")]
    WrongWay,
    /// The balance would leave the range that can be counted.
    #[error("the balance would pass what can be counted (2^53 micro-credits)")]
    OutOfRange,
    /// The ledger cannot write for now; nothing was applied.
    #[error("the ledger cannot write at the moment")]
    Unavailable,
}
