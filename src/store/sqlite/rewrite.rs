//! Rewrites the file once after a migration has trimmed the events in it. Until then, SQLite keeps
//! the overwritten data in unused pages and in its WAL.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Executor as _, query_scalar};

/// The `PRAGMA user_version` of a file that has no remains of untrimmed events.
const REWRITTEN: i64 = 1;

/// The largest file that is rewritten at a start. Rewriting takes a second for each 100 to 200 MB, and
/// needs as much free space on the disk as the file takes.
const LARGEST_BYTES: i64 = 1 << 30;

/// Rewrites the file, unless that was done before. A failure is logged, and the next start tries
/// again.
pub(crate) async fn rewrite_once(connection: &mut SqliteConnection) {
    if let Err(error) = rewrite_if_due(connection).await {
        tracing::warn!(
            %error,
            "the ledger's file could not be rewritten: buyers' names and addresses from older events \
             may be left in unused parts of it. The next start tries again"
        );
    }
}

async fn rewrite_if_due(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let version: i64 = query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    if version >= REWRITTEN {
        return Ok(());
    }
    let has_events = "SELECT EXISTS (SELECT 1 FROM stripe_events)";
    if query_scalar(has_events).fetch_one(&mut *connection).await? {
        let pages: i64 = query_scalar("PRAGMA page_count").fetch_one(&mut *connection).await?;
        let page: i64 = query_scalar("PRAGMA page_size").fetch_one(&mut *connection).await?;
        if pages.saturating_mul(page) > LARGEST_BYTES {
            tracing::warn!(
                "the ledger's file is too large to be rewritten at a start: buyers' names and \
                 addresses from older events may be left in unused parts of it. Stop the gateway, \
                 run `farebox backup`, and put the copy in the file's place"
            );
        } else {
            rewrite(connection).await?;
        }
    }
    connection.execute("PRAGMA user_version = 1").await?;
    Ok(())
}

async fn rewrite(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    // The copy is as large as the file. Without this setting, SQLite would make the copy in memory.
    connection.execute("PRAGMA temp_store = file").await?;
    let rewritten = connection.execute("VACUUM").await;
    connection.execute("PRAGMA temp_store = memory").await?;
    rewritten?;
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    Ok(())
}
