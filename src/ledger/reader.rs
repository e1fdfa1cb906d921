//! Reads of the ledger that do not go through the pipeline.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::account::AccountId;
use crate::ledger::answers::Replays;
use crate::ledger::crash::CrashedCall;
use crate::ledger::error::LedgerError;
use crate::ledger::history::{
    AccountView, Activity, FoundAccounts, HoldView, ModelUsage, Sold, Usage,
};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::{KeyChanges, KeyRecord};
use crate::ledger::operation::{Entry, HoldId};
use crate::ledger::payment::Payment;
use crate::ledger::report::{FoldReport, OldMonths, ReconcileReport};

/// Reads that do not go through the pipeline: the past, for people and reports. A reader sees only
/// durable changes.
#[async_trait]
pub trait Reader: fmt::Debug + Send + Sync + 'static {
    /// Makes all decisions so far durable, if the backend can do that without the pipeline. Calls
    /// do not wait for this.
    async fn catch_up(&self) -> Result<(), LedgerError> {
        Ok(())
    }

    /// Lists the entries of an account, newest first, starting below sequence number `before`.
    async fn entries(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError>;

    /// Lists the newest entries of all accounts, newest first.
    async fn newest(&self, limit: u32) -> Result<Vec<Entry>, LedgerError>;

    /// Lists the entries of an account in a range of time (in milliseconds since 1970), newest first,
    /// starting below sequence number `before`.
    async fn entries_of(
        &self,
        account: &AccountId,
        time: Range<i64>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError>;

    /// Reads how often the answers of calls were sent again. A call without a replay has no value.
    async fn replays(&self, calls: &[HoldId]) -> Result<HashMap<HoldId, Replays>, LedgerError>;

    /// Sums an account's captures by day and route, and its metered captures by model, since a moment, in milliseconds
    /// since 1970. At most 100 models are listed, those with the most credits.
    async fn usage(&self, account: &AccountId, since_ms: i64) -> Result<Usage, LedgerError>;

    /// Lists live holds: first the calls' holds made before a moment (in milliseconds since 1970), oldest first, then
    /// the API's holds, whose age is unknown.
    async fn live_holds(&self, before_ms: i64, limit: u32) -> Result<Vec<HoldView>, LedgerError>;

    /// Lists the calls that a crash or a stop cut off, newest first, starting after the call with the time and id in
    /// `before`.
    async fn crashed(
        &self,
        before: Option<(i64, &HoldId)>,
        limit: u32,
    ) -> Result<Vec<CrashedCall>, LedgerError>;

    /// Sums the activity of all accounts since the beginning of an hour (in hours since 1970). Calls' holds
    /// made before `before_ms` count as old.
    async fn activity(&self, since_hour: i64, before_ms: i64) -> Result<Activity, LedgerError>;

    /// Sums the metered captures of all accounts by model since a moment, in milliseconds since 1970. At
    /// most 1000 models are listed, those with the most credits.
    async fn models(&self, since_ms: i64) -> Result<Vec<ModelUsage>, LedgerError>;

    /// Sums the sales since a moment, in milliseconds since 1970.
    async fn sold(&self, since_ms: i64) -> Result<Sold, LedgerError>;

    /// Lists the accounts whose ids begin with `prefix`, in order of their ids, starting after `after`.
    async fn accounts(
        &self,
        prefix: &str,
        after: Option<&AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountView>, LedgerError>;

    /// Lists the accounts whose ids contain `part`, without regard to ASCII case, but do not begin with it, in order of
    /// their ids, starting after `after`. No index helps here, so the search ends after `looked_at` accounts.
    async fn accounts_with(
        &self,
        part: &str,
        after: Option<&AccountId>,
        limit: u32,
        looked_at: u32,
    ) -> Result<FoundAccounts, LedgerError>;

    /// Reads one account.
    async fn account(&self, account: &AccountId) -> Result<Option<AccountView>, LedgerError>;

    /// Lists the API keys of one account, or of all; revoked keys are included.
    async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>, LedgerError>;

    /// Lists an account's live keys, and its keys that were revoked after a moment (in milliseconds since 1970), oldest
    /// first. Service keys are left out.
    async fn own_keys(
        &self,
        account: &AccountId,
        since_ms: i64,
    ) -> Result<Vec<KeyRecord>, LedgerError>;

    /// Reads the ledger's id. It distinguishes sales of this ledger from those of other ledgers
    /// that use the same Stripe account.
    async fn ledger_id(&self) -> Result<String, LedgerError>;

    /// Reads one event of the inbox.
    async fn event(&self, id: &str) -> Result<Option<StripeEvent>, LedgerError>;

    /// Lists the events of the inbox in one state, or in all, oldest first, starting after the event with this time and
    /// id.
    async fn events(
        &self,
        state: Option<EventState>,
        after: Option<(i64, &str)>,
        limit: u32,
    ) -> Result<Vec<StripeEvent>, LedgerError>;

    /// Reads a payment by any of Stripe's ids for it.
    async fn payment(&self, name: &str) -> Result<Option<Payment>, LedgerError>;

    /// Lists the purchases that an account began since a moment (in milliseconds since 1970) and has not
    /// paid, newest first, at most `limit`.
    async fn unpaid(
        &self,
        account: &AccountId,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Payment>, LedgerError>;

    /// Counts the accounts that have ever paid.
    async fn buyers(&self) -> Result<u64, LedgerError>;

    /// Reads an account's customer at Stripe.
    async fn customer(&self, account: &AccountId) -> Result<Option<Arc<str>>, LedgerError>;

    /// Reads the keys that changed after change number `since`. `None` for a ledger that only this process changes.
    async fn key_changes(&self, since: i64) -> Result<Option<KeyChanges>, LedgerError> {
        let _ = since;
        Ok(None)
    }

    /// Counts the failovers of the database that were noticed since this gateway began, if the new server may lack the
    /// last seconds; `None` if the backend has no such servers.
    fn failovers(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// Folds entries older than `before_ms` into opening balances outside the pipeline. `None` if the backend can only
    /// fold between two batches, by
    /// [`Operation::Fold`](crate::ledger::Operation::Fold).
    async fn fold(
        &self,
        before_ms: i64,
        months: OldMonths,
    ) -> Result<Option<FoldReport>, LedgerError> {
        let _ = (before_ms, months);
        Ok(None)
    }

    /// Checks the stored ledger against itself.
    async fn reconcile(&self) -> Result<ReconcileReport, LedgerError>;
}
