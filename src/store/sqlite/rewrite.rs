//! Writes the file anew, once, after events in it were trimmed: SQLite leaves what was overwritten
//! in pages that are not used any more, and in its WAL.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Executor as _, query_scalar};

/// The `PRAGMA user_version` of a file in which nothing is left of whole events.
const REWRITTEN: i64 = 1;

/// The largest file that is rewritten at a start. It takes a second for each hundred megabytes or
/// two, and as much room on the disk again.
const LARGEST_BYTES: i64 = 1 << 30;

/// Rewrites the file unless that was done before. A failure stops nobody from serving: it is logged, and
/// tried again at the next start.
pub(crate) async fn rewrite_once(connection: &mut SqliteConnection) {
    if let Err(error) = rewrite_if_due(connection).await {
        tracing::warn!(
            %error,
            "the ledger's file could not be rewritten: buyers' names and addresses from older events \
             may be left in unused parts of it. It is tried again at the next start"
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
    // The copy it is made from would be in memory otherwise, like all that is temporary.
    connection.execute("PRAGMA temp_store = file").await?;
    let rewritten = connection.execute("VACUUM").await;
    connection.execute("PRAGMA temp_store = memory").await?;
    rewritten?;
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
    Ok(())
}
