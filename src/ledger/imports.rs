//! Imports from an earlier system: accounts with their balances, the payments that were
//! made there, and API keys. Rows come many at a time, since a commit costs the same for one as for a
//! thousand.

use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Operation, Outcome, Posting, Refusal};
use crate::ledger::payment::TakeFacts;
use crate::ledger::rules::holds::Rules;
use crate::ledger::rules::state::Changes;

/// Rows that are brought over together: all of them, or none where one is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The rows, each decided on what the ones before it left.
    pub rows: Vec<ImportRow>,
    /// Only says what would become of each row.
    pub dry_run: bool,
}

/// One row of an [`Import`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportRow {
    /// An account's balance: a grant, which may be of nothing. The account exists from then on.
    Grant {
        /// The grant.
        posting: Posting,
        /// The payment by which the credits were bought: it is granted once, under one id.
        payment: Option<Box<TakeFacts>>,
    },
    /// A key, which opens its account.
    Key(KeyRecord),
}

impl Import {
    /// True where a row speaks of a payment.
    pub(crate) fn concerns_payments(&self) -> bool {
        self.rows.iter().any(|row| matches!(row, ImportRow::Grant { payment: Some(_), .. }))
    }
}

impl Rules<'_> {
    /// Tries all rows on copies first, so that a row that is refused leaves nothing of the others.
    pub fn bring_over(&mut self, import: &Import) -> Outcome {
        let (mut known, mut changes) = (self.known.clone(), Changes::default());
        let mut trial =
            Rules { state: self.state, known: &mut known, changes: &mut changes, now: self.now };
        let outcomes = trial.bring_rows(&import.rows);
        self.state.roll_back(&mut changes);
        let is_refused = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_)));
        if import.dry_run || is_refused {
            return Outcome::Imported(outcomes);
        }
        Outcome::Imported(self.bring_rows(&import.rows))
    }

    fn bring_rows(&mut self, rows: &[ImportRow]) -> Vec<Outcome> {
        rows.iter().map(|row| self.bring(row).unwrap_or_else(Outcome::Refused)).collect()
    }

    fn bring(&mut self, row: &ImportRow) -> Result<Outcome, Refusal> {
        match row {
            ImportRow::Grant { posting, payment: None } => self.grant_imported(posting),
            ImportRow::Grant { posting, payment: Some(payment) } => {
                self.grant_imported_payment(posting, payment)
            }
            ImportRow::Key(key) => self.put_keys(std::slice::from_ref(key)),
        }
    }
}

impl From<Import> for Operation {
    fn from(import: Import) -> Self {
        Self::Import(Box::new(import))
    }
}
