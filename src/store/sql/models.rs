//! Usage by model: the database adds up each kind of usage over metered calls.

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::history::ModelUsage;
use crate::store::sql::database::{Database, Value};
use crate::store::sql::rows::Column;
use crate::usage::{Kind, Totals};

/// The most models that an account's usage lists. With a `*` in a price, the caller chooses the
/// names, so there may be any number of them.
const MOST_OF_ACCOUNT: i64 = 100;

/// The most models that are listed for the operator.
const MOST_OF_ALL: i64 = 1000;

/// Usage by model of `account` since `since_ms` (milliseconds since 1970), from its entries above
/// the number `beyond`.
pub(crate) async fn of_account(
    database: &impl Database,
    account: &AccountId,
    beyond: i64,
    since_ms: i64,
) -> Result<Vec<ModelUsage>, LedgerError> {
    let account = Value::Text(account.as_str());
    let values = [account, Value::Int(beyond), Value::Int(since_ms)];
    let which = "account = $1 AND seq > $2 AND created_at >= $3";
    summed(database, which, &values, MOST_OF_ACCOUNT).await
}

/// Usage by model of all accounts since `since_ms` (milliseconds since 1970).
pub(crate) async fn of_all(
    database: &impl Database,
    since_ms: i64,
) -> Result<Vec<ModelUsage>, LedgerError> {
    summed(database, "created_at >= $1", &[Value::Int(since_ms)], MOST_OF_ALL).await
}

/// The sums over the metered captures that fulfil the condition `which`. The model with the most
/// credits comes first.
async fn summed<D: Database>(
    database: &D,
    which: &str,
    values: &[Value<'_>],
    limit: i64,
) -> Result<Vec<ModelUsage>, LedgerError> {
    let counts = Kind::ALL.map(|kind| {
        let kind = kind.as_str();
        format!("CAST(coalesce(sum(\"{kind}\"), 0) AS BIGINT) AS \"{kind}\"")
    });
    let sql = format!(
        "SELECT lower(model) AS name, count(*) AS calls, CAST(-sum(amount) AS BIGINT) AS credits, {} \
         FROM {} m WHERE {which} AND kind = 'capture' GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT {limit}",
        counts.join(", "),
        D::metered()
    );
    let rows = database.rows(&sql, values).await?;
    Ok(rows.iter().map(model_from).collect::<Result<_, _>>()?)
}

fn model_from(row: &impl Column) -> Result<ModelUsage, sqlx::Error> {
    let mut usage = Totals::default();
    for kind in Kind::ALL {
        usage.add(kind, row.count(kind.as_str())?);
    }
    Ok(ModelUsage {
        model: row.optional_text("name")?.map(Into::into),
        calls: row.count("calls")?,
        credits: row.spent("credits")?,
        usage,
    })
}
