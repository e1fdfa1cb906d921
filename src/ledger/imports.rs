//! Imports from an earlier system: accounts with their balances, the payments that were made there, and
//! API keys. One import may have many rows, since a commit of a thousand rows costs no more than a
//! commit of one.

use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Entry, Posting};
use crate::ledger::payment::TakeFacts;

/// Rows that are imported together. Either all of them are imported, or, if one is refused, none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The rows; each is decided on the state that the rows before it leave.
    pub rows: Vec<ImportRow>,
    /// Whether to only report the outcome of each row, and change nothing.
    pub dry_run: bool,
}

/// One row of an [`Import`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportRow {
    /// Grants an account its balance, which may be zero. The account exists from then on.
    Grant {
        /// The grant.
        posting: Posting,
        /// The payment that bought the credits. Each payment is granted once, under one id.
        payment: Option<Box<TakeFacts>>,
    },
    /// An API key. Its account is opened if it does not exist.
    Key(KeyRecord),
}

/// The outcome of one row of an [`Import`] that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportedRow {
    /// The balance was granted.
    Granted {
        /// The entry of the grant.
        entry: Entry,
        /// False if the entry existed already.
        new: bool,
    },
    /// The key is stored.
    KeyStored {
        /// False if the key was stored already.
        new: bool,
    },
}

impl Import {
    /// True if a row has a payment.
    pub(crate) fn concerns_payments(&self) -> bool {
        self.rows.iter().any(|row| matches!(row, ImportRow::Grant { payment: Some(_), .. }))
    }
}
