//! The interface for the queries of this folder, which run on both databases.

use crate::ledger::AccountView;
use crate::ledger::error::LedgerError;
use crate::store::sql::rows::Column;

/// A parameter of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Int(i64),
}

/// A database that runs queries. In their SQL, `{s}` stands for the schema, and `$1` for the first
/// parameter.
pub(crate) trait Database: Sync {
    type Row: Column + Send;

    /// A table expression for live holds.
    const LIVE_HOLDS: &'static str;

    /// A table expression for the checkouts of this ledger, with `account`, `created_at`, `paid`, `currency` and
    /// `amount`. Currency and amount are of the money that was paid, or of the price if nothing was paid. Imported
    /// payments are left out.
    const SALES: &'static str;

    /// `SELECT … FROM` for accounts, without a condition.
    const ACCOUNTS: &'static str;

    /// A table expression for the entries of metered calls. It has the columns of `entries`, and
    /// for each kind of usage a column with its count, or NULL if the kind was not used.
    fn metered() -> String;

    /// Reads a row of [`Database::ACCOUNTS`].
    fn account_view(row: &Self::Row) -> Result<AccountView, sqlx::Error>;

    /// Runs a query, and returns all of its rows.
    fn rows(
        &self,
        sql: &str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Self::Row>, LedgerError>> + Send;
}

/// Runs a query that selects at least one row, and returns the first.
pub(crate) async fn first_row<D: Database>(
    database: &D,
    sql: &str,
    values: &[Value<'_>],
) -> Result<D::Row, LedgerError> {
    let row = database.rows(sql, values).await?.into_iter().next();
    row.ok_or(LedgerError::from(sqlx::Error::RowNotFound))
}
