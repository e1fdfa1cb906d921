//! A database that answers the queries of this folder: they read the same SQL, with `{s}` in place of the schema.

use crate::ledger::AccountView;
use crate::ledger::error::LedgerError;
use crate::store::sql::rows::Column;

/// A value in a query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Int(i64),
}

/// A database that answers queries: `{s}` is the schema, `$1` the first value.
pub(crate) trait Rows: Sync {
    type Row: Column + Send;

    /// The holds that live, as a table.
    const LIVE_HOLDS: &'static str;

    /// The checkouts of this ledger, as a table: who began one, when, whether it is paid, and what was
    /// paid or is asked for it.
    const SALES: &'static str;

    /// Selects accounts with what is read of them, up to `FROM`.
    const ACCOUNTS: &'static str;

    /// Reads a row of [`Rows::ACCOUNTS`].
    fn account_view(row: &Self::Row) -> Result<AccountView, sqlx::Error>;

    fn rows(
        &self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Self::Row>, LedgerError>> + Send;
}

/// The first row of an answer that has one.
pub(crate) async fn row<R: Rows>(
    from: &R,
    sql: &str,
    values: &[Value<'_>],
) -> Result<R::Row, LedgerError> {
    let row = from.rows(sql, values).await?.into_iter().next();
    row.ok_or(LedgerError::from(sqlx::Error::RowNotFound))
}
