//! The past, for the account page and the operator's page.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::{Balance, EntryKind, HoldId, Origin};
use crate::ledger::payment::Payment;
use crate::usage::Totals;

/// An account as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// The account.
    pub account: AccountId,
    /// The account's credits.
    pub balance: Balance,
    /// The number of entries that the account has had.
    pub seq: u64,
    /// The time at which the account was opened, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// An account's usage by day and route, and the usage of its metered calls by model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The rows, newest day first; within a day, the route with the most credits comes first.
    pub days: Vec<DayUsage>,
    /// The models of those calls that were metered. The model with the most credits comes first.
    pub models: Vec<ModelUsage>,
    /// False if the account has so many entries that the oldest were left out.
    pub is_whole: bool,
}

/// An account's usage of one route on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayUsage {
    /// The day, counted from 1970 in UTC.
    pub day: i64,
    /// The route's label.
    pub route: Arc<str>,
    /// The number of captures.
    pub calls: u64,
    /// The sum of the captures.
    pub credits: Credits,
}

/// The metered calls of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelUsage {
    /// The model's name in lower case, so that both spellings of a name are counted together.
    /// `None` for routes with unit prices of their own.
    pub model: Option<Arc<str>>,
    /// The number of captures.
    pub calls: u64,
    /// The sum of the captures.
    pub credits: Credits,
    /// The sum of the usage.
    pub usage: Totals,
}

/// A live hold as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldView {
    /// The hold.
    pub id: HoldId,
    /// The account whose credits are set aside.
    pub account: AccountId,
    /// The amount that is set aside.
    pub amount: Credits,
    /// The route's label.
    pub route: Arc<str>,
    /// The party that ends the hold.
    pub origin: Origin,
    /// The time at which the hold was made, in milliseconds since 1970. The id of a call contains this time. `None` for
    /// a hold of the API, for which the time is unknown.
    pub created_at_ms: Option<i64>,
    /// The time at which the hold expires, in milliseconds since 1970. While its call runs, the
    /// hold is renewed.
    pub expires_at_ms: i64,
}

/// The movements of an hour: the sum of all entries of one kind and route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// The hour, counted from 1970.
    pub hour: i64,
    /// The kind of the entries.
    pub kind: EntryKind,
    /// The route of captures and refunds.
    pub route: Option<Arc<str>>,
    /// True if a payment made the entries.
    pub is_payment: bool,
    /// The number of entries.
    pub entries: u64,
    /// The sum of the entries' amounts.
    pub amount: SignedCredits,
}

/// The recent activity of all accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The movements, oldest hour first.
    pub movements: Vec<Movement>,
    /// The payments whose credits were granted, in their present state.
    pub paid: Vec<Payment>,
    /// The number of accounts.
    pub accounts: u64,
    /// The number of live holds.
    pub live_holds: u64,
    /// The number of live holds of calls that are older than the moment that the caller asked for.
    pub old_holds: u64,
}

/// The accounts that a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundAccounts {
    /// The accounts, in order of their ids.
    pub accounts: Vec<AccountView>,
    /// The last account that the search examined; `None` if it examined all.
    pub looked_until: Option<AccountId>,
}

/// The checkouts that were begun since a given moment, how many of them were paid, and Stripe's events
/// since then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sold {
    /// The number of checkouts that were begun.
    pub checkouts: u64,
    /// The number of these checkouts that were paid.
    pub purchases: u64,
    /// The same purchases by currency, in the order of the currencies' codes.
    pub currencies: Vec<SoldIn>,
    /// The number of events that were received.
    pub events: u64,
    /// The number of these events that have failed and wait for a replay.
    pub failed_events: u64,
}

/// The purchases in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoldIn {
    /// The currency as Stripe writes it: `eur`.
    pub currency: Arc<str>,
    /// The sum of the purchases, in minor units.
    pub amount: u64,
    /// The number of purchases.
    pub purchases: u64,
    /// The number of accounts that bought.
    pub buyers: u64,
}
