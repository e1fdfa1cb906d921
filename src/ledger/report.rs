//! Reports of the ledger's checks, repairs and foldings.

use serde::Serialize;

use crate::account::AccountId;
use crate::credits::SignedCredits;

/// A place where the ledger contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The account; empty if the difference concerns the whole ledger.
    pub account: String,
    /// A sentence for the operator.
    pub what: String,
}

/// The result of `farebox reconcile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReconcileReport {
    /// The number of accounts that were examined.
    pub accounts: u64,
    /// The number of entries that were examined.
    pub entries: u64,
    /// The number of live holds that were examined.
    pub live_holds: u64,
    /// The number of accounts in debt. Debts are allowed.
    pub debts: u64,
    /// The first hundred differences; empty if there are none.
    pub differences: Vec<Difference>,
}

impl ReconcileReport {
    /// True if there are no differences.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Whether the cluster ledger drops the tables of whole months that it has folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldMonths {
    /// The tables stay in the database, for an archive.
    #[default]
    Keep,
    /// The tables are dropped.
    Drop,
}

/// The result of `farebox reconcile --repair`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// The differences that were repaired, each with the repair.
    pub repaired: Vec<Difference>,
    /// The differences that are left to a person, each with the reason.
    pub left: Vec<Difference>,
}

impl Difference {
    /// A difference of an account. An empty account stands for the whole ledger.
    pub(crate) fn new(account: &str, what: impl Into<String>) -> Self {
        Self { account: account.to_owned(), what: what.into() }
    }

    /// Makes a difference out of a sentence that a database wrote, in which amounts are written in
    /// micro-credits and in braces: `the balance is {95000000}`.
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
                // These braces are no amount: they are part of an id.
                Err(_) => what.extend(["{", micros, "}"]),
            }
            rest = after;
        }
        what.push_str(rest);
        Self { account: account.to_owned(), what }
    }
}

/// Formats an amount for people, even if it is beyond the range of an account.
pub(crate) fn in_credits(micros: i64) -> String {
    let amount = SignedCredits::from_micros(micros);
    amount.map_or_else(|| format!("{micros} micro-credits"), |amount| amount.to_string())
}

/// The result of folding old entries into opening balances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FoldReport {
    /// The number of accounts with a new opening balance.
    pub accounts: u64,
    /// The number of entries that were folded.
    pub entries: u64,
    /// The tables of whole months that are no longer part of the ledger but still in the database,
    /// with the name of their schema.
    pub months: Vec<String>,
}

/// The start of the next slice of a folding. Between two slices, the ledger decides other
/// operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldCursor {
    /// The account that the next slice begins with. Slices follow the order of the accounts' ids.
    pub(crate) account: AccountId,
    /// The sequence number of the first entry that the next slice reads.
    pub(crate) seq: u64,
    /// Whether that entry is an opening balance that this folding wrote.
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
