//! The tables `answers` and `answer_sizes`: the answers that are kept for retries, and their sizes in bytes.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::ledger::operation::HoldId;
use crate::ledger::{Kept, LedgerError, wall_ms};
use crate::store::cluster::postgres::claims;
use crate::store::cluster::postgres::partitions::{
    LOCK_LIMIT, has_table, is_locked, partitions_of,
};
use crate::store::cluster::postgres::replays;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// The bytes that an answer's row and indexes add to its size.
const ROW_BYTES: i64 = 192;

/// The number of days that have a partition: today and the days after it. An answer that is kept for longer is in the
/// default partition.
const DAYS_AHEAD: i64 = 8;

/// The most answers that one statement deletes.
const SLICE: i64 = 500;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// An answer to be kept.
#[derive(Clone, Debug)]
pub(crate) struct NewAnswer {
    /// The hold of its call.
    pub call: HoldId,
    pub sealed: Bytes,
    /// The time until which the answer is kept, in milliseconds since 1970.
    pub until_ms: i64,
}

impl NewAnswer {
    /// The bytes by which the answer counts towards `max_total`.
    fn size(&self) -> i64 {
        i64::try_from(self.sealed.len()).unwrap_or(i64::MAX).saturating_add(ROW_BYTES)
    }
}

/// Reads the ledger's own secret, and stores a new one if the ledger has none yet.
///
/// # Errors
/// Fails if Postgres cannot be reached, or the system has no random numbers.
pub(crate) async fn secret(store: &Store) -> Result<[u8; 32], LedgerError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| sqlx::Error::Io(std::io::Error::other(error.to_string())))?;
    store
        .transact(async |on| {
            let row = store
                .query("UPDATE {s}.ledger SET secret = coalesce(secret, $1) RETURNING secret")
                .bind(secret.to_vec())
                .fetch_one(on)
                .await?;
            Ok(claims::bytes(&row, "secret")?)
        })
        .await
}

/// Keeps answers, in their order, as long as the answers of all gateways together have at most `max_total` bytes.
/// Gateways that write at the same moment do not see each other's answers, so the sum may exceed the limit slightly. An
/// answer whose call already has one changes nothing. `gateway` is this gateway's number.
pub(crate) async fn keep_answers(
    store: &Store,
    answers: &[NewAnswer],
    gateway: i64,
    max_total: i64,
) -> Result<Vec<Kept>, LedgerError> {
    store.transact(async |on| keep_in(store, answers, gateway, max_total, on).await).await
}

async fn keep_in(
    store: &Store,
    answers: &[NewAnswer],
    gateway: i64,
    max_total: i64,
    on: &mut PgConnection,
) -> Result<Vec<Kept>, LedgerError> {
    let calls: Vec<_> = answers.iter().map(|answer| answer.call.as_str().to_owned()).collect();
    let found = store
        .query(
            "SELECT NULL AS call, coalesce(sum(bytes), 0)::int8 AS total FROM {s}.answer_sizes \
             UNION ALL SELECT call, 0 FROM {s}.answers WHERE call = ANY($1)",
        )
        .bind(calls)
        .fetch_all(&mut *on)
        .await?;
    let (mut seen, mut total) = (HashSet::new(), 0_i64);
    for row in &found {
        total = total.saturating_add(row.int("total")?);
        seen.extend(row.optional_text("call")?.map(str::to_owned));
    }
    let (mut kept, mut sizes) = (Vec::with_capacity(answers.len()), BTreeMap::new());
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for answer in answers {
        let with = total.saturating_add(answer.size());
        if seen.contains(answer.call.as_str()) {
            kept.push(Kept::Yes);
        } else if with > max_total {
            kept.push(Kept::NoRoom);
        } else {
            total = with;
            seen.insert(answer.call.as_str().to_owned());
            columns.0.push(answer.call.as_str().to_owned());
            columns.1.push(answer.sealed.to_vec());
            columns.2.push(answer.until_ms);
            let size: &mut i64 = sizes.entry(answer.until_ms.div_euclid(HOUR_MS)).or_default();
            *size = size.saturating_add(answer.size());
            kept.push(Kept::Yes);
        }
    }
    if sizes.is_empty() {
        return Ok(kept);
    }
    store
        .query(
            "INSERT INTO {s}.answers (call, sealed, until) SELECT * FROM \
             UNNEST($1::text[], $2::bytea[], $3::int8[])",
        )
        .bind(columns.0)
        .bind(columns.1)
        .bind(columns.2)
        .execute(&mut *on)
        .await?;
    add_sizes(store, sizes, gateway, on).await?;
    Ok(kept)
}

/// Adds bytes to the sum of the hour in which their time is up.
async fn add_sizes(
    store: &Store,
    sizes: BTreeMap<i64, i64>,
    gateway: i64,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let (hours, bytes): (Vec<_>, Vec<_>) = sizes.into_iter().unzip();
    store
        .query(
            "INSERT INTO {s}.answer_sizes AS s (hour, gateway, bytes) SELECT hour, $3, bytes FROM \
             UNNEST($1::int8[], $2::int8[]) AS n (hour, bytes) \
             ON CONFLICT (hour, gateway) DO UPDATE SET bytes = s.bytes + excluded.bytes",
        )
        .bind(hours)
        .bind(bytes)
        .bind(gateway)
        .execute(on)
        .await?;
    Ok(())
}

