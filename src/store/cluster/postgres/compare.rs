//! Reads accounts from Postgres, for the comparison with Redis.

use std::collections::BTreeMap;

use sqlx::Executor as _;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::shard::{Checkpoint, read_checkpoint};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// The part of an account that Redis has too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredAccount {
    pub exists: bool,
    pub balance: i64,
    pub grant_seq: i64,
    pub frozen: bool,
    /// The amounts of live holds in micro-credits, by the hold's id.
    pub holds: BTreeMap<String, i64>,
}

/// Reads accounts and the checkpoint from one snapshot. For an account that does not exist, it
/// returns the default value.
pub(crate) async fn stored_accounts(
    store: &Store,
    ids: &[String],
) -> Result<(Checkpoint, BTreeMap<String, StoredAccount>), LedgerError> {
    let (checkpoint, accounts, holds) = store
        .transact(async |on| {
            on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let checkpoint = read_checkpoint(store, "", on).await?;
            let accounts = store
                .query("SELECT id, balance, grant_seq, frozen FROM {s}.accounts WHERE id = ANY($1)")
                .bind(ids.to_vec())
                .fetch_all(&mut *on)
                .await?;
            let holds = store
                .query(
                    "SELECT id, account, amount FROM {s}.holds \
                     WHERE account = ANY($1) AND state = 'live'",
                )
                .bind(ids.to_vec())
                .fetch_all(&mut *on)
                .await?;
            Ok((checkpoint, accounts, holds))
        })
        .await?;
    let none = |id: &String| (id.clone(), StoredAccount::default());
    let mut stored: BTreeMap<_, _> = ids.iter().map(none).collect();
    for row in &accounts {
        let account = stored.entry(row.text("id")?.to_owned()).or_default();
        account.exists = true;
        account.balance = row.int("balance")?;
        account.grant_seq = row.int("grant_seq")?;
        account.frozen = row.flag("frozen")?;
    }
    for row in &holds {
        let account = stored.entry(row.text("account")?.to_owned()).or_default();
        account.holds.insert(row.text("id")?.to_owned(), row.int("amount")?);
    }
    Ok((checkpoint, stored))
}
