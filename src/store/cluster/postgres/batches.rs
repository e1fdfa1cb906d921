//! Writes the batches that Redis decided, in the order of the stream, each batch once.
//!
//! A batch is a text, which `batch_log.rs` parses. [`Tally`] adds up the net effect of all batches
//! of a transaction. So each table is written with one statement, and each account with one update
//! of its row, however many batches there are. The same transaction locks the shard's row and moves
//! its checkpoint. A second writer waits for that lock, and then finds that its batches are below
//! the checkpoint.

use std::collections::HashSet;

use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::postgres::calls::{known_charges, may_be_forgotten};
use crate::store::cluster::postgres::claims::write_claims;
use crate::store::cluster::postgres::deliveries::{self, NewDeliveries};
use crate::store::cluster::postgres::entries::{ChargeRows, lock_accounts, write_accounts};
use crate::store::cluster::postgres::shard::{
    Checkpoint, NumberedBatch, SHARD, digest, read_checkpoint,
};
use crate::store::cluster::postgres::store::{Store, is_race};
use crate::store::cluster::postgres::tally::{Capture, HoldColumns, Tally};

/// Limits how long the batches wait for an account's row. A grant keeps one for some milliseconds; a row that stays locked
/// longer is soon tried again, and the operations that need the batches hear of it early.
const ROW_WAIT: &str = "SET LOCAL lock_timeout = 100";

/// The outcome of an attempt to write batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Postgres has every batch up to this number.
    Upto(i64),
    /// Another writer has moved the checkpoint, so it must be read again.
    ByAnother,
}

/// Writes consecutive batches of `epoch`, if they continue its checkpoint, and moves the
/// checkpoint. Batches up to the checkpoint are skipped.
///
/// If another transaction interferes, a second attempt is made, which first checks which charges were written before.
///
/// # Errors
/// [`LedgerError::RowLocked`] if another transaction keeps the row of an account locked, and [`LedgerError::Behind`] if
/// another writer takes long.
pub(crate) async fn write_batches(
    store: &Store,
    epoch: i64,
    batches: &[NumberedBatch],
) -> Result<Written, LedgerError> {
    let attempt = |careful| {
        store.transact(async move |on| {
            let checkpoint = read_checkpoint(store, "FOR UPDATE", on).await;
            let checkpoint = checkpoint.map_err(|error| match error.of_a_transaction() {
                LedgerError::RowLocked => LedgerError::Behind,
                error => error,
            })?;
            on.execute(ROW_WAIT).await?;
            write_batches_locked(store, &checkpoint, epoch, batches, careful, on).await
        })
    };
    match attempt(false).await {
        Err(error) if is_race(&error) => attempt(true).await,
        result => result,
    }
}

/// The same as [`write_batches`], with the shard's row locked. `careful` is true if some of the
/// charges may have been written before.
async fn write_batches_locked(
    store: &Store,
    checkpoint: &Checkpoint,
    epoch: i64,
    batches: &[NumberedBatch],
    careful: bool,
    on: &mut PgConnection,
) -> Result<Written, LedgerError> {
    if checkpoint.epoch != epoch {
        return Ok(Written::ByAnother);
    }
    let new: Vec<_> = batches.iter().filter(|batch| batch.seq > checkpoint.seq).collect();
    let Some(last) = new.last() else { return Ok(Written::Upto(checkpoint.seq)) };
    if !new.iter().zip(1..).all(|(batch, n)| batch.seq == checkpoint.seq + n) {
        return Ok(Written::ByAnother);
    }
    write_contents(store, &new, careful, on).await?;
    store
        .query("UPDATE {s}.shards SET checkpoint = $3, digest = $4 WHERE id = $1 AND epoch = $2")
        .bind(SHARD)
        .bind(epoch)
        .bind(last.seq)
        .bind(digest(&last.text))
        .execute(on)
        .await?;
    Ok(Written::Upto(last.seq))
}

/// Writes the entries and holds of these batches, and leaves the checkpoint as it is. `careful` is
/// true if some of the charges may have been written before.
pub(crate) async fn write_contents(
    store: &Store,
    batches: &[&NumberedBatch],
    careful: bool,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let mut tally = Tally::default();
    for batch in batches {
        let parsed = Batch::parse(&batch.text).ok_or_else(|| LedgerError::Corrupt {
            what: format!("batch {} of the stream cannot be read", batch.seq),
        })?;
        tally.add(parsed);
    }
    // The insert finds a repeated charge by its id, unless that id may be forgotten.
    let is_old =
        |capture: &Capture| capture.is_call && may_be_forgotten(&capture.operation, capture.at_ms);
    if careful || tally.captures.iter().any(is_old) {
        drop_repeated(store, &mut tally, on).await?;
    }
    write_tally(store, &tally, on).await
}

/// Writes decisions that are in no batch of the stream.
pub(crate) async fn write_decided(
    store: &Store,
    decided: Vec<Decided>,
    at_ms: i64,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let mut tally = Tally::default();
    tally.add(Batch { at_ms, decided });
    write_tally(store, &tally, on).await
}

