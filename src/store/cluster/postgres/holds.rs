//! Reads holds by their gateway, and changes holds that are in no batch.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId};
use crate::store::cluster::postgres::leases::GONE;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// Selects the live holds of a gateway's calls.
const CALLS: &str = "SELECT id, account, route FROM {s}.holds \
     WHERE owner = $1 AND state = 'live' AND origin = 'call'";

/// How long counting all live holds may take. No call waits for it.
const ALL_LIMIT: Duration = Duration::from_secs(30);

/// The time limit for deleting holds that ended long ago.
const PURGE_LIMIT: Duration = Duration::from_secs(60);

/// A live hold of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallHold {
    pub id: HoldId,
    pub account: AccountId,
    pub route: Arc<str>,
}

/// Reads the live holds of one gateway's calls.
pub(crate) async fn call_holds(
    store: &Store,
    incarnation: i64,
) -> Result<Vec<CallHold>, LedgerError> {
    read_call_holds(store, CALLS, incarnation).await
}

/// Like [`call_holds`], for a gateway that is lost: it has been without a lease for long, or has no
/// row. Returns no holds if the gateway has come back.
pub(crate) async fn call_holds_of_gone(
    store: &Store,
    incarnation: i64,
) -> Result<Vec<CallHold>, LedgerError> {
    let is_there = format!("SELECT 1 FROM {{s}}.gateways WHERE incarnation = $1 AND NOT {GONE}");
    read_call_holds(store, &format!("{CALLS} AND NOT EXISTS ({is_there})"), incarnation).await
}

async fn read_call_holds(
    store: &Store,
    sql: &str,
    incarnation: i64,
) -> Result<Vec<CallHold>, LedgerError> {
    store
        .transact(async |on| {
            let rows = store.query(sql).bind(incarnation).fetch_all(on).await?;
            let hold = |row: &PgRow| {
                let (id, account) = (row.hold("id")?, row.account("account")?);
                Ok(CallHold { id, account, route: row.text("route")?.into() })
            };
            rows.iter().map(hold).collect()
        })
        .await
}

/// Deletes calls' holds that ended before `before_ms`. Expired ones stay until `crashed_before_ms`,
/// because they make up the list of calls that were cut off. Both times are in milliseconds since
/// 1970.
pub(crate) async fn purge_ended_holds(
    store: &Store,
    before_ms: i64,
    crashed_before_ms: i64,
) -> Result<(), LedgerError> {
    store
        .transact_within(PURGE_LIMIT, async |on| {
            store.query(
            "DELETE FROM {s}.holds WHERE state <> 'live' AND origin = 'call' AND ended_at < $1 \
             AND (state <> 'expired' OR ended_at < $2)",
        )
        .bind(before_ms)
        .bind(crashed_before_ms)
        .execute(on)
        .await?;
            Ok(())
        })
        .await
}

/// Counts the live holds of each account that has any. After a recovery, these accounts are loaded
/// into Redis first, so that the deadlines of their holds are checked again.
pub(crate) async fn accounts_with_holds(
    store: &Store,
) -> Result<Vec<(AccountId, usize)>, LedgerError> {
    let rows = store
        .transact_within(ALL_LIMIT, async |on| {
            let all = "SELECT account, count(*) AS holds FROM {s}.holds WHERE state = 'live' \
                       GROUP BY account";
            Ok(store.query(all).fetch_all(on).await?)
        })
        .await?;
    let held = |row: &PgRow| {
        let holds = usize::try_from(row.count("holds")?).unwrap_or(usize::MAX);
        Ok((row.account("account")?, holds))
    };
    rows.iter().map(held).collect()
}

/// Marks expired holds of the API as released. No capture counts after that.
pub(crate) async fn release_expired(store: &Store, ids: &[HoldId]) -> Result<(), LedgerError> {
    change_ending(store, ids, Ending::Expired, Ending::Released).await
}

/// Marks released holds of the API as expired again, because they were captured in the meantime.
pub(crate) async fn expire_released(store: &Store, ids: &[HoldId]) -> Result<(), LedgerError> {
    change_ending(store, ids, Ending::Released, Ending::Expired).await
}

async fn change_ending(
    store: &Store,
    ids: &[HoldId],
    from: Ending,
    to: Ending,
) -> Result<(), LedgerError> {
    let names: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    store
        .transact(async |on| {
            store.query(
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
