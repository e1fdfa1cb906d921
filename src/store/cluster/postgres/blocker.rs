//! The transaction that keeps rows of accounts locked, so that the log can name it.

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// A transaction of another program. Postgres shows its age only to its own user and to roles with `pg_read_all_stats`.
#[derive(Clone, Debug)]
pub(crate) struct Blocker {
    /// The id of its server process, for `pg_terminate_backend`.
    pub pid: i64,
    pub user: String,
    pub application: String,
    /// The time since it began, in seconds; 0 if Postgres does not show that.
    pub seconds: i64,
}

/// The oldest transaction that locks rows of accounts, if it began at least half a second ago. A gateway's own is younger,
/// or has locked the shard's row as well: it writes batches, or leads a recovery.
pub(crate) async fn blocker(store: &Store) -> Result<Option<Blocker>, LedgerError> {
    let sql = "SELECT l.pid::int8 AS pid, coalesce(a.usename, '')::text AS usename, \
               coalesce(a.application_name, '') AS application, \
               coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::int8 AS seconds \
               FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) \
               WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid() \
               AND l.relation = '{s}.accounts'::regclass \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock') \
               AND NOT EXISTS (SELECT 1 FROM pg_locks s WHERE s.pid = l.pid AND s.locktype = 'relation' \
               AND s.relation = '{s}.shards'::regclass AND s.mode <> 'AccessShareLock') \
               AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '500 ms') \
               ORDER BY a.xact_start NULLS LAST LIMIT 1";
    let row = store.transact(async |on| Ok(store.query(sql).fetch_optional(on).await?)).await?;
    row.map(|row| {
        Ok(Blocker {
            pid: row.int("pid")?,
            user: row.text("usename")?.to_owned(),
            application: row.text("application")?.to_owned(),
            seconds: row.int("seconds")?,
        })
    })
    .transpose()
}
