//! Balances, and the entries that move them.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::ids::OperationId;
use crate::ledger::operation::kinds::EntryKind;
use crate::usage::UsageRecord;

/// The credits of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The sum of the account's entries; below zero while there is a debt.
    pub balance: SignedCredits,
    /// The sum of the account's live holds.
    pub held: Credits,
    /// True while a dispute keeps the account from spending.
    pub frozen: bool,
}

impl Balance {
    /// The credits that a new hold can take: balance less held, below zero while there is a debt.
    pub fn available(self) -> SignedCredits {
        // The subtraction fails only for a balance near -2^53 with holds near 2^53. There is no such
        // account, because a hold needs a balance.
        self.balance.checked_sub(self.held.signed()).unwrap_or(self.balance)
    }
}

/// Credits to add to a balance, or to take from it. The id keeps a repetition from moving them again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The id, from [`OperationId::posting`] or [`OperationId::signup`].
    pub id: OperationId,
    /// The account whose balance moves.
    pub account: AccountId,
    /// The kind of the entry.
    pub kind: EntryKind,
    /// The amount by which the balance moves.
    pub amount: SignedCredits,
    /// The reason in the maker's words, for people who read the ledger.
    pub reason: Option<Arc<str>>,
}

/// An immutable record of one change of a balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The account whose balance moved.
    pub account: AccountId,
    /// The number of the entry, which counts from 1 without a gap in each account.
    pub seq: u64,
    /// The id of the operation that made the entry. No other entry has this id.
    pub operation: OperationId,
    /// The kind of the entry.
    pub kind: EntryKind,
    /// The amount by which the balance moved.
    pub amount: SignedCredits,
    /// The balance with this entry counted.
    pub balance_after: SignedCredits,
    /// The route of the call, for captures and refunds.
    pub route: Option<Arc<str>>,
    /// The reason in the maker's words.
    pub reason: Option<Arc<str>>,
    /// The time of the entry, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// The usage of a metered call; `None` for all other entries. If the charge was an overrun, the entry's amount
    /// exceeds `held` in the record.
    pub usage: Option<Arc<UsageRecord>>,
}

impl Entry {
    /// True if the entry was folded into an opening balance. The ledger then has only the entry's id
    /// and amount, so that the operation cannot take effect twice.
    pub fn is_folded(&self) -> bool {
        self.created_at_ms == 0
    }
}
