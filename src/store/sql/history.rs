//! Queries for the account page and the operator's page: usage, newest entries, live holds,
//! activity.

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::history::{Activity, DayUsage, HoldView, Movement, Usage};
use crate::ledger::operation::{Entry, EntryKind, HoldId, Origin};
use crate::store::sql::database::{Database, Value, first_row};
use crate::store::sql::models;
use crate::store::sql::rows::{Column, ENTRY, entry_with_usage_from, payment_from};

/// How many of an account's newest entries are added up for its usage. Customers may ask for their
/// usage often, and this many entries take only a fraction of a second.
pub(crate) const USAGE_LINES: i64 = 250_000;

const HOUR_MS: i64 = 3600 * 1000;

/// The usage of `account` since `since_ms` (milliseconds since 1970), by day and route, and by model.
pub(crate) async fn usage(
    database: &impl Database,
    account: &AccountId,
    since_ms: i64,
) -> Result<Usage, LedgerError> {
    let named = Value::Text(account.as_str());
    let newest = "SELECT coalesce(max(seq), 0) AS seq FROM {s}.entries WHERE account = $1";
    let beyond =
        first_row(database, newest, &[named]).await?.int("seq")?.saturating_sub(USAGE_LINES);
    let sql = "SELECT created_at / 86400000 AS day, route, count(*) AS calls, \
        CAST(-sum(amount) AS BIGINT) AS credits FROM {s}.entries \
        WHERE account = $1 AND seq > $2 AND created_at >= $3 AND kind = 'capture' \
        GROUP BY 1, 2 ORDER BY 1 DESC, 4 DESC, 2";
    let rows = database.rows(sql, &[named, Value::Int(beyond), Value::Int(since_ms)]).await?;
    let days = rows.iter().map(|row| {
        Ok(DayUsage {
            day: row.int("day")?,
            route: row.optional_text("route")?.unwrap_or_default().into(),
            calls: row.count("calls")?,
            credits: row.spent("credits")?,
        })
    });
    let days = days.collect::<Result<_, sqlx::Error>>()?;
    let models = models::of_account(database, account, beyond, since_ms).await?;
    let unseen = "SELECT count(*) AS lines FROM {s}.entries \
        WHERE account = $1 AND seq = $2 AND created_at >= $3";
    let is_whole = beyond <= 0
        || first_row(database, unseen, &[named, Value::Int(beyond), Value::Int(since_ms)])
            .await?
            .int("lines")?
            == 0;
    Ok(Usage { days, models, is_whole })
}

/// The newest entries of all accounts, newest first. They are usually only minutes old, so the last
/// hour is searched first, and longer periods only if needed.
pub(crate) async fn newest(
    database: &impl Database,
    limit: u32,
    now_ms: i64,
) -> Result<Vec<Entry>, LedgerError> {
    const DAY_MS: i64 = 24 * HOUR_MS;
    let sql = format!(
        "SELECT {ENTRY} FROM {{s}}.entries WHERE created_at >= $1 \
         ORDER BY created_at DESC, account DESC, seq DESC LIMIT $2"
    );
    let mut rows = Vec::new();
    for since_ms in [now_ms - HOUR_MS, now_ms - DAY_MS, now_ms - 31 * DAY_MS, i64::MIN] {
        rows = database.rows(&sql, &[Value::Int(since_ms), Value::Int(limit.into())]).await?;
        if rows.len() >= limit as usize {
            break;
        }
    }
    Ok(rows.iter().map(entry_with_usage_from).collect::<Result<_, _>>()?)
}

/// Live holds. First come the holds of calls that were made before `before_ms`, oldest first. Then come the holds of
/// the API, whose age is unknown, in the order in which they expire.
pub(crate) async fn live_holds<D: Database>(
    database: &D,
    before_ms: i64,
    limit: u32,
) -> Result<Vec<HoldView>, LedgerError> {
    let select = |rest: &str| {
        let live = D::LIVE_HOLDS;
        format!("SELECT id, account, amount, route, origin, expires_at FROM {live} h {rest}")
    };
    let calls = select("WHERE origin = 'call' AND id < $1 ORDER BY id LIMIT $2");
    let before = first_id_of(before_ms);
    let mut rows = database.rows(&calls, &[Value::Text(&before), Value::Int(limit.into())]).await?;
    let room = i64::from(limit).saturating_sub(rows.len() as i64);
    let api = select("WHERE origin = 'api' ORDER BY expires_at, id LIMIT $1");
    rows.extend(database.rows(&api, &[Value::Int(room)]).await?);
    Ok(rows.iter().map(hold_from).collect::<Result<_, _>>()?)
}

