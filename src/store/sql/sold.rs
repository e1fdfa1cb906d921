//! Sales figures, from payments and Stripe's events.

use crate::ledger::LedgerError;
use crate::ledger::history::{Sold, SoldIn};
use crate::store::sql::database::{Database, Value};
use crate::store::sql::rows::Column as _;

/// The sales figures since `since_ms` (milliseconds since 1970). Imported payments were sold
/// elsewhere, and do not count.
pub(crate) async fn since<D: Database>(database: &D, since_ms: i64) -> Result<Sold, LedgerError> {
    let sql = format!(
        "SELECT currency, count(*) AS checkouts, \
         CAST(sum(CASE WHEN paid THEN 1 ELSE 0 END) AS BIGINT) AS purchases, \
         CAST(sum(CASE WHEN paid THEN amount ELSE 0 END) AS BIGINT) AS amount, \
         count(DISTINCT CASE WHEN paid THEN account END) AS buyers \
         FROM {} s WHERE created_at >= $1 GROUP BY currency ORDER BY currency",
        D::SALES
    );
    let mut sold = Sold::default();
    for row in database.rows(&sql, &[Value::Int(since_ms)]).await? {
        sold.checkouts = sold.checkouts.saturating_add(row.count("checkouts")?);
        let purchases = row.count("purchases")?;
        sold.purchases = sold.purchases.saturating_add(purchases);
        if purchases > 0 {
            sold.currencies.push(SoldIn {
                currency: row.text("currency")?.into(),
                amount: row.count("amount")?,
                purchases,
                buyers: row.count("buyers")?,
            });
        }
    }
    let events = "SELECT count(*) AS events, \
        CAST(coalesce(sum(CASE WHEN state = 'failed' THEN 1 ELSE 0 END), 0) AS BIGINT) AS failed \
        FROM {s}.stripe_events WHERE received_at >= $1";
    if let Some(row) = database.rows(events, &[Value::Int(since_ms)]).await?.first() {
        sold.events = row.count("events")?;
        sold.failed_events = row.count("failed")?;
    }
    Ok(sold)
}
