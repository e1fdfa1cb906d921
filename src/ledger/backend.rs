//! What a ledger's backend must do: one function, a batch of operations in, an outcome each out.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::account::AccountId;

use super::crash::{AfterCrash, CrashedCall};
use super::error::LedgerError;
use super::inbox::{EventState, StripeEvent};
use super::key::KeyRecord;
use super::operation::{Balance, Entry, HoldId, Operation, Outcome};
use super::payment::Payment;
use super::report::{FoldReport, OldMonths, ReconcileReport};
use crate::ledger::history::FoundAccounts;
use crate::ledger::history::Sold;
use crate::ledger::history::{Activity, HoldView, Usage};

/// An account as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Whose.
    pub account: AccountId,
    /// What it has.
    pub balance: Balance,
    /// How many entries it has had.
    pub seq: u64,
    /// Since when it exists, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// What changed among the API keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChanges {
    /// Up to which change this goes.
    pub version: i64,
    /// The keys that are new or changed, as they are now.
    pub keys: Vec<KeyRecord>,
}

/// A hold that ended because its time ran out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Which.
    pub hold: HoldId,
    /// Its route, for the metric.
    pub route: Arc<str>,
}

/// Asks whether a call in this process runs on a hold.
pub type IsLive<'a> = dyn Fn(&HoldId) -> bool + Send + Sync + 'a;

/// Where operations are decided and made to last. The pipeline owns it, so it needs no lock.
pub trait Backend: Send + 'static {
    /// Decides every operation in order, each on what the ones before it left. When it returns,
    /// each outcome but [`Refusal::Unavailable`](super::Refusal::Unavailable) is as durable as
    /// the ledger promises; an unavailable one changed nothing, and may be tried again.
    fn apply(&mut self, batch: &[Operation]) -> impl Future<Output = Vec<Outcome>> + Send;

    /// Does what time asks for: writes what waits to be written, and expires the holds whose
    /// time has run out, unless `is_live` says that a call in this process still runs on it: such
    /// a hold is renewed. Returns the holds that expired.
    fn tick(&mut self, is_live: &IsLive<'_>) -> impl Future<Output = Vec<Expired>> + Send;

    /// Decides the hold of a call that is cut off: captured or released.
    fn after_crash(&self) -> AfterCrash {
        AfterCrash::Release
    }

    /// How long from now the backend can be left without a [`Backend::tick`].
    fn tick_after(&self) -> Duration;

    /// Leaves ends of holds that it could not decide to whoever serves the ledger next, where it can: these
    /// it takes out. Only before [`Backend::close`].
    fn hand_over(&mut self, unsettled: &mut Vec<Operation>) -> impl Future<Output = ()> + Send {
        let _ = unsettled;
        async {}
    }

    /// Writes whatever waits, and lets go of the ledger. False where that failed; then it may be
    /// called again, after another [`Backend::tick`].
    fn close(&mut self) -> impl Future<Output = bool> + Send;
}

