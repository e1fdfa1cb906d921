//! What an examination or a folding of the ledger found.

use serde::Serialize;

use crate::account::AccountId;

/// Where the ledger contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Whose; empty where it concerns the ledger as a whole.
    pub account: String,
    /// What does not hold.
    pub what: String,
}

/// What `reconcile` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReconcileReport {
    /// Accounts examined.
    pub accounts: u64,
    /// Entries examined.
    pub entries: u64,
    /// Live holds examined.
    pub live_holds: u64,
    /// Accounts in debt: allowed, and worth knowing.
    pub debts: u64,
    /// The first hundred contradictions; none where all is well.
    pub differences: Vec<Difference>,
}

impl ReconcileReport {
    /// True where nothing contradicts anything.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What becomes of the tables of whole months that are folded away, in the cluster ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldMonths {
    /// They stand beside the ledger, for an archive.
    #[default]
    Keep,
    /// They are dropped.
    Drop,
}

/// What folding old entries into opening balances did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FoldReport {
    /// Accounts with a new opening balance.
    pub accounts: u64,
    /// Entries folded away.
    pub entries: u64,
    /// The tables of whole months that stand beside the ledger now, with its schema.
    pub months: Vec<String>,
}

/// Where a folding goes on: it is done in slices, between which others are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldCursor {
    /// In the order of accounts.
    pub(super) account: AccountId,
    /// At which of its entries.
    pub(super) seq: u64,
    /// That entry is an opening balance which this folding wrote.
    pub(super) is_own: bool,
}
