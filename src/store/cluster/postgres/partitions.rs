//! The months that the entries lie in, a partition each. The gateways make them ahead; `months.rs` takes
//! old ones out.

use sqlx::postgres::PgConnection;
use sqlx::{Executor as _, Row as _};

use crate::ledger::{LedgerError, wall_ms};

use crate::store::cluster::postgres::Store;

/// How long a lock that stops everybody is waited for, in one go: they wait behind it.
pub(crate) const LOCK_LIMIT: &str = "SET LOCAL lock_timeout = '250ms'";

/// Postgres's word for a lock that was not had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How many months of partitions stand ready, the current one included.
const MONTHS_AHEAD: i64 = 3;

/// A month of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month {
    year: i64,
    /// From 1.
    month: i64,
}

impl Month {
    /// That of a moment in milliseconds since 1970.
    pub fn of(at_ms: i64) -> Self {
        let at = time::OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000));
        let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        Self { year: i64::from(at.year()), month: i64::from(u8::from(at.month())) }
    }

    /// So many months later.
    fn later(self, months: i64) -> Self {
        let months = self.month - 1 + months;
        Self { year: self.year + months.div_euclid(12), month: months.rem_euclid(12) + 1 }
    }

    /// When it begins, in milliseconds since 1970.
    pub fn start_ms(self) -> i64 {
        // Days from 1970 to the first of a month, by the calendar's own rule: years begin in March, so
        // that the leap day comes last.
        let Self { year, month } = self;
        let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let leaps = years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
        let days = years * 365 + leaps + (153 * months + 2) / 5 - 719_468;
        days * 86_400_000
    }

    /// As it stands in the name of a table: `2026_01`.
    pub fn name(self) -> String {
        format!("{:04}_{:02}", self.year, self.month)
    }

    /// Out of a name.
    pub fn parse(name: &str) -> Option<Self> {
        let (year, month) = name.split_once('_')?;
        let month = Self { year: year.parse().ok()?, month: month.parse().ok()? };
        ((1..=12).contains(&month.month) && month.name() == name).then_some(month)
    }
}

impl Store {
    /// Makes the partitions of the months to come.
    pub async fn make_partitions(&self) -> Result<(), LedgerError> {
        let now = Month::of(wall_ms());
        for ahead in 0..MONTHS_AHEAD {
            let month = now.later(ahead);
            let made = self.transact(async |on| {
                self.lock("partitions", on).await?;
                on.execute(LOCK_LIMIT).await?;
                self.make_partition(month, on).await
            });
            match made.await {
                Err(error) if is_locked(&error) => {
                    let month = month.name();
                    tracing::warn!(month, "a partition is made later: somebody reads for long");
                }
                made => made?,
            }
        }
        Ok(())
    }

    /// Makes the partition of a month, if it is not there.
    pub(crate) async fn make_partition(
        &self,
        month: Month,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let name = format!("entries_{}", month.name());
        if self.has_table(&name, on).await? {
            return Ok(());
        }
        let (from, upto) = (month.start_ms(), month.later(1).start_ms());
        let sql = format!(
            "CREATE TABLE {{s}}.{name} PARTITION OF {{s}}.entries FOR VALUES FROM ({from}) TO ({upto})"
        );
        on.execute(self.sql(&sql)).await?;
        Ok(())
    }

    /// Whether there is such a table in the schema.
    pub(crate) async fn has_table(
        &self,
        name: &str,
        on: &mut PgConnection,
    ) -> Result<bool, LedgerError> {
        let found = self
            .query("SELECT to_regclass($1) IS NOT NULL AS found")
            .bind(format!("{}.{name}", self.schema));
        Ok(found.fetch_one(on).await?.try_get("found")?)
    }
}

/// True where somebody else has a lock that was not had in time.
pub(crate) fn is_locked(error: &LedgerError) -> bool {
    let LedgerError::Database(failure) = error else { return false };
    failure.code() == Some(LOCK_NOT_AVAILABLE)
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