/// Reads the answer of a call; `None` if there is none, or its time is up.
pub(crate) async fn read_answer(
    store: &Store,
    call: &HoldId,
    now_ms: i64,
) -> Result<Option<Bytes>, LedgerError> {
    let row = store.transact(async |on| {
        let sql = "SELECT sealed FROM {s}.answers WHERE call = $1 AND until > $2";
        Ok(store.query(sql).bind(call.as_str()).bind(now_ms).fetch_optional(on).await?)
    });
    let sealed = row.await?.map(|row| row.try_get::<Vec<u8>, _>("sealed")).transpose()?;
    Ok(sealed.map(Bytes::from))
}

/// A day of the calendar, in UTC: the days since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Day(i64);

impl Day {
    fn of(at_ms: i64) -> Self {
        Self(at_ms.div_euclid(DAY_MS))
    }

    fn start_ms(self) -> i64 {
        self.0.saturating_mul(DAY_MS)
    }

    /// The name of the day's partition: `answers_2026_11_30`.
    fn partition(self) -> String {
        let at = time::OffsetDateTime::from_unix_timestamp(self.start_ms() / 1000);
        let date = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH).date();
        format!("answers_{:04}_{:02}_{:02}", date.year(), u8::from(date.month()), date.day())
    }

    /// Reads [`Self::partition`] back.
    fn parse(partition: &str) -> Option<Self> {
        let mut words = partition.strip_prefix("answers_")?.splitn(3, '_');
        let (year, month) = (words.next()?.parse().ok()?, words.next()?.parse::<u8>().ok()?);
        let day = words.next()?.parse().ok()?;
        let date = time::Date::from_calendar_date(year, month.try_into().ok()?, day).ok()?;
        let day = Self::of(date.midnight().assume_utc().unix_timestamp().saturating_mul(1000));
        (day.partition() == partition).then_some(day)
    }
}

/// Makes the partitions of today and of the next days.
pub(crate) async fn make_answer_partitions(store: &Store) -> Result<(), LedgerError> {
    let today = Day::of(wall_ms());
    for day in (0..DAYS_AHEAD).map(|ahead| Day(today.0.saturating_add(ahead))) {
        let (from, upto) = (day.start_ms(), Day(day.0.saturating_add(1)).start_ms());
        let made = store.transact(async |on| {
            let name = day.partition();
            if has_table(store, &name, &mut *on).await? {
                return Ok(());
            }
            store.lock("answers", &mut *on).await?;
            on.execute(LOCK_LIMIT).await?;
            if has_table(store, &name, &mut *on).await?
                || has_undated(store, from, upto, &mut *on).await?
            {
                return Ok(());
            }
            let sql = format!(
                "CREATE TABLE {{s}}.{name} PARTITION OF {{s}}.answers FOR VALUES FROM ({from}) TO ({upto})"
            );
            on.execute(store.sql(&sql)).await?;
            Ok(())
        });
        ignore_lock(made.await)?;
    }
    Ok(())
}

/// Whether the default partition has answers of a day. They stay there, and the day gets no partition.
async fn has_undated(
    store: &Store,
    from_ms: i64,
    upto_ms: i64,
    on: &mut PgConnection,
) -> Result<bool, LedgerError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM {s}.answers_default WHERE until >= $1 AND until < $2) AS found";
    Ok(store.query(sql).bind(from_ms).bind(upto_ms).fetch_one(on).await?.try_get("found")?)
}

/// Deletes the answers whose time was up before the present hour, drops the partitions of past days, and deletes
/// replays whose time is up.
pub(crate) async fn purge_answers(store: &Store) -> Result<(), LedgerError> {
    let now_ms = wall_ms();
    drop_past_days(store, Day::of(now_ms)).await?;
    let hour = now_ms.div_euclid(HOUR_MS);
    loop {
        let deleted = store.transact(async |on| {
            store.lock("answers", &mut *on).await?;
            let gone = store
                .query(
                    "DELETE FROM {s}.answers WHERE (call, until) IN \
                     (SELECT call, until FROM {s}.answers WHERE until < $1 ORDER BY until LIMIT $2)",
                )
                .bind(hour * HOUR_MS)
                .bind(SLICE)
                .execute(&mut *on)
                .await?
                .rows_affected();
            if gone < SLICE.unsigned_abs() {
                let counted = "DELETE FROM {s}.answer_sizes WHERE hour < $1";
                store.query(counted).bind(hour).execute(on).await?;
            }
            Ok(gone)
        });
        if deleted.await? < SLICE.unsigned_abs() {
            return replays::purge(store).await;
        }
    }
}

/// Drops the partitions of the days before `today`.
async fn drop_past_days(store: &Store, today: Day) -> Result<(), LedgerError> {
    let partitions = store.transact(async |on| partitions_of(store, "answers", on).await);
    for name in partitions.await? {
        if Day::parse(&name).is_none_or(|day| day >= today) {
            continue;
        }
        let dropped = store.transact(async |on| {
            on.execute(LOCK_LIMIT).await?;
            on.execute(store.sql(&format!("DROP TABLE IF EXISTS {{s}}.{name}"))).await?;
            Ok(())
        });
        ignore_lock(dropped.await)?;
    }
    Ok(())
}

/// Ignores a lock that was not granted in time: the next round tries again.
fn ignore_lock(result: Result<(), LedgerError>) -> Result<(), LedgerError> {
    match result {
        Err(error) if is_locked(&error) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_from_its_own_partition_alone() {
        for n in (0..40_000).step_by(7) {
            let day = Day(n);
            assert_eq!(Day::parse(&day.partition()), Some(day));
        }
        assert_eq!(Day(20_787).partition(), "answers_2026_11_30");
        for other in
            ["answers_default", "answers_2026_11_31", "answers_2026_1_1", "entries_2026_11_30"]
        {
            assert_eq!(Day::parse(other), None, "{other}");
        }
    }
}
