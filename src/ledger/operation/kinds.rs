//! The kinds of entries, holds and endings, with the words by which they are stored and shown.

use serde::Serialize;

use crate::credits::SignedCredits;

/// The kind of a ledger entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Credits added.
    Grant,
    /// The part of a hold that was charged.
    Capture,
    /// A capture given back.
    Refund,
    /// Credits taken back because Stripe took the payment back.
    Clawback,
    /// A clawback undone.
    Reinstatement,
    /// A correction by the operator, up or down.
    Adjustment,
    /// The sum of an account's older entries, which were folded into this one.
    Opening,
}

impl EntryKind {
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

    /// Whether a [`Posting`](super::Posting) of this kind may move a balance by `amount`. Captures and
    /// refunds come from holds, and openings from folding, so none of them can be posted.
    pub fn may_post(self, amount: SignedCredits) -> bool {
        match self {
            Self::Grant | Self::Reinstatement => !amount.is_negative(),
            Self::Clawback => amount <= SignedCredits::ZERO,
            Self::Adjustment => true,
            Self::Capture | Self::Refund | Self::Opening => false,
        }
    }

    /// The word that is stored and shown.
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

/// The party that made a hold and will end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A call that passes through this gateway; its guard ends the hold. The id was generated for the
    /// call, so no earlier operation has used it. The hold does not outlive the gateway.
    Call,
    /// A caller of the API, under an id of the caller's choosing. The hold outlives the gateway.
    Api,
}

impl Origin {
    /// The word that is stored.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Api => "api",
        }
    }

    /// Reads [`Origin::as_str`] back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Call, Self::Api].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// How a hold ended without a capture. A capture leaves an [`Entry`](super::Entry) instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The hold was given back.
    Released,
    /// The hold's time ran out.
    Expired,
}

impl Ending {
    /// The word that is stored.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    /// Reads [`Ending::as_str`] back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Released, Self::Expired].into_iter().find(|ending| ending.as_str() == text)
    }
}
