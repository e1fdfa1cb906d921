//! Accounts as they are compared with Redis.

use std::collections::BTreeMap;

use sqlx::Executor as _;

use crate::ledger::LedgerError;
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::settle::Checkpoint;

/// An account with all that Redis knows of it too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredAccount {
    pub exists: bool,
    pub balance: i64,
    pub grant_seq: i64,
    pub frozen: bool,
    /// What is live, by id.
    pub holds: BTreeMap<String, i64>,
}

impl Store {
    /// Accounts as they are in one moment, and how far the stream had been written then. One that is
    /// not there is as nobody made it.
    pub async fn stored_accounts(
        &self,
        ids: &[String],
    ) -> Result<(Checkpoint, BTreeMap<String, StoredAccount>), LedgerError> {
        let (checkpoint, accounts, holds) = self
            .transact(async |on| {
                on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
                let checkpoint = self.read_checkpoint("", on).await?;
                let accounts = self
                    .query(
                        "SELECT id, balance, grant_seq, frozen FROM {s}.accounts WHERE id = ANY($1)",
                    )
                    .bind(ids.to_vec())
                    .fetch_all(&mut *on)
                    .await?;
                let holds = self
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
}