/// Reads a row of live holds.
fn hold_from(row: &impl Column) -> Result<HoldView, sqlx::Error> {
    let id = row.hold("id")?;
    let origin = row.parsed("origin", Origin::parse)?;
    Ok(HoldView {
        created_at_ms: (origin == Origin::Call).then(|| made_at_ms(&id)).flatten(),
        id,
        account: row.account("account")?,
        amount: row.credits("amount")?,
        route: row.text("route")?.into(),
        origin,
        expires_at_ms: row.int("expires_at")?,
    })
}

/// Entries and payments since the beginning of an hour (`since_hour`, in hours since 1970), and the
/// numbers of accounts, of live holds, and of calls' live holds that were made before `before_ms`.
pub(crate) async fn activity<D: Database>(
    database: &D,
    since_hour: i64,
    before_ms: i64,
) -> Result<Activity, LedgerError> {
    let since = [Value::Int(since_hour.saturating_mul(HOUR_MS))];
    // `;` follows `:` in ASCII, so this range has every id that begins with "stripe:".
    let movements = "SELECT created_at / 3600000 AS hour, kind, route, \
        CAST(CASE WHEN operation >= 'stripe:' AND operation < 'stripe;' THEN 1 ELSE 0 END AS BIGINT) AS paid, \
        count(*) AS entries, CAST(sum(amount) AS BIGINT) AS amount FROM {s}.entries \
        WHERE created_at >= $1 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";
    let movements = database.rows(movements, &since).await?;
    let movements = movements.iter().map(|row| {
        Ok(Movement {
            hour: row.int("hour")?,
            kind: row.parsed("kind", EntryKind::parse)?,
            route: row.optional_text("route")?.map(Into::into),
            is_payment: row.integer("paid", |paid| Some(paid == 1))?,
            entries: row.count("entries")?,
            amount: row.sum("amount")?,
        })
    });
    let paid = "SELECT p.document FROM {s}.entries e \
        JOIN {s}.payment_names n ON n.name = substr(e.operation, 8) \
        JOIN {s}.payments p ON p.id = n.payment \
        WHERE e.created_at >= $1 AND e.kind = 'grant' \
        AND e.operation >= 'stripe:' AND e.operation < 'stripe;' ORDER BY e.created_at";
    let paid = database.rows(paid, &since).await?;
    let live = D::LIVE_HOLDS;
    let totals = format!(
        "SELECT (SELECT count(*) FROM {{s}}.accounts) AS accounts, \
         (SELECT count(*) FROM {live} h) AS holds, \
         (SELECT count(*) FROM {live} h WHERE origin = 'call' AND id < $1) AS old"
    );
    let totals = first_row(database, &totals, &[Value::Text(&first_id_of(before_ms))]).await?;
    Ok(Activity {
        movements: movements.collect::<Result<_, sqlx::Error>>()?,
        paid: paid.iter().map(payment_from).collect::<Result<_, _>>()?,
        accounts: totals.count("accounts")?,
        live_holds: totals.count("holds")?,
        old_holds: totals.count("old")?,
    })
}

/// The smallest id that a call made at this moment can have: the first 48 bits of an id count
/// milliseconds (a UUID of version 7, RFC 9562, section 5.7).
fn first_id_of(at_ms: i64) -> String {
    let hex = format!("{:012x}", at_ms.max(0));
    format!("{}-{}", &hex[..8], &hex[8..])
}

/// The time at which the call of a hold was made, in milliseconds since 1970; `None` if the id is not a call's.
fn made_at_ms(id: &HoldId) -> Option<i64> {
    let uuid = uuid::Uuid::try_parse(id.as_str()).ok()?;
    let (secs, nanos) = uuid.get_timestamp()?.to_unix();
    i64::try_from(secs).ok()?.checked_mul(1000)?.checked_add(i64::from(nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_id_has_the_time_at_which_it_was_made() {
        for at_ms in [0, 1, 0x0123_4567_89ab, 1_800_000_000_123] {
            let (secs, nanos) = (at_ms / 1000, at_ms % 1000 * 1_000_000);
            let at = uuid::Timestamp::from_unix(uuid::NoContext, secs as u64, nanos as u32);
            let id: HoldId = uuid::Uuid::new_v7(at).to_string().parse().unwrap();
            assert_eq!(made_at_ms(&id), Some(at_ms));
            assert!(*id.as_str() >= *first_id_of(at_ms) && *id.as_str() < *first_id_of(at_ms + 1));
        }
        assert_eq!(made_at_ms(&"job-1".parse().unwrap()), None);
        assert!(*HoldId::for_call().as_str() < *first_id_of(i64::MAX / 1_000_000));
    }
}
