//! Reads accounts from Postgres, for the comparison with Redis.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::deliveries::{Delivery, queued_for};
use crate::store::cluster::postgres::shard::{Checkpoint, read_checkpoint};
use crate::store::cluster::postgres::store::Store;
use crate::store::cluster::redis::record::HotAccount;
use crate::store::sql::rows::Column as _;

/// The part of an account that Redis has too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredAccount {
    pub exists: bool,
    pub balance: i64,
    pub grant_seq: i64,
    pub frozen: bool,
    /// The digest of the changes up to `grant_seq`; empty if the account does not exist.
    pub digest: Vec<u8>,
    /// The changes that are still to be delivered to Redis.
    pub queued: Vec<Delivery>,
    /// The amounts of live holds in micro-credits, by the hold's id.
    pub holds: BTreeMap<String, i64>,
}

impl StoredAccount {
    /// The micro-credits by which the balance in `hot`, the account in Redis, exceeds the decisions of Postgres that
    /// Redis knows, if Redis has applied a decision that Postgres does not have. `None` if it has not, as far as the
    /// digests tell. All decisions of Redis must be included in `self`.
    pub fn missing(&self, hot: &HotAccount) -> Option<i64> {
        let next = self.queued.iter().find(|change| change.grant_seq == hot.grant_seq + 1);
        let here = match hot.grant_seq.cmp(&self.grant_seq) {
            Ordering::Greater => None,
            Ordering::Equal => Some(&self.digest),
            Ordering::Less => Some(&next?.before),
        };
        // An early version queued no digests.
        if here.is_some_and(|digest| digest.is_empty() || digest[..] == hot.digest) {
            return None;
        }
        let queued =
            self.queued.iter().fold(0, |sum: i64, change| sum.saturating_add(change.amount));
        Some(hot.balance.saturating_sub(self.balance.saturating_sub(queued)))
    }
}

/// Reads accounts and the checkpoint from one snapshot. An account that does not exist has the default
/// value.
pub(crate) async fn stored_accounts(
    store: &Store,
    ids: &[String],
) -> Result<(Checkpoint, BTreeMap<String, StoredAccount>), LedgerError> {
    store
        .transact(async |on| {
            on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let checkpoint = read_checkpoint(store, "", on).await?;
            Ok((checkpoint, stored_in(store, ids, on).await?))
        })
        .await
}

/// Reads accounts in the transaction `on`.
pub(super) async fn stored_in(
    store: &Store,
    ids: &[String],
    on: &mut PgConnection,
) -> Result<BTreeMap<String, StoredAccount>, LedgerError> {
    let accounts = store
        .query("SELECT id, balance, grant_seq, frozen, digest FROM {s}.accounts WHERE id = ANY($1)")
        .bind(ids.to_vec())
        .fetch_all(&mut *on)
        .await?;
    let queued = queued_for(store, ids, &mut *on).await?;
    let holds = store
        .query(
            "SELECT id, account, amount FROM {s}.holds \
                     WHERE account = ANY($1) AND state = 'live'",
        )
        .bind(ids.to_vec())
        .fetch_all(&mut *on)
        .await?;
    let none = |id: &String| (id.clone(), StoredAccount::default());
    let mut stored: BTreeMap<_, _> = ids.iter().map(none).collect();
    for row in &accounts {
        let account = stored.entry(row.text("id")?.to_owned()).or_default();
        account.exists = true;
        account.balance = row.int("balance")?;
        account.grant_seq = row.int("grant_seq")?;
        account.frozen = row.flag("frozen")?;
        account.digest = row.try_get("digest")?;
    }
    for change in queued {
        stored.entry(change.account.clone()).or_default().queued.push(change);
    }
    for row in &holds {
        let account = stored.entry(row.text("account")?.to_owned()).or_default();
        account.holds.insert(row.text("id")?.to_owned(), row.int("amount")?);
    }
    Ok(stored)
}