async fn write_tally(
    store: &Store,
    tally: &Tally,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    write_captures(store, &tally.captures, on).await?;
    write_holds(store, tally, on).await?;
    match &tally.claims {
        Some(claims) => write_claims(store, claims, tally.at_ms, on).await,
        None => Ok(()),
    }
}

/// Removes from the tally the charges that already have an entry. Redis has charged them twice, so
/// the second charge is given back in Redis.
async fn drop_repeated(
    store: &Store,
    tally: &mut Tally,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let ids: Vec<_> = tally.captures.iter().map(|c| c.operation.as_str().to_owned()).collect();
    let mut seen: HashSet<_> = known_charges(store, ids, on).await?.into_iter().collect();
    let (once, twice): (Vec<_>, Vec<_>) = std::mem::take(&mut tally.captures)
        .into_iter()
        .partition(|capture| seen.insert(capture.operation.as_str().to_owned()));
    tally.captures = once;
    for capture in twice {
        tracing::error!(
            operation = capture.operation.as_str(),
            "Redis charged a hold twice, or one of a month that is folded; this charge is given back"
        );
        give_back(store, &capture, on).await?;
    }
    Ok(())
}

/// Queues a delivery that gives a charge back in Redis. The entries and the balance in Postgres are
/// already right.
async fn give_back(
    store: &Store,
    capture: &Capture,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let counted = store
        .query(
            "UPDATE {s}.accounts SET grant_seq = grant_seq + 1 WHERE id = $1 \
             RETURNING id, grant_seq, frozen",
        )
        .bind(capture.account.as_str())
        .fetch_optional(&mut *on)
        .await?;
    let mut queued = NewDeliveries::default();
    if let Some(row) = &counted {
        queued.push(row, -capture.amount.micros())?;
    }
    deliveries::queue(store, queued, on).await
}

/// Writes an entry for each charge, and the new balances.
async fn write_captures(
    store: &Store,
    captures: &[Capture],
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if captures.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<_> = captures.iter().map(|c| c.account.clone()).collect();
    ids.sort();
    ids.dedup();
    let known = lock_accounts(store, &ids, on).await?;
    let mut accounts = known.clone();
    let mut rows = ChargeRows::begin(store, captures, &mut *on).await?;
    for capture in captures {
        let account = accounts.entry(capture.account.clone()).or_default();
        account.seq = account.seq.saturating_add(1);
        let after = account.balance.checked_add(capture.amount);
        account.balance = after.ok_or_else(|| LedgerError::Corrupt {
            what: format!("the balance of {} is out of range", capture.account),
        })?;
        rows.push(capture, account)?;
    }
    rows.write(store, &mut *on).await?;
    let at_ms = captures.first().map_or(0, |capture| capture.at_ms);
    // Redis moved these balances itself: no delivery is needed, so `grant_seq` stays.
    write_accounts(store, &known, &accounts, 0, at_ms, on).await.map(drop)
}

/// Writes which holds were made, extended, renewed and ended.
async fn write_holds(
    store: &Store,
    tally: &Tally,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if !tally.captured.is_empty() {
        store
            .query("DELETE FROM {s}.holds WHERE id = ANY($1) AND state = 'live'")
            .bind(&tally.captured)
            .execute(&mut *on)
            .await?;
    }
    if !tally.extended.is_empty() {
        let (ids, amounts): (Vec<_>, Vec<_>) = tally.extended.clone().into_iter().unzip();
        store
            .query(
                "UPDATE {s}.holds h SET amount = n.amount FROM \
             UNNEST($1::text[], $2::int8[]) AS n (id, amount) \
             WHERE h.id = n.id AND h.state = 'live'",
            )
            .bind(ids)
            .bind(amounts)
            .execute(&mut *on)
            .await?;
    }
    if !tally.renewed.is_empty() {
        let (ids, times): (Vec<_>, Vec<_>) = tally.renewed.clone().into_iter().unzip();
        store
            .query(
                "UPDATE {s}.holds h SET expires_at = n.expires_at FROM \
             UNNEST($1::text[], $2::int8[]) AS n (id, expires_at) \
             WHERE h.id = n.id AND h.state = 'live'",
            )
            .bind(ids)
            .bind(times)
            .execute(&mut *on)
            .await?;
    }
    if tally.holds.is_empty() {
        return Ok(());
    }
    let mut columns = HoldColumns::default();
    tally.holds.values().for_each(|hold| columns.push(hold));
    store
        .query(
            "INSERT INTO {s}.holds AS h (id, account, amount, route, origin, owner, state, \
         expires_at, ended_at) SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], \
         $4::text[], $5::text[], $6::int8[], $7::text[], $8::int8[], $9::int8[]) \
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, ended_at = excluded.ended_at \
         WHERE h.state = 'live'",
        )
        .bind(columns.ids)
        .bind(columns.accounts)
        .bind(columns.amounts)
        .bind(columns.routes)
        .bind(columns.origins)
        .bind(columns.owners)
        .bind(columns.states)
        .bind(columns.deadlines)
        .bind(columns.ends)
        .execute(on)
        .await?;
    Ok(())
}
