//! Owed charges: captures that Redis could not decide before their gateway stopped. The next
//! recovery writes them.

use std::sync::Arc;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::ledger::LedgerError;
use crate::ledger::operation::{Operation, OperationId, Origin};
use crate::store::cluster::batch_log::{Decided, storable};
use crate::store::cluster::postgres::batches::write_decided;
use crate::store::cluster::postgres::claims::optional_digest;
use crate::store::cluster::postgres::entries::int;
use crate::store::cluster::postgres::shard::SHARD;
use crate::store::cluster::postgres::store::Store;
use crate::store::cluster::usage_text;
use crate::store::sql::rows::Column as _;

/// Stores these charges, and begins a recovery that writes them. Operations other than captures of
/// a known account are ignored.
pub(crate) async fn leave_owed(store: &Store, charges: &[Operation]) -> Result<(), LedgerError> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut claims = Vec::new();
    for charge in charges {
        if let Operation::Capture {
            hold,
            account: Some(account),
            amount,
            route,
            usage,
            claim,
            ..
        } = charge
        {
            columns.0.push(OperationId::capture(hold).as_str().to_owned());
            columns.1.push(hold.as_str().to_owned());
            columns.2.push(account.as_str().to_owned());
            columns.3.push(int(amount.micros())?);
            columns.4.push(storable(route));
            columns.5.push(usage.as_deref().map(usage_text::write));
            claims.push(claim.map(|id| id.as_bytes().to_vec()));
        }
    }
    store
        .transact(async |on| {
            store
                .query("UPDATE {s}.shards SET recovering = true WHERE id = $1")
                .bind(SHARD)
                .execute(&mut *on)
                .await?;
            store
                .query(
                    "INSERT INTO {s}.owed (shard, operation, hold, account, amount, route, usage, claim) \
             SELECT $1, * FROM UNNEST($2::text[], $3::text[], $4::text[], $5::int8[], $6::text[], \
             $7::text[], $8::bytea[]) \
             ON CONFLICT DO NOTHING",
                )
                .bind(SHARD)
                .bind(columns.0)
                .bind(columns.1)
                .bind(columns.2)
                .bind(columns.3)
                .bind(columns.4)
                .bind(columns.5)
                .bind(claims)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
}

/// Reads the owed charges that have no entry yet.
pub(crate) async fn read_owed(
    store: &Store,
    on: &mut PgConnection,
) -> Result<Vec<Decided>, LedgerError> {
    let rows = store
        .query(
            "SELECT hold, account, amount, route, usage, claim, NOT EXISTS \
             (SELECT 1 FROM {s}.holds h WHERE h.id = o.hold AND h.state = 'live') AS late \
             FROM {s}.owed o WHERE shard = $1 AND NOT set_aside AND NOT EXISTS \
             (SELECT 1 FROM {s}.operations p WHERE p.id = o.operation) AND NOT EXISTS \
             (SELECT 1 FROM {s}.calls c WHERE c.id = {s}.call_of(o.operation)) AND \
             ({s}.call_of(o.operation) < (SELECT calls_from FROM {s}.ledger)) IS NOT TRUE ORDER BY operation",
        )
        .bind(SHARD)
        .fetch_all(on)
        .await?;
    let charge = |row: &PgRow| {
        Ok(Decided::Captured {
            id: row.hold("hold")?,
            account: row.account("account")?,
            amount: row.credits("amount")?,
            origin: Origin::Call,
            late: row.flag("late")?,
            route: row.text("route")?.into(),
            usage: match row.optional_text("usage")? {
                Some(_) => Some(Arc::new(row.parsed("usage", usage_text::read)?)),
                None => None,
            },
            claim: optional_digest(row, "claim")?.map(Box::new),
        })
    };
    rows.iter().map(charge).collect()
}

/// Begins a recovery if owed charges are left. A gateway of an earlier version does not know owed
/// charges, so a recovery that it leads does not write them.
pub(crate) async fn recover_if_owed(store: &Store) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            store
                .query(
                    "UPDATE {s}.shards SET recovering = true WHERE id = $1 AND NOT recovering \
             AND EXISTS (SELECT 1 FROM {s}.owed WHERE shard = $1 AND NOT set_aside)",
                )
                .bind(SHARD)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
}

/// Writes the owed charges and deletes them. Returns how many it wrote. If they cannot be written,
/// they are marked as set aside, so that the recovery can go on.
pub(crate) async fn charge_owed(
    store: &Store,
    at_ms: i64,
    on: &mut PgConnection,
) -> Result<usize, LedgerError> {
    on.execute("SAVEPOINT owed").await?;
    match try_to_charge_owed(store, at_ms, on).await {
        Ok(charged) => Ok(charged),
        Err(error) => {
            on.execute("ROLLBACK TO SAVEPOINT owed").await?;
            let aside = "UPDATE {s}.owed SET set_aside = true WHERE shard = $1";
            store.query(aside).bind(SHARD).execute(on).await?;
            tracing::error!(
                %error,
                "the owed charges cannot be written; they stay in the table `owed`, marked `set_aside`"
            );
            Ok(0)
        }
    }
}

async fn try_to_charge_owed(
    store: &Store,
    at_ms: i64,
    on: &mut PgConnection,
) -> Result<usize, LedgerError> {
    let decided = read_owed(store, on).await?;
    let all = "DELETE FROM {s}.owed WHERE shard = $1 AND NOT set_aside";
    store.query(all).bind(SHARD).execute(&mut *on).await?;
    let charged = decided.len();
    write_decided(store, decided, at_ms, on).await?;
    Ok(charged)
}
