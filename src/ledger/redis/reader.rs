//! What is read beside the batches: the past from Postgres or its replica, and whether Redis agrees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::backend::{AccountView, KeyChanges, Reader};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::KeyRecord;
use crate::ledger::operation::Entry;
use crate::ledger::payment::Payment;
use crate::ledger::postgres::{LISTED, Store, StoredAccount};
use crate::ledger::report::{Difference, ReconcileReport};

use super::script::Scripts;
use super::shared::{Shared, text, texts};

/// How often an account is compared again that seems to differ: it may have moved in between.
const LOOKS: usize = 20;

/// How long it is left alone between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Reads of the cluster ledger. They see what is durable.
#[derive(Clone, Debug)]
pub struct ClusterReader {
    pub(super) shared: Arc<Shared>,
    /// Where lists come from.
    pub(super) lists: Store,
}

#[async_trait]
impl Reader for ClusterReader {
    async fn entries(
        &self,
        account: &AccountId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        self.lists.entries(account, before, limit).await
    }

    async fn accounts(
        &self,
        after: Option<&AccountId>,
        limit: u32,
    ) -> Result<Vec<AccountView>, LedgerError> {
        self.lists.accounts(after, limit).await
    }

    async fn account(&self, account: &AccountId) -> Result<Option<AccountView>, LedgerError> {
        self.lists.account(account).await
    }

    async fn keys(&self, account: Option<&AccountId>) -> Result<Vec<KeyRecord>, LedgerError> {
        self.shared.store.keys(account).await
    }

    async fn ledger_id(&self) -> Result<String, LedgerError> {
        self.shared.store.ledger_id().await
    }

    async fn event(&self, id: &str) -> Result<Option<StripeEvent>, LedgerError> {
        self.shared.store.event(id).await
    }

    async fn events(
        &self,
        state: Option<EventState>,
        after: Option<(i64, &str)>,
        limit: u32,
    ) -> Result<Vec<StripeEvent>, LedgerError> {
        self.shared.store.events(state, after, limit).await
    }

    async fn payment(&self, name: &str) -> Result<Option<Payment>, LedgerError> {
        self.shared.store.payment(name).await
    }

    async fn buyers(&self) -> Result<u64, LedgerError> {
        self.shared.store.buyers().await
    }

    async fn customer(&self, account: &AccountId) -> Result<Option<Arc<str>>, LedgerError> {
        self.shared.store.customer(account).await
    }

    async fn key_changes(&self, since: i64) -> Result<Option<KeyChanges>, LedgerError> {
        self.shared.store.keys_since(since).await.map(Some)
    }

    async fn reconcile(&self) -> Result<ReconcileReport, LedgerError> {
        let mut report = self.shared.store.examine().await?;
        report.differences.extend(self.shared.compare().await?);
        report.differences.truncate(LISTED);
        Ok(report)
    }
}

/// An account as Redis has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HotAccount {
    balance: i64,
    held: i64,
    grant_seq: i64,
    /// The newest batch that moved it.
    seq: i64,
    exists: bool,
}

impl HotAccount {
    fn parse(value: &str) -> Option<Self> {
        let mut words = value.split(' ');
        let mut number = || words.next()?.parse().ok();
        let (balance, held, grant_seq, seq) = (number()?, number()?, number()?, number()?);
        Some(Self { balance, held, grant_seq, seq, exists: number()? == 1 })
    }
}

impl Shared {
    /// Compares every account that is in Redis with Postgres.
    async fn compare(&self) -> Result<Vec<Difference>, LedgerError> {
        let scripts = self.open_scripts()?;
        let (mut cursor, mut differences) = ("0".to_owned(), Vec::new());
        let pattern = format!("{}*", scripts.account_key(""));
        loop {
            let keys;
            (cursor, keys) = self.redis.scan(&cursor, &pattern).await?;
            let prefix = scripts.account_key("").len();
            let accounts = keys.iter().filter_map(|key| key.get(prefix..)).map(str::to_owned);
            differences.extend(self.compare_accounts(&scripts, accounts.collect()).await?);
            if cursor == "0" || differences.len() >= LISTED {
                return Ok(differences);
            }
        }
    }

    /// An account is comparable while Postgres has all that moved it in Redis. One that is busy is
    /// looked at again; one that never rests cannot be compared, and is not said to differ.
    async fn compare_accounts(
        &self,
        scripts: &Scripts,
        mut accounts: Vec<String>,
    ) -> Result<Vec<Difference>, LedgerError> {
        let mut found = Vec::new();
        for look in 0..LOOKS {
            if accounts.is_empty() {
                break;
            }
            if look > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            found.clear();
            let (checkpoint, stored) = self.store.stored_accounts(&accounts).await?;
            let stored: HashMap<_, _> =
                stored.iter().map(|stored| (stored.account.as_str(), stored)).collect();
            let mut args = texts(["hot"]);
            args.extend(accounts.iter().map(|account| text(account)));
            let values: Vec<String> = self.keep(scripts, args).await?.convert()?;
            let mut again = Vec::new();
            for (account, value) in accounts.iter().zip(values) {
                if value.is_empty() {
                    continue;
                }
                let hot = HotAccount::parse(&value);
                match difference(hot.as_ref(), stored.get(account.as_str()).copied()) {
                    None => continue,
                    // It moved after Postgres was asked, or is about to be written there.
                    Some(_) if hot.is_some_and(|hot| hot.seq > checkpoint) => {}
                    Some(what) => found.push(Difference { account: account.clone(), what }),
                }
                again.push(account.clone());
            }
            accounts = again;
        }
        Ok(found)
    }
}

fn difference(hot: Option<&HotAccount>, stored: Option<&StoredAccount>) -> Option<String> {
    let Some(hot) = hot else { return Some("Redis has an account that cannot be read".into()) };
    let Some(stored) = stored else {
        return hot.exists.then(|| "the account is in Redis and not in Postgres".into());
    };
    let same =
        (hot.balance, hot.held, hot.grant_seq) == (stored.balance, stored.held, stored.grant_seq);
    (!same).then(|| {
        format!(
            "Redis has balance {}, held {}, grant {}; Postgres has balance {}, held {}, grant {} \
             (micro-credits)",
            hot.balance, hot.held, hot.grant_seq, stored.balance, stored.held, stored.grant_seq
        )
    })
}
