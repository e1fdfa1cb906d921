//! What the account page and the operator's page show of the past.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::backend::AccountView;
use crate::ledger::operation::{EntryKind, HoldId, Origin};
use crate::ledger::payment::Payment;

/// What an account used, by day and route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Newest day first, then the dearest route first.
    pub days: Vec<DayUsage>,
    /// False where the account has so many lines that the oldest were not looked at.
    pub is_whole: bool,
}

/// What an account used of one route on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayUsage {
    /// In days since 1970, UTC.
    pub day: i64,
    /// What for.
    pub route: Arc<str>,
    /// How many captures.
    pub calls: u64,
    /// What they came to.
    pub credits: Credits,
}

/// A live hold as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldView {
    /// Which.
    pub id: HoldId,
    /// Whose.
    pub account: AccountId,
    /// How much.
    pub amount: Credits,
    /// What for.
    pub route: Arc<str>,
    /// Who ends it.
    pub origin: Origin,
    /// When it was made, in milliseconds since 1970. A call's id tells it; an API hold's does not.
    pub created_at_ms: Option<i64>,
    /// When it expires, in milliseconds since 1970; a call's is renewed for as long as it runs.
    pub expires_at_ms: i64,
}

/// What moved in an hour: all entries of one kind and route together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// In hours since 1970.
    pub hour: i64,
    /// What for.
    pub kind: EntryKind,
    /// The route of captures and refunds.
    pub route: Option<Arc<str>>,
    /// Whether a payment moved it.
    pub is_payment: bool,
    /// How many entries.
    pub entries: u64,
    /// What they add up to.
    pub amount: SignedCredits,
}

/// What happened lately, of all accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// What moved, oldest hour first.
    pub movements: Vec<Movement>,
    /// The payments that were granted, as they are now.
    pub paid: Vec<Payment>,
    /// How many accounts there are.
    pub accounts: u64,
    /// How many holds live.
    pub live_holds: u64,
    /// How many of them are of calls, and older than was asked for.
    pub old_holds: u64,
}

/// The accounts that a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundAccounts {
    /// In order of their ids.
    pub accounts: Vec<AccountView>,
    /// The last account that was looked at, where others may follow that were not.
    pub looked_until: Option<AccountId>,
}

/// The checkouts that were begun since a moment and how they ended, and Stripe's events since then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sold {
    /// How many checkouts were begun.
    pub checkouts: u64,
    /// How many of these were paid.
    pub purchases: u64,
    /// The same purchases by currency, in the order of its code.
    pub currencies: Vec<SoldIn>,
    /// How many events were kept.
    pub events: u64,
    /// How many of these have failed, and still wait to be replayed.
    pub failed_events: u64,
}

/// The purchases in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoldIn {
    /// As Stripe writes it: `eur`.
    pub currency: Arc<str>,
    /// In minor units.
    pub amount: u64,
    /// How many purchases.
    pub purchases: u64,
    /// How many accounts bought.
    pub buyers: u64,
}
