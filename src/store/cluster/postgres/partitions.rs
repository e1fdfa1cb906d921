//! The partitions of the entries, one for each month. Gateways make them ahead of time; `months.rs`
//! folds old ones.

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::ledger::{LedgerError, wall_ms};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// Limits how long a transaction waits for an exclusive lock. Other queries queue behind it for
/// that time.
pub(crate) const LOCK_LIMIT: &str = "SET LOCAL lock_timeout = '250ms'";

/// Postgres's code for a lock that was not granted in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The number of months that have a partition: the current one and those after it.
pub(crate) const MONTHS_AHEAD: i64 = 3;

/// A month of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month {
    year: i64,
    /// The month of the year, from 1 to 12.
    month: i64,
}

impl Month {
    /// The month of a moment in milliseconds since 1970.
    pub fn of(at_ms: i64) -> Self {
        let at = time::OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000));
        let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        Self { year: i64::from(at.year()), month: i64::from(u8::from(at.month())) }
    }

    /// The month that comes `months` after this one.
    pub fn later(self, months: i64) -> Self {
        let months = self.month - 1 + months;
        Self { year: self.year + months.div_euclid(12), month: months.rem_euclid(12) + 1 }
    }

    /// The beginning of the month, in milliseconds since 1970.
    pub fn start_ms(self) -> i64 {
        // Counts the days from 1970 to the first of the month. The year begins in March here, so
        // that the leap day is its last day.
        let Self { year, month } = self;
        let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let leaps = years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
        let days = years * 365 + leaps + (153 * months + 2) / 5 - 719_468;
        days * 86_400_000
    }

    /// The month as the names of tables contain it: `2026_01`.
    pub fn name(self) -> String {
        format!("{:04}_{:02}", self.year, self.month)
    }

    /// Reads the form of [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        let (year, month) = name.split_once('_')?;
        let month = Self { year: year.parse().ok()?, month: month.parse().ok()? };
        ((1..=12).contains(&month.month) && month.name() == name).then_some(month)
    }
}

/// Makes the partitions of the entries of this month and of the months after it.
pub(crate) async fn make_partitions(store: &Store) -> Result<(), LedgerError> {
    for month in months_ahead() {
        let made = store.transact(async |on| {
            begin_partition(store, on).await?;
            make_partition(store, month, on).await
        });
        made_or_locked("entries", month, made.await)?;
    }
    Ok(())
}

/// The months that have partitions: this one and those after it.
pub(crate) fn months_ahead() -> impl Iterator<Item = Month> {
    let now = Month::of(wall_ms());
    (0..MONTHS_AHEAD).map(move |ahead| now.later(ahead))
}

/// Begins a transaction that makes a partition: no other gateway makes one meanwhile, and other queries do not queue
/// behind it for long.
pub(crate) async fn begin_partition(
    store: &Store,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    store.lock("partitions", on).await?;
    on.execute(LOCK_LIMIT).await?;
    Ok(())
}

/// Reads the outcome of making a month's partition of `table`. If the lock was not granted, this is logged, and the
/// partition is made later.
///
/// # Errors
/// The partition could not be made for another reason.
pub(crate) fn made_or_locked(
    table: &str,
    month: Month,
    made: Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    match made {
        Err(error) if is_locked(&error) => tracing::warn!(
            table,
            month = month.name(),
            "a long transaction reads this table, so its partition of a month is made later; until then the month's \
             rows go into the default partition"
        ),
        made => made?,
    }
    Ok(())
}

/// Makes the partition of a month, if it does not exist.
pub(crate) async fn make_partition(
    store: &Store,
    month: Month,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let name = format!("entries_{}", month.name());
    if has_table(store, &name, on).await? {
        return Ok(());
    }
    let (from, upto) = (month.start_ms(), month.later(1).start_ms());
    let sql = format!(
        "CREATE TABLE {{s}}.{name} PARTITION OF {{s}}.entries FOR VALUES FROM ({from}) TO ({upto})"
    );
    on.execute(store.sql(&sql)).await?;
    Ok(())
}

/// The names of a table's partitions, in order.
pub(crate) async fn partitions_of(
    store: &Store,
    table: &str,
    on: &mut PgConnection,
) -> Result<Vec<String>, LedgerError> {
    let rows = store
        .query(
            "SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = to_regclass($1) ORDER BY c.relname",
        )
        .bind(format!("{}.{table}", store.schema()))
        .fetch_all(on)
        .await?;
    rows.iter().map(|row| Ok(row.text("name")?.to_owned())).collect()
}

/// Whether the schema has a table of this name. The query reads the catalogue as its own statement sees it.
/// `to_regclass` might give an outdated answer, if this transaction called it before it waited for a lock.
pub(crate) async fn has_table(
    store: &Store,
    name: &str,
    on: &mut PgConnection,
) -> Result<bool, LedgerError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
         ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2) AS found";
    let found = store.query(sql).bind(store.schema()).bind(name);
    Ok(found.fetch_one(on).await?.try_get("found")?)
}

/// Whether the error is about a lock that was not granted in time.
pub(crate) fn is_locked(error: &LedgerError) -> bool {
    match error {
        LedgerError::RowLocked => true,
        LedgerError::Database(failure) => failure.code() == Some(LOCK_NOT_AVAILABLE),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_without_a_gap() {
        let first = Month::of(0);
        assert_eq!(first.start_ms(), 0);
        for n in 0..2400 {
            let month = first.later(n);
            assert_eq!((month.year, month.month), (1970 + n / 12, 1 + n % 12));
            assert_eq!(Month::of(month.start_ms()), month);
            assert_eq!(Month::of(month.start_ms() - 1), first.later(n - 1));
        }
    }

    #[test]
    fn a_month_is_read_from_its_own_name_alone() {
        let month = Month { year: 2026, month: 3 };
        assert_eq!((month.name().as_str(), Month::parse("2026_03")), ("2026_03", Some(month)));
        for other in ["2026_3", "2026_13", "2026", "default", "2026_03_detached", "before_2026_03"]
        {
            assert_eq!(Month::parse(other), None, "{other}");
        }
    }
}
