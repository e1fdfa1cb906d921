//! What Redis asks for when it does not have it: accounts with their live holds, and what became of a
//! hold's id.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId, OperationId, Origin};
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;

/// How long looking through all live holds may take: no call waits for it.
const ALL_LIMIT: Duration = Duration::from_secs(30);

/// An account that is not in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColdAccount {
    pub account: AccountId,
    pub exists: bool,
    pub balance: SignedCredits,
    pub grant_seq: i64,
    pub frozen: bool,
    pub holds: Vec<RestoredHold>,
}

/// A live hold of such an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestoredHold {
    pub id: HoldId,
    pub amount: Credits,
    pub origin: Origin,
    pub owner: i64,
    pub expires_ms: i64,
    pub route: String,
}

/// What became of a hold's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is a live hold of this account.
    Live(AccountId),
    Captured {
        account: AccountId,
        amount: Credits,
    },
    Ended {
        account: AccountId,
        amount: Credits,
        origin: Origin,
        ending: Ending,
    },
    /// Nobody knows it.
    Unknown,
}

impl Store {
    /// Reads accounts as they are in one moment; one that is asked for twice is told once.
    pub async fn cold_accounts(&self, ids: &[AccountId]) -> Result<Vec<ColdAccount>, LedgerError> {
        let names: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
        let (accounts, holds) = self
            .transact(async |on| {
                on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
                let accounts = self
                    .query(
                        "SELECT id, balance, grant_seq, frozen FROM {s}.accounts WHERE id = ANY($1)",
                    )
                    .bind(names.clone())
                    .fetch_all(&mut *on)
                    .await?;
                let holds = self
                    .query(
                        "SELECT id, account, amount, origin, owner, expires_at, route \
                         FROM {s}.holds WHERE account = ANY($1) AND state = 'live'",
                    )
                    .bind(names)
                    .fetch_all(&mut *on)
                    .await?;
                Ok((accounts, holds))
            })
            .await?;
        let none = |id: &AccountId| ColdAccount {
            account: id.clone(),
            exists: false,
            balance: SignedCredits::ZERO,
            grant_seq: 0,
            frozen: false,
            holds: Vec::new(),
        };
        // Each once: a second one would come without what was found of it.
        let mut cold: BTreeMap<_, _> = ids.iter().map(|id| (id, none(id))).collect();
        for row in &accounts {
            let id = row.account("id")?;
            if let Some(account) = cold.get_mut(&id) {
                account.exists = true;
                account.balance = row.signed("balance")?;
                account.grant_seq = row.int("grant_seq")?;
                account.frozen = row.flag("frozen")?;
            }
        }
        for row in &holds {
            let id = row.account("account")?;
            if let Some(account) = cold.get_mut(&id) {
                account.holds.push(RestoredHold {
                    id: row.hold("id")?,
                    amount: row.credits("amount")?,
                    origin: row.parsed("origin", Origin::parse)?,
                    owner: row.int("owner")?,
                    expires_ms: row.int("expires_at")?,
                    route: row.text("route")?.to_owned(),
                });
            }
        }
        Ok(cold.into_values().collect())
    }

    /// What became of each of these ids.
    pub async fn fates(&self, ids: &[HoldId]) -> Result<Vec<Fate>, LedgerError> {
        self.transact(async |on| {
            let mut fates = Vec::with_capacity(ids.len());
            let found = self.read_fates(ids, on).await?;
            for id in ids {
                let fate =
                    found.iter().find(|(found, _)| found == id).map(|(_, fate)| fate.clone());
                fates.push(fate.unwrap_or(Fate::Unknown));
            }
            Ok(fates)
        })
        .await
    }

    /// Has holds of the API's that expired be released ones: no capture counts after that.
    pub async fn release_expired(&self, ids: &[HoldId]) -> Result<(), LedgerError> {
        self.end_otherwise(ids, Ending::Expired, Ending::Released).await
    }

    /// Takes that back, for those that were captured meanwhile.
    pub async fn expire_released(&self, ids: &[HoldId]) -> Result<(), LedgerError> {
        self.end_otherwise(ids, Ending::Released, Ending::Expired).await
    }

    async fn end_otherwise(
        &self,
        ids: &[HoldId],
        from: Ending,
        to: Ending,
    ) -> Result<(), LedgerError> {
        let names: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
        self.transact(async |on| {
            self.query(
                "UPDATE {s}.holds SET state = $3 WHERE id = ANY($1) AND state = $2 AND origin = 'api'",
            )
            .bind(names.clone())
            .bind(from.as_str())
            .bind(to.as_str())
            .execute(on)
            .await?;
            Ok(())
        })
        .await
    }

    async fn read_fates(
        &self,
        ids: &[HoldId],
        on: &mut PgConnection,
    ) -> Result<Vec<(HoldId, Fate)>, LedgerError> {
        let mut fates = Vec::new();
        let names: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
        let captures: Vec<_> =
            ids.iter().map(|id| OperationId::capture(id).as_str().to_owned()).collect();
        let rows = self
            .query("SELECT id, account, amount FROM {s}.operations WHERE id = ANY($1)")
            .bind(captures)
            .fetch_all(&mut *on)
            .await?;
        for row in &rows {
            let id = row.parsed("id", |id| id.strip_prefix("capture:")?.parse().ok())?;
            let amount = row.integer("amount", |n| Credits::from_micros(n.unsigned_abs()))?;
            fates.push((id, Fate::Captured { account: row.account("account")?, amount }));
        }
        let rows = self
            .query("SELECT id, account, amount, origin, state FROM {s}.holds WHERE id = ANY($1)")
            .bind(names)
            .fetch_all(on)
            .await?;
        for row in &rows {
            let (id, account) = (row.hold("id")?, row.account("account")?);
            let (amount, origin) = (row.credits("amount")?, row.parsed("origin", Origin::parse)?);
            let fate = match row.text("state")? {
                "live" => Fate::Live(account),
                _ => Fate::Ended {
                    account,
                    amount,
                    origin,
                    ending: row.parsed("state", Ending::parse)?,
                },
            };
            // A late capture says more than the ending before it: it stands first, and is found first.
            fates.push((id, fate));
        }
        Ok(fates)
    }

    /// The accounts that have live holds, and how many: after a recovery their deadlines must be watched
    /// again.
    pub async fn accounts_with_holds(&self) -> Result<Vec<(AccountId, usize)>, LedgerError> {
        let rows = self
            .transact_within(ALL_LIMIT, async |on| {
                let all = "SELECT account, count(*) AS holds FROM {s}.holds WHERE state = 'live' \
                           GROUP BY account";
                Ok(self.query(all).fetch_all(on).await?)
            })
            .await?;
        let held = |row: &PgRow| {
            let holds = usize::try_from(row.count("holds")?).unwrap_or(usize::MAX);
            Ok((row.account("account")?, holds))
        };
        rows.iter().map(held).collect()
    }
}
