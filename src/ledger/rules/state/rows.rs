//! Accounts and holds as the rules see them.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::{Ending, HoldId, Origin};

/// An account in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The sum of the account's entries.
    pub balance: SignedCredits,
    /// The sum of the account's live holds.
    pub held: Credits,
    /// The sequence number of the account's newest entry; 0 before the first.
    pub seq: u64,
}

/// A hold that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveHold {
    /// The account whose credits are set aside.
    pub account: AccountId,
    /// The amount that is set aside.
    pub amount: Credits,
    /// The route's pattern, or the endpoint that an API caller named.
    pub route: Arc<str>,
    /// The party that ends the hold.
    pub origin: Origin,
    /// The deadline on the ledger's clock, in milliseconds.
    pub expires_ms: u64,
    /// The number of the commit that writes the hold.
    pub commit: i64,
}

/// A hold that ended without a charge. The ledger remembers it, so that a repetition under its id
/// has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndedHold {
    /// The id of the hold.
    pub id: HoldId,
    /// The account of the hold, if it is known.
    pub account: Option<AccountId>,
    /// The amount that was set aside; zero if the release arrived before its hold.
    pub amount: Credits,
    /// The party that made the hold.
    pub origin: Origin,
    /// How the hold ended.
    pub ending: Ending,
}

/// An account's customer at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StripeCustomer {
    /// The account.
    pub account: AccountId,
    /// Stripe's id of the customer.
    pub customer: Arc<str>,
}

/// The moment at which a batch is decided: the time on two clocks, and the number of the commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The wall clock, for entries: milliseconds since 1970.
    pub wall_ms: i64,
    /// The ledger's own clock, for deadlines, in milliseconds. This clock never jumps.
    pub ledger_ms: u64,
    /// The number of the commit that will write this batch.
    pub commit: i64,
}
