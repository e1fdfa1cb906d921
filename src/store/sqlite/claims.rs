//! Stores claims, and the calls whose clients left.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::ledger::claim::{ClaimId, LEFT_MS, RequestMark};
use crate::ledger::rules::state::{Changes, KeyClaim, Known, LeftCall, LeftState, Now, State};
use crate::store::sql::rows::{Column as _, unfit};
use crate::store::sqlite::json_rows::Rows;

const PUT_CLAIMS: &str = "INSERT INTO claims (id, hold, mark, until, charged) \
     SELECT unhex(value->>0), value->>1, unhex(value->>2), value->>3, value->>4 FROM jsonb_each(?) \
     WHERE true ON CONFLICT (id) DO UPDATE SET hold = excluded.hold, mark = excluded.mark, \
     until = excluded.until, charged = excluded.charged;";

const FREE_CLAIMS: &str =
    "DELETE FROM claims WHERE id IN (SELECT unhex(value->>0) FROM jsonb_each(?));";

const PUT_LEFT: &str = "INSERT INTO left_calls (hold, id, state, until) \
     SELECT value->>0, unhex(value->>1), value->>2, value->>3 FROM jsonb_each(?) WHERE true \
     ON CONFLICT (hold) DO UPDATE SET id = excluded.id, state = excluded.state, \
     until = excluded.until;";

const FORGET_LEFT: &str =
    "DELETE FROM left_calls WHERE hold IN (SELECT value->>0 FROM jsonb_each(?));";

/// The statements that write the changes of claims, in the order of [`rows`].
pub(crate) const WRITE: [&str; 4] = [PUT_CLAIMS, FREE_CLAIMS, PUT_LEFT, FORGET_LEFT];

/// The rows of the claims, and of the calls whose clients left, for the statements in [`WRITE`].
pub(crate) fn rows(changes: &Changes) -> [Rows; 4] {
    let [mut taken, mut free, mut left, mut forgotten] = [const { Rows::new() }; 4];
    for (id, claim) in &changes.claims {
        match claim {
            Some(KeyClaim { hold, mark, until_ms, charged }) => {
                let mark = mark.map(|mark| mark.to_string());
                let row = taken.row().text(&id.to_string()).text(hold.as_str());
                row.optional(mark.as_deref()).int(*until_ms).int((*charged).into()).end();
            }
            None => free.row().text(&id.to_string()).end(),
        }
    }
    for (hold, call) in &changes.left {
        match call {
            Some(LeftCall { id, state, until_ms }) => {
                let row = left.row().text(hold.as_str()).text(&id.to_string());
                row.text(state.as_str()).int(*until_ms).end();
            }
            None => forgotten.row().text(hold.as_str()).end(),
        }
    }
    [taken, free, left, forgotten]
}

/// Reads the claims of the running calls among `state`'s holds, and the calls whose clients left lately.
pub(crate) async fn load(
    connection: &mut SqliteConnection,
    state: &mut State,
    now: Now,
) -> Result<(), sqlx::Error> {
    let running =
        sqlx::query("SELECT id, hold, mark, until, charged FROM claims WHERE charged = 0");
    for row in running.fetch_all(&mut *connection).await? {
        let (id, claim) = claim_from(&row)?;
        if state.holds.contains_key(&claim.hold) {
            state.claims.set(id, Some(Some(claim)));
        }
    }
    let left = sqlx::query("SELECT * FROM left_calls WHERE until > ? ORDER BY until, hold");
    for row in left.bind(now.wall_ms).fetch_all(connection).await? {
        let left = LeftCall {
            id: ClaimId::new(digest(&row, "id")?),
            state: row.parsed("state", LeftState::parse)?,
            // After the clock was set back, a record lives no longer than its whole time.
            until_ms: row.int("until")?.min(now.wall_ms.saturating_add(LEFT_MS as i64)),
        };
        state.claims.set_left(&row.hold("hold")?, Some(left));
    }
    Ok(())
}

/// Reads those of the `wanted` claims that the file has.
pub(crate) async fn known(
    connection: &mut SqliteConnection,
    wanted: &[ClaimId],
    known: &mut Known,
) -> Result<(), sqlx::Error> {
    let mut ids = Rows::new();
    wanted.iter().for_each(|id| ids.row().text(&id.to_string()).end());
    let rows = sqlx::query(
        "SELECT id, hold, mark, until, charged FROM claims \
         WHERE id IN (SELECT unhex(value->>0) FROM jsonb_each(?))",
    );
    for row in rows.bind(ids.finish()).fetch_all(connection).await? {
        let (id, claim) = claim_from(&row)?;
        known.claims.insert(id, claim);
    }
    Ok(())
}

/// Deletes a slice of the claims whose time is up; returns how many. The records of calls whose clients left are
/// deleted all at once, because there are only those of the last hour.
pub(crate) async fn purge(
    connection: &mut SqliteConnection,
    now: Now,
    slice: u32,
) -> Result<u64, sqlx::Error> {
    let left = sqlx::query("DELETE FROM left_calls WHERE until <= ?").bind(now.wall_ms);
    left.execute(&mut *connection).await?;
    let old = sqlx::query(
        "DELETE FROM claims WHERE id IN \
         (SELECT id FROM claims WHERE charged = 1 AND until <= ? ORDER BY until LIMIT ?)",
    );
    Ok(old.bind(now.wall_ms).bind(slice).execute(connection).await?.rows_affected())
}

/// Reads the ledger's own secret, and stores a new one if the ledger has none yet.
///
/// # Errors
/// Fails if the file cannot be read or written, or the system has no random numbers.
pub(crate) async fn secret(connection: &mut SqliteConnection) -> Result<[u8; 32], sqlx::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| sqlx::Error::Io(std::io::Error::other(error.to_string())))?;
    let row = sqlx::query(
        "UPDATE ledger SET secret = coalesce(secret, ?) WHERE one = 1 RETURNING secret",
    );
    digest(&row.bind(&secret[..]).fetch_one(connection).await?, "secret")
}

fn claim_from(row: &SqliteRow) -> Result<(ClaimId, KeyClaim), sqlx::Error> {
    let mark: Option<&[u8]> = row.try_get("mark")?;
    let mark = mark.map(|mark| mark.try_into().map_err(|_| unfit("mark"))).transpose()?;
    let claim = KeyClaim {
        hold: row.hold("hold")?,
        mark: mark.map(RequestMark::new),
        until_ms: row.int("until")?,
        charged: row.flag("charged")?,
    };
    Ok((ClaimId::new(digest(row, "id")?), claim))
}

fn digest(row: &SqliteRow, name: &str) -> Result<[u8; 32], sqlx::Error> {
    row.bytes(name)?.try_into().map_err(|_| unfit(name))
}
