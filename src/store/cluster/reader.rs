//! Reads of the cluster ledger: lists and reports from Postgres or its replica, and the comparison
//! with Redis.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::crash::CrashedCall;
use crate::ledger::history::{Activity, FoundAccounts, HoldView, ModelUsage, Sold, Usage};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::{Entry, HoldId};
use crate::ledger::payment::Payment;
use crate::ledger::report::{FoldReport, OldMonths, ReconcileReport};
use crate::ledger::wall_ms;
use crate::ledger::{AccountView, KeyChanges, Reader, Replays};
use crate::store::cluster::compare::{self, Compared};
use crate::store::cluster::postgres::{self, LISTED, Store};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync;
use crate::store::sql::history;
use crate::store::sql::models;
use crate::store::sql::search;
use crate::store::sql::sold;

/// A reader of the cluster ledger. It sees only durable changes.
#[derive(Clone, Debug)]
pub struct ClusterReader {
    pub(crate) shared: Arc<Shared>,
    /// The database that lists are read from. It may be a replica, which may lag, so single items
    /// are read from the primary.
    pub(crate) lists: Store,
}

#[async_trait]
impl Reader for ClusterReader {
    async fn entries(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        postgres::entries(&self.lists, account, before, limit).await
    }

    async fn entries_of(
        &self,
        account: &AccountId,
        time: Range<i64>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        search::entries_of(&self.lists, account, time, before, limit).await
    }

    fn failovers(&self) -> Option<watch::Receiver<u64>> {
        Some(self.shared.failovers.subscribe())
    }

    async fn newest(&self, limit: u32) -> Result<Vec<Entry>, LedgerError> {
        history::newest(&self.lists, limit, wall_ms()).await
    }

    async fn replays(&self, calls: &[HoldId]) -> Result<HashMap<HoldId, Replays>, LedgerError> {
        postgres::read_replays(&self.lists, calls).await
    }

    async fn usage(&self, account: &AccountId, since_ms: i64) -> Result<Usage, LedgerError> {
        history::usage(&self.lists, account, since_ms).await
    }

    async fn live_holds(&self, before_ms: i64, limit: u32) -> Result<Vec<HoldView>, LedgerError> {
        history::live_holds(&self.lists, before_ms, limit).await
    }

    async fn crashed(
        &self,
        before: Option<(i64, &HoldId)>,
        limit: u32,
    ) -> Result<Vec<CrashedCall>, LedgerError> {
        postgres::crashed(&self.lists, before, limit).await
    }

    async fn activity(&self, since_hour: i64, before_ms: i64) -> Result<Activity, LedgerError> {
        history::activity(&self.lists, since_hour, before_ms).await
    }

    async fn models(&self, since_ms: i64) -> Result<Vec<ModelUsage>, LedgerError> {
        models::of_all(&self.lists, since_ms).await
    }

    async fn sold(&self, since_ms: i64) -> Result<Sold, LedgerError> {
        sold::since(&self.lists, since_ms).await
    }

    async fn accounts(
        &self,
        prefix: &str,
        after: Option<&AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountView>, LedgerError> {
        postgres::accounts(&self.lists, prefix, after, limit).await
    }

    async fn accounts_with(
        &self,
        part: &str,
        after: Option<&AccountId>,
        limit: u32,
        looked_at: u32,
    ) -> Result<FoundAccounts, LedgerError> {
        search::accounts_with(&self.lists, part, after, limit, looked_at).await
    }

    async fn account(&self, account: &AccountId) -> Result<Option<AccountView>, LedgerError> {
        postgres::account(&self.shared.store, account).await
    }

    async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>, LedgerError> {
        postgres::keys(&self.shared.store, account).await
    }

    async fn own_keys(
        &self,
        account: &AccountId,
        since_ms: i64,
    ) -> Result<Vec<KeyRecord>, LedgerError> {
        postgres::own_keys(&self.shared.store, account, since_ms).await
    }

    async fn ledger_id(&self) -> Result<String, LedgerError> {
        postgres::ledger_id(&self.shared.store).await
    }

    async fn event(&self, id: &str) -> Result<Option<StripeEvent>, LedgerError> {
        postgres::event(&self.shared.store, id).await
    }

    async fn events(
        &self,
        state: Option<EventState>,
        after: Option<(i64, &str)>,
        limit: u32,
    ) -> Result<Vec<StripeEvent>, LedgerError> {
        postgres::events(&self.shared.store, state, after, limit).await
    }

    async fn payment(&self, name: &str) -> Result<Option<Payment>, LedgerError> {
        postgres::payment(&self.shared.store, name).await
    }

    async fn unpaid(
        &self,
        account: &AccountId,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Payment>, LedgerError> {
        postgres::unpaid(&self.shared.store, account, since_ms, limit).await
    }

    async fn buyers(&self) -> Result<u64, LedgerError> {
        postgres::buyers(&self.shared.store).await
    }

    async fn customer(&self, account: &AccountId) -> Result<Option<Arc<str>>, LedgerError> {
        postgres::customer(&self.shared.store, account).await
    }

    async fn catch_up(&self) -> Result<(), LedgerError> {
        sync::sync(&self.shared).await
    }

    async fn key_changes(&self, since: i64) -> Result<Option<KeyChanges>, LedgerError> {
        postgres::keys_since(&self.shared.store, since).await.map(Some)
    }

    async fn fold(
        &self,
        before_ms: i64,
        months: OldMonths,
    ) -> Result<Option<FoldReport>, LedgerError> {
        sync::sync(&self.shared).await?;
        postgres::fold(&self.shared.store, before_ms, months).await.map(Some)
    }

    async fn reconcile(&self) -> Result<ReconcileReport, LedgerError> {
        let mut report = postgres::reconcile(&self.shared.store).await?;
        let Compared { differences, skipped } = compare::compare(&self.shared).await?;
        if skipped > 0 {
            tracing::warn!(
                accounts = skipped,
                "so many accounts in Redis are not compared with Postgres, which does not have its newest decisions in \
                 time; reconcile again"
            );
        }
        report.differences.extend(differences);
        report.differences.truncate(LISTED);
        Ok(report)
    }
}
