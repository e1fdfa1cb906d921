//! Charges of calls for which Redis could not be asked before their gateway stopped.

use sqlx::Executor as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::ledger::LedgerError;
use crate::ledger::operation::{Operation, OperationId, Origin};
use crate::store::cluster::batch_log::{Decided, storable};
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::Store;
use crate::store::cluster::postgres::settle::{SHARD, int};

impl Store {
    /// Puts these charges by for a recovery, which begins herewith.
    pub async fn owe(&self, charges: &[Operation]) -> Result<(), LedgerError> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for charge in charges {
            if let Operation::Capture { hold, account: Some(account), amount, route, .. } = charge {
                columns.0.push(OperationId::capture(hold).as_str().to_owned());
                columns.1.push(hold.as_str().to_owned());
                columns.2.push(account.as_str().to_owned());
                columns.3.push(int(amount.micros())?);
                columns.4.push(storable(route));
            }
        }
        self.transact(async |on| {
            self.query("UPDATE {s}.shards SET recovering = true WHERE id = $1")
                .bind(SHARD)
                .execute(&mut *on)
                .await?;
            self.query(
                "INSERT INTO {s}.owed (shard, operation, hold, account, amount, route) \
                 SELECT $1, * FROM UNNEST($2::text[], $3::text[], $4::text[], $5::int8[], $6::text[]) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(SHARD)
            .bind(columns.0)
            .bind(columns.1)
            .bind(columns.2)
            .bind(columns.3)
            .bind(columns.4)
            .execute(on)
            .await?;
            Ok(())
        })
        .await
    }

    /// Those that have not been written yet: what they come to.
    pub(crate) async fn owed(&self, on: &mut PgConnection) -> Result<Vec<Decided>, LedgerError> {
        let rows = self
            .query(
                "SELECT hold, account, amount, route, NOT EXISTS \
                 (SELECT 1 FROM {s}.holds h WHERE h.id = o.hold AND h.state = 'live') AS late \
                 FROM {s}.owed o WHERE shard = $1 AND NOT set_aside AND NOT EXISTS \
                 (SELECT 1 FROM {s}.operations p WHERE p.id = o.operation) ORDER BY operation",
            )
            .bind(SHARD)
            .fetch_all(on)
            .await?;
        let charge = |row: &PgRow| {
            Ok(Decided::Captured {
                id: row.hold("hold")?,
                account: row.account("account")?,
                amount: row.credits("amount")?,
                origin: Origin::Call,
                late: row.flag("late")?,
                route: row.text("route")?.into(),
            })
        };
        rows.iter().map(charge).collect()
    }

    /// Has a recovery begin where the last one left some: it was an earlier version's, which does not know them.
    pub async fn recover_for_owed(&self) -> Result<(), LedgerError> {
        self.transact(async |on| {
            self.query(
                "UPDATE {s}.shards SET recovering = true WHERE id = $1 AND NOT recovering \
                 AND EXISTS (SELECT 1 FROM {s}.owed WHERE shard = $1 AND NOT set_aside)",
            )
            .bind(SHARD)
            .execute(on)
            .await?;
            Ok(())
        })
        .await
    }

    /// Writes them, and keeps none; how many that were. What cannot be written is set aside, and stops nothing.
    pub(crate) async fn charge_owed(
        &self,
        at_ms: i64,
        on: &mut PgConnection,
    ) -> Result<usize, LedgerError> {
        on.execute("SAVEPOINT owed").await?;
        match self.try_to_charge_owed(at_ms, on).await {
            Ok(charged) => Ok(charged),
            Err(error) => {
                on.execute("ROLLBACK TO SAVEPOINT owed").await?;
                let aside = "UPDATE {s}.owed SET set_aside = true WHERE shard = $1";
                self.query(aside).bind(SHARD).execute(on).await?;
                tracing::error!(%error, "what calls owe cannot be charged; it is in the table `owed`, set aside");
                Ok(0)
            }
        }
    }

    async fn try_to_charge_owed(
        &self,
        at_ms: i64,
        on: &mut PgConnection,
    ) -> Result<usize, LedgerError> {
        let decided = self.owed(on).await?;
        let all = "DELETE FROM {s}.owed WHERE shard = $1 AND NOT set_aside";
        self.query(all).bind(SHARD).execute(&mut *on).await?;
        let charged = decided.len();
        self.write_decided(decided, at_ms, on).await?;
        Ok(charged)
    }
}
