//! The row of the shard: its epoch, and its checkpoint, which is the newest batch that has been written.

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// The id of the only shard.
pub(crate) const SHARD: i32 = 0;

/// The state of the shard, including the newest batch of the stream that has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub epoch: i64,
    pub nonce: String,
    /// The number of the newest batch that is in Postgres.
    pub seq: i64,
    /// The SHA-256 of that batch.
    pub digest: Vec<u8>,
    /// Whether the next epoch is still to be opened. Until it is open, no operation is decided.
    pub recovering: bool,
    /// The layout of the epoch's data in Redis.
    pub layout: i32,
    /// The identity of the epoch's Redis; empty if it is not known.
    pub redis: String,
    /// The identity of the Postgres that the epoch was opened on; empty if it is not known.
    pub postgres: String,
    /// The number of failovers and restores of Postgres that were noticed.
    pub failovers: i64,
    /// Whether the epoch ends because of a failover or a restore of Postgres.
    pub failed_over: bool,
}

/// A batch of the stream, by its number in the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NumberedBatch {
    pub seq: i64,
    pub text: String,
}

/// A batch of the stream with its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamBatch {
    pub epoch: i64,
    pub batch: NumberedBatch,
}

/// The identity of the server: its system identifier, if that may be read, and its timeline, which changes with a
/// failover and with a restore. Empty if the server does not tell them.
pub(crate) async fn server_identity(store: &Store) -> Result<String, LedgerError> {
    let may_read = "SELECT has_function_privilege('pg_control_system()', 'execute') AS may";
    let system = "SELECT system_identifier::text AS text FROM pg_control_system()";
    let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS text";
    let identity = store.transact(async |on| {
        let may_read = store.query(may_read).fetch_one(&mut *on).await?.flag("may")?;
        let system = match may_read {
            true => store.query(system).fetch_one(&mut *on).await?.text("text")?.to_owned(),
            false => String::new(),
        };
        let timeline = store.query(timeline).fetch_one(on).await?;
        Ok(format!("{system} {}", timeline.text("text")?))
    });
    match identity.await {
        // Not every managed Postgres has these functions.
        Err(error) if !error.is_outage() => {
            tracing::debug!(%error, "Postgres does not say which server it is");
            Ok(String::new())
        }
        identity => identity,
    }
}

/// Records that a failover or a restore of Postgres was noticed. If `ends` is true, the epoch ends because of it, and a
/// second such call for the epoch counts nothing.
pub(crate) async fn note_failover(
    store: &Store,
    epoch: i64,
    ends: bool,
) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            let sql = "UPDATE {s}.shards SET failovers = failovers + 1, failed_over = failed_over OR $3 \
                       WHERE id = $1 AND epoch = $2 AND NOT (failed_over AND $3)";
            store.query(sql).bind(SHARD).bind(epoch).bind(ends).execute(on).await?;
            Ok(())
        })
        .await
}

/// Reads how far the stream has been written.
pub(crate) async fn checkpoint(store: &Store) -> Result<Checkpoint, LedgerError> {
    store.transact(async |on| read_checkpoint(store, "", on).await).await
}

/// Reads the checkpoint in a transaction. `lock` is a locking clause for the shard's row, or empty.
pub(crate) async fn read_checkpoint(
    store: &Store,
    lock: &str,
    on: &mut PgConnection,
) -> Result<Checkpoint, LedgerError> {
    let sql = format!(
        "SELECT epoch, nonce, checkpoint, digest, recovering, layout, redis, postgres, failovers, \
         failed_over FROM {{s}}.shards WHERE id = $1 {lock}"
    );
    let row = store.query(&sql).bind(SHARD).fetch_one(on).await?;
    Ok(Checkpoint {
        epoch: row.int("epoch")?,
        nonce: row.try_get("nonce")?,
        seq: row.int("checkpoint")?,
        digest: row.try_get("digest")?,
        recovering: row.flag("recovering")?,
        layout: row.try_get("layout")?,
        redis: row.try_get("redis")?,
        postgres: row.try_get("postgres")?,
        failovers: row.int("failovers")?,
        failed_over: row.flag("failed_over")?,
    })
}

/// The SHA-256 of a batch. It distinguishes two batches with the same number.
pub(crate) fn digest(text: &str) -> Vec<u8> {
    Sha256::digest(text).to_vec()
}