/// What is read beside the pipeline: the past, for people and reports. It sees what is durable.
#[async_trait]
pub trait Reader: fmt::Debug + Send + Sync + 'static {
    /// Makes durable what has been decided so far, where that is not the pipeline's alone: beside it, so
    /// that no call waits.
    async fn catch_up(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Entries of an account, newest first, starting below sequence number `before`.
    async fn entries(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError>;

    /// The newest entries of all accounts, newest first.
    async fn newest(&self, limit: u32) -> Result<Vec<Entry>, LedgerError>;

    /// The entries of an account that were made in a time (in milliseconds since 1970), newest
    /// first, starting below `before`.
    async fn entries_of(
        &self,
        account: &AccountId,
        time: Range<i64>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError>;

    /// What an account used since a moment, in milliseconds since 1970.
    async fn usage(&self, account: &AccountId, since_ms: i64) -> Result<Usage, LedgerError>;

    /// Live holds: of calls, those made before a moment (in milliseconds since 1970), oldest first;
    /// then the API's, whose age is not known.
    async fn live_holds(&self, before_ms: i64, limit: u32) -> Result<Vec<HoldView>, LedgerError>;

    /// Calls that a crash or a stop cut off, newest first, starting before the one with this time and id.
    async fn crashed(
        &self,
        before: Option<(i64, &HoldId)>,
        limit: u32,
    ) -> Result<Vec<CrashedCall>, LedgerError>;

    /// What happened since the beginning of an hour (in hours since 1970), of all accounts; the holds
    /// of calls made before a moment count as old.
    async fn activity(&self, since_hour: i64, before_ms: i64) -> Result<Activity, LedgerError>;

    /// A seller's figures since a moment, in milliseconds since 1970.
    async fn sold(&self, since_ms: i64) -> Result<Sold, LedgerError>;

    /// Accounts in order of their ids, starting after `after`; of those whose ids begin with `prefix`.
    async fn accounts(
        &self,
        prefix: &str,
        after: Option<&AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountView>, LedgerError>;

    /// Accounts in order of their ids, starting after `after`, whose ids have `part` in them but do
    /// not begin with it; ASCII capital and small letters are one. At most `looked_at` accounts are
    /// looked at, since no index knows them.
    async fn accounts_with(
        &self,
        part: &str,
        after: Option<&AccountId>,
        limit: u32,
        looked_at: u32,
    ) -> Result<FoundAccounts, LedgerError>;

    /// One account.
    async fn account(&self, account: &AccountId) -> Result<Option<AccountView>, LedgerError>;

    /// Every API key, revoked ones too; of one account where one is named.
    async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>, LedgerError>;

    /// The keys of an account that are no service keys: those that live, and those that were revoked
    /// after a moment, in milliseconds since 1970. Oldest first.
    async fn own_keys(
        &self,
        account: &AccountId,
        since_ms: i64,
    ) -> Result<Vec<KeyRecord>, LedgerError>;

    /// What tells this ledger's sales from those of another one on the same Stripe account.
    async fn ledger_id(&self) -> Result<String, LedgerError>;

    /// One event of the inbox.
    async fn event(&self, id: &str) -> Result<Option<StripeEvent>, LedgerError>;

    /// Events of the inbox, oldest first, starting after the one with this time and id; in one
    /// state where one is named.
    async fn events(
        &self,
        state: Option<EventState>,
        after: Option<(i64, &str)>,
        limit: u32,
    ) -> Result<Vec<StripeEvent>, LedgerError>;

    /// A payment by any of Stripe's ids of it.
    async fn payment(&self, name: &str) -> Result<Option<Payment>, LedgerError>;

    /// The purchases that an account began since a moment (in milliseconds since 1970) and has not paid,
    /// newest first, at most `limit`.
    async fn unpaid(
        &self,
        account: &AccountId,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Payment>, LedgerError>;

    /// How many accounts have ever paid.
    async fn buyers(&self) -> Result<u64, LedgerError>;

    /// An account's customer at Stripe.
    async fn customer(&self, account: &AccountId) -> Result<Option<Arc<str>>, LedgerError>;

    /// The keys that changed after change number `since`, where other gateways change them too;
    /// `None` where all that changes them passes through this process.
    async fn key_changes(&self, since: i64) -> Result<Option<KeyChanges>, LedgerError> {
        let _ = since;
        Ok(None)
    }

    /// Folds entries older than `before_ms` into opening balances, where that needs no pause between
    /// batches; `None` where it does, and the pipeline is to do it.
    async fn fold(
        &self,
        before_ms: i64,
        months: OldMonths,
    ) -> Result<Option<FoldReport>, LedgerError> {
        let _ = (before_ms, months);
        Ok(None)
    }

    /// Checks what the ledger must always hold.
    async fn reconcile(&self) -> Result<ReconcileReport, LedgerError>;
}
