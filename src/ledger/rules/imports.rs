//! The rules of imports.

use crate::ledger::imports::{Import, ImportRow};
use crate::ledger::operation::{Outcome, Refusal};
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::state::Changes;

impl Rules<'_> {
    /// Imports all rows or, if one is refused, none. All rows are tried first, and then rolled back, to find out
    /// whether one is refused.
    pub(super) fn import(&mut self, import: &Import) -> Outcome {
        let (mut known, mut changes) = (self.known.clone(), Changes::default());
        let mut trial =
            Rules { state: self.state, known: &mut known, changes: &mut changes, now: self.now };
        let outcomes = trial.import_rows(&import.rows);
        self.state.roll_back(&mut changes);
        let is_refused = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_)));
        if import.dry_run || is_refused {
            return Outcome::Imported(outcomes);
        }
        Outcome::Imported(self.import_rows(&import.rows))
    }

    fn import_rows(&mut self, rows: &[ImportRow]) -> Vec<Outcome> {
        rows.iter().map(|row| self.import_row(row).unwrap_or_else(Outcome::Refused)).collect()
    }

    fn import_row(&mut self, row: &ImportRow) -> Result<Outcome, Refusal> {
        match row {
            ImportRow::Grant { posting, payment: None } => self.grant_imported(posting),
            ImportRow::Grant { posting, payment: Some(payment) } => {
                self.grant_imported_payment(posting, payment)
            }
            ImportRow::Key(key) => self.put_keys(std::slice::from_ref(key)),
        }
    }
}
