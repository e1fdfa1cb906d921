//! What an examination or a folding of the ledger found.

use serde::Serialize;

use crate::account::AccountId;
use crate::credits::SignedCredits;

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

/// What `reconcile --repair` did, and what it left to a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What was put right, and how.
    pub repaired: Vec<Difference>,
    /// What was not, and why.
    pub left: Vec<Difference>,
}

impl Difference {
    pub(crate) fn new(account: &str, what: impl Into<String>) -> Self {
        Self { account: account.to_owned(), what: what.into() }
    }

    /// The same from a database that writes amounts in micro-credits between braces.
    pub(crate) fn in_micros(account: &str, text: &str) -> Self {
        let mut what = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            what.push_str(before);
            let Some((micros, after)) = after.split_once('}') else {
                what.push('{');
                rest = after;
                continue;
            };
            match micros.parse() {
                Ok(micros) => what.push_str(&in_credits(micros)),
                // An id may have braces of its own.
                Err(_) => what.extend(["{", micros, "}"]),
            }
            rest = after;
        }
        what.push_str(rest);
        Self { account: account.to_owned(), what }
    }
}

/// An amount for people, also where it is beyond what an account may have.
pub(crate) fn in_credits(micros: i64) -> String {
    let amount = SignedCredits::from_micros(micros);
    amount.map_or_else(|| format!("{micros} micro-credits"), |amount| amount.to_string())
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
    pub(crate) account: AccountId,
    /// At which of its entries.
    pub(crate) seq: u64,
    /// That entry is an opening balance which this folding wrote.
    pub(crate) is_own: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_credits_and_ids_as_they_are() {
        for (text, shown) in [
            ("the balance is {95000000}, not {-250000}", "the balance is 95, not -0.25"),
            ("hold {job} of {5000000}", "hold {job} of 5"),
            ("hold {job", "hold {job"),
            ("{9223372036854775807}", "9223372036854775807 micro-credits"),
        ] {
            assert_eq!(Difference::in_micros("", text).what, shown);
        }
    }
}
