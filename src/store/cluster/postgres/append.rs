//! Appends: batches that Postgres has as texts, but not in its tables yet.
//!
//! In `strict` a call is answered once its batch is appended. An append takes one round trip and no row lock, so
//! gateways do not wait for each other, and their commits share one flush of the disk. The batches may come in any
//! order, and some may be missing: a batch that was never appended was never acknowledged. The syncer folds the batches
//! later, from the stream of Redis. Only if Redis has lost the stream, a recovery reads the appends.
//!
//! In `relaxed` a gateway appends only at a stop, and only if a locked row or a backlog keeps its batches from being
//! folded. The batches between them are in the redo logs of other gateways.
//!
//! An append holds an advisory lock in shared mode until it has committed. Before an epoch ends, [`lock_appends`] takes
//! the lock exclusively: the appends that are read after that are complete.

use std::collections::HashSet;
use std::fmt::Write as _;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::store::cluster::epoch::Epoch;
use crate::store::cluster::postgres::shard::{NumberedBatch, SHARD};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// The name of the advisory lock.
const LOCK: &str = "appends";

/// The outcome of an attempt to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// Postgres has all of the batches.
    Durable,
    /// The epoch has ended, or a gateway is about to end it.
    Refused,
    /// Postgres has another batch under one of the numbers.
    Forked,
}

/// Appends batches of an epoch, in one round trip.
pub(crate) async fn append(
    store: &Store,
    epoch: &Epoch,
    batches: &[NumberedBatch],
) -> Result<Appended, LedgerError> {
    if batches.is_empty() {
        return Ok(Appended::Durable);
    }
    let row = store.run(statement(store, epoch, batches)).await?;
    let mut appended = Appended::Durable;
    for place in 0..batches.len() {
        match row.try_get(place)? {
            "appended" | "folded" => {}
            "forked" => return Ok(Appended::Forked),
            _ => appended = Appended::Refused,
        }
    }
    Ok(appended)
}

/// The statement that appends. The texts are part of the statement: parameters would take a second round trip, and
/// PgBouncer might send the two round trips to two servers.
fn statement(store: &Store, epoch: &Epoch, batches: &[NumberedBatch]) -> String {
    let size: usize = batches.iter().map(|batch| batch.text.len() + 256).sum();
    let (schema, key, number) = (store.schema(), store.lock_key(LOCK), epoch.number);
    let nonce = quoted(&epoch.nonce);
    let mut sql = String::with_capacity(size);
    for (place, NumberedBatch { seq, text }) in batches.iter().enumerate() {
        let before = if place == 0 { "SELECT" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(
            sql,
            "{before} {schema}.append_batch({key}, {SHARD}, {number}, {nonce}, {seq}, {})",
            quoted(text)
        );
    }
    sql
}

/// Finds out whether Postgres takes an append of so many bytes. The row is removed in the same transaction, and has a
/// number that no batch has.
pub(crate) async fn try_append(store: &Store, bytes: usize) -> Result<(), LedgerError> {
    let add = "INSERT INTO {s}.appends (shard, epoch, seq, batch) VALUES ($1, 0, 0, repeat('x', $2)) \
               ON CONFLICT DO NOTHING";
    let remove = "DELETE FROM {s}.appends WHERE shard = $1 AND epoch = 0";
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    store
        .transact(async |on| {
            store.query(add).bind(SHARD).bind(bytes).execute(&mut *on).await?;
            store.query(remove).bind(SHARD).execute(on).await?;
            Ok(())
        })
        .await
}

/// Quotes a text for SQL, whatever its characters and the server's settings are: as a dollar-quoted string, whose tag
/// does not occur in the text.
fn quoted(text: &str) -> String {
    let mut tag = String::from("$t$");
    while text.contains(tag.trim_end_matches('$')) {
        tag.insert(tag.len() - 1, 't');
    }
    format!("{tag}{text}{tag}")
}

/// Waits until no batch is being appended, and prevents appends until this transaction ends. The appended batches must
/// be read in a later statement.
pub(crate) async fn lock_appends(store: &Store, on: &mut PgConnection) -> Result<(), LedgerError> {
    store.lock(LOCK, on).await
}

/// The batches of an epoch that were appended, after number `after`, in order.
pub(crate) async fn appends(
    store: &Store,
    epoch: i64,
    after: i64,
    on: &mut PgConnection,
) -> Result<Vec<NumberedBatch>, LedgerError> {
    let sql = "SELECT seq, batch FROM {s}.appends \
               WHERE shard = $1 AND epoch = $2 AND seq > $3 ORDER BY seq";
    let rows = store.query(sql).bind(SHARD).bind(epoch).bind(after).fetch_all(on).await?;
    let batch = |row: &sqlx::postgres::PgRow| {
        Ok(NumberedBatch { seq: row.int("seq")?, text: row.text("batch")?.to_owned() })
    };
    rows.iter().map(batch).collect()
}

/// The numbers of the batches of an epoch, from `first` to `last`, that are appended.
pub(crate) async fn appended(
    store: &Store,
    epoch: i64,
    first: i64,
    last: i64,
) -> Result<HashSet<i64>, LedgerError> {
    let sql = "SELECT seq FROM {s}.appends \
               WHERE shard = $1 AND epoch = $2 AND seq BETWEEN $3 AND $4";
    store
        .transact(async |on| {
            let query = store.query(sql).bind(SHARD).bind(epoch).bind(first).bind(last);
            let rows = query.fetch_all(on).await?;
            rows.iter().map(|row| Ok(row.int("seq")?)).collect()
        })
        .await
}

/// Removes the batches of an epoch up to number `folded`. Those that Postgres lacks in its tables, since it was taken back
/// to an earlier point, stay.
pub(crate) async fn remove_folded(
    store: &Store,
    epoch: i64,
    folded: i64,
) -> Result<(), LedgerError> {
    let sql = "DELETE FROM {s}.appends WHERE shard = $1 AND epoch = $2 AND seq <= least($3, coalesce( \
               (SELECT checkpoint FROM {s}.shards WHERE id = $1 AND epoch = $2), 0))";
    store
        .transact(async |on| {
            store.query(sql).bind(SHARD).bind(epoch).bind(folded).execute(on).await?;
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// If a text contained the tag, the quotes would end too early.
        #[test]
        fn no_text_ends_its_own_quotes(text in "[$t']{0,40}|.*") {
            let quoted = quoted(&text);
            let tag_len = quoted[1..].find('$').unwrap() + 2;
            let (tag, rest) = quoted.split_at(tag_len);
            prop_assert_eq!(rest.find(tag), Some(text.len()));
        }
    }
}
