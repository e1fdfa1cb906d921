//! Reads for a cache miss in Redis: accounts with their live holds, and the state of a hold.

use std::collections::{BTreeMap, HashSet};

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId, Operation, OperationId, Origin};
use crate::store::cluster::claim_text::KeyClaim;
use crate::store::cluster::postgres::calls::{OPERATIONS, ids_of_calls};
use crate::store::cluster::postgres::claims::optional_digest;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// An account that is to be loaded into Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColdAccount {
    pub account: AccountId,
    pub exists: bool,
    pub balance: SignedCredits,
    pub grant_seq: i64,
    pub frozen: bool,
    /// The digest of the changes up to `grant_seq` (`deliveries.rs`), 8 bytes.
    pub digest: Vec<u8>,
    pub holds: Vec<RestoredHold>,
}

/// A live hold of a [`ColdAccount`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RestoredHold {
    pub id: HoldId,
    pub amount: Credits,
    pub origin: Origin,
    pub owner: i64,
    pub expires_ms: i64,
    pub route: String,
    pub claim: Option<KeyClaim>,
}

/// The state of a hold, found by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Live {
        account: AccountId,
        origin: Origin,
        /// The gateway that asked for the hold.
        owner: i64,
    },
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
    /// Postgres has no hold and no capture under this id.
    Unknown,
}

/// Reads accounts from one snapshot. An id that occurs twice in `ids` gives one account.
pub(crate) async fn cold_accounts(
    store: &Store,
    ids: &[AccountId],
) -> Result<Vec<ColdAccount>, LedgerError> {
    let names: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let (accounts, holds) = store
        .transact(async |on| {
            on.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let accounts = store
                .query("SELECT id, balance, grant_seq, frozen, digest FROM {s}.accounts WHERE id = ANY($1)")
                .bind(names.clone())
                .fetch_all(&mut *on)
                .await?;
            let holds = store
                .query(
                    "SELECT h.id, account, amount, origin, owner, expires_at, route, c.id AS claim, mark, until \
                     FROM {s}.holds h LEFT JOIN {s}.claims c ON c.hold = h.id AND NOT c.charged \
                     WHERE account = ANY($1) AND state = 'live'",
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
        digest: vec![0; 8],
        holds: Vec::new(),
    };
    // The map removes duplicates. A second row for the same id would have no balance and no holds.
    let mut cold: BTreeMap<_, _> = ids.iter().map(|id| (id, none(id))).collect();
    for row in &accounts {
        let id = row.account("id")?;
        if let Some(account) = cold.get_mut(&id) {
            account.exists = true;
            account.balance = row.signed("balance")?;
            account.grant_seq = row.int("grant_seq")?;
            account.frozen = row.flag("frozen")?;
            account.digest = row.try_get("digest")?;
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
                claim: match optional_digest(row, "claim")? {
                    Some(id) => Some(KeyClaim {
                        id,
                        mark: optional_digest(row, "mark")?,
                        until_ms: row.int("until")?,
                    }),
                    None => None,
                },
            });
        }
    }
    Ok(cold.into_values().collect())
}

/// Returns, for each operation, whether it opens an account that exists already.
pub(crate) async fn exist(
    store: &Store,
    operations: &[Operation],
) -> Result<Vec<bool>, LedgerError> {
    let opened = operations.iter().map(|operation| match operation {
        Operation::Open { account, .. } => Some(account.as_str()),
        _ => None,
    });
    let names: Vec<_> = opened.clone().flatten().map(str::to_owned).collect();
    let rows = store
        .transact(async |on| {
            let sql = "SELECT id FROM {s}.accounts WHERE id = ANY($1)";
            Ok(store.query(sql).bind(names).fetch_all(on).await?)
        })
        .await?;
    let found: Result<HashSet<_>, _> = rows.iter().map(|row| row.text("id")).collect();
    let found = found?;
    Ok(opened.map(|opened| opened.is_some_and(|id| found.contains(id))).collect())
}

/// Reads the state of each of these holds, in their order.
pub(crate) async fn fates(store: &Store, ids: &[HoldId]) -> Result<Vec<Fate>, LedgerError> {
    store
        .transact(async |on| {
            let mut fates = Vec::with_capacity(ids.len());
            let found = read_fates(store, ids, on).await?;
            for id in ids {
                let fate =
                    found.iter().find(|(found, _)| found == id).map(|(_, fate)| fate.clone());
                fates.push(fate.unwrap_or(Fate::Unknown));
            }
            Ok(fates)
        })
        .await
}

/// Reads the states of the holds that Postgres has.
async fn read_fates(
    store: &Store,
    ids: &[HoldId],
    on: &mut PgConnection,
) -> Result<Vec<(HoldId, Fate)>, LedgerError> {
    let mut fates = Vec::new();
    let names: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let captures: Vec<_> =
        ids.iter().map(|id| OperationId::capture(id).as_str().to_owned()).collect();
    let calls = ids_of_calls(&captures);
    let rows = store
        .query(&format!("SELECT id, account, amount FROM {OPERATIONS} o"))
        .bind(captures)
        .bind(calls)
        .fetch_all(&mut *on)
        .await?;
    for row in &rows {
        let id = row.parsed("id", |id| id.strip_prefix("capture:")?.parse().ok())?;
        let amount = row.integer("amount", |n| Credits::from_micros(n.unsigned_abs()))?;
        fates.push((id, Fate::Captured { account: row.account("account")?, amount }));
    }
    let rows = store
        .query("SELECT id, account, amount, origin, owner, state FROM {s}.holds WHERE id = ANY($1)")
        .bind(names)
        .fetch_all(on)
        .await?;
    for row in &rows {
        let (id, account) = (row.hold("id")?, row.account("account")?);
        let (amount, origin) = (row.credits("amount")?, row.parsed("origin", Origin::parse)?);
        let fate = match row.text("state")? {
            "live" => Fate::Live { account, origin, owner: row.int("owner")? },
            _ => {
                Fate::Ended { account, amount, origin, ending: row.parsed("state", Ending::parse)? }
            }
        };
        // A late capture takes precedence over the ending before it. The capture was pushed first, so it is found
        // first.
        fates.push((id, fate));
    }
    Ok(fates)
}
