//! Deletes calls' ended holds, old lines of the list of calls that were cut off, and claims, once their time is up.

use std::time::{Duration, Instant};

use sqlx::SqliteConnection;

use crate::ledger::retention;
use crate::ledger::rules::state::Now;
use crate::store::sqlite::claims;
use crate::store::sqlite::connection::Writer;

/// How many ended holds are deleted at once. No call is decided during that time.
const SLICE: u32 = 2000;

/// How often ended holds are looked for.
const EVERY: Duration = Duration::from_secs(3600);

/// The time at which old endings were last deleted.
#[derive(Debug, Default)]
pub(crate) struct Purge {
    last: Option<Instant>,
}

impl Purge {
    /// Whether [`Purge::run_if_due`] would delete something.
    pub fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() > EVERY)
    }

    /// Deletes a slice of old endings with each call until none is left, and begins again after
    /// [`EVERY`].
    pub async fn run_if_due(&mut self, writer: &mut Writer, now: Now) {
        if !self.is_due() {
            return;
        }
        let Ok(connection) = writer.get().await else { return };
        match purge(connection, now).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "old endings of holds could not be deleted"),
        }
        self.last = Some(Instant::now());
    }
}

/// Deletes a slice of calls' holds that ended long ago and of claims whose time is up, and the old lines of the list of
/// calls that were cut off. Returns true if more such holds or claims may be left.
async fn purge(connection: &mut SqliteConnection, now: Now) -> Result<bool, sqlx::Error> {
    let before = now.wall_ms.saturating_sub(retention::ENDED_CALLS.as_millis() as i64);
    let crashed_before = now.wall_ms.saturating_sub(retention::CRASHED_CALLS.as_millis() as i64);
    let crashed = sqlx::query("DELETE FROM crashed WHERE at < ?1").bind(crashed_before);
    if let Err(error) = crashed.execute(&mut *connection).await {
        tracing::warn!(%error, "old lines of the list of calls that were cut off could not be deleted");
    }
    let claims = claims::purge(&mut *connection, now, SLICE).await?;
    // A hold's row in `call_holds` can outlast the hold. As long as the row is there, the record of the
    // hold's end must stay, since it shows that the hold is not live.
    let purged = sqlx::query(
        "DELETE FROM ended_holds WHERE id IN (SELECT id FROM ended_holds \
         WHERE origin = 'call' AND ended_at < ?1 AND id NOT IN \
         (SELECT h.value->>0 FROM call_holds c, json_each(c.holds) h) \
         ORDER BY ended_at LIMIT ?2)",
    )
    .bind(before)
    .bind(SLICE)
    .execute(connection)
    .await?;
    Ok(purged.rows_affected().max(claims) >= u64::from(SLICE))
}
