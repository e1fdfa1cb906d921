//! Who serves this ledger, and the way from one epoch to the next.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, Row as _, Transaction};

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::operation::HoldId;
use crate::store::cluster::epoch::Epoch;
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::settle::{Checkpoint, NumberedBatch, SHARD};
use crate::store::cluster::postgres::{LIMIT, Store};

/// How long a lease lasts, by the clock of Postgres.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// For how long the transaction of a recovery may do nothing: it asks Redis in between.
const RECOVERY_IDLE_LIMIT: Duration = Duration::from_secs(5);

/// A gateway that has been without a lease for so long is taken for gone: its calls' holds expire.
const GONE: &str = "lease_until < clock_timestamp() - interval '10 seconds'";

/// Ends a lease in time that was given before Postgres's clock was set back: of a gateway that died meanwhile,
/// nobody else would. From here on it is as long as any, so never shorter than its gateway believes.
const SHORTEN: &str = "UPDATE {s}.gateways SET lease_until = clock_timestamp() + {lease} WHERE incarnation IN \
     (SELECT incarnation FROM {s}.gateways \
     WHERE lease_until > clock_timestamp() + {lease} + interval '10 seconds' FOR UPDATE SKIP LOCKED)";

/// The live holds of a gateway's calls.
const CALLS: &str = "SELECT id, account, route FROM {s}.holds \
     WHERE owner = $1 AND state = 'live' AND origin = 'call'";

/// Takes a gateway's place away, if no hold of its calls is left.
const LEAVE: &str = "DELETE FROM {s}.gateways WHERE incarnation = $1 AND NOT EXISTS \
     (SELECT 1 FROM {s}.holds WHERE owner = $1 AND state = 'live' AND origin = 'call')";

/// A gateway's place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// One for each start of a gateway.
    pub incarnation: i64,
    /// The start of the same gateway before, which has ended or is replaced herewith.
    pub replaced: Option<i64>,
    /// It has a lease all the same.
    pub still_serves: bool,
}

/// Gateways of another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// All have left.
    None,
    /// None has had a lease for long.
    Unheard,
    /// One has, or has had one until a moment ago: it may come back with calls to settle.
    Serve,
}

/// A live hold of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallHold {
    pub id: HoldId,
    pub account: AccountId,
    pub route: Arc<str>,
}

impl Store {
    /// Takes a place, with a first lease. A gateway of the same name loses its name; its place, only if it
    /// serves no more: a recovery has to wait for its lease.
    pub async fn join(&self, name: &str, layout: i32) -> Result<Joined, LedgerError> {
        self.transact(async |on| {
            self.lock("gateways", on).await?;
            let shard = self.read_checkpoint("FOR SHARE", on).await?;
            let renamed = self
                .query(
                    "UPDATE {s}.gateways SET id = id || '-' || incarnation \
                     WHERE id = $1 AND (lease_until > now() OR layout <> $2) \
                     RETURNING incarnation, lease_until > now() AS serves",
                )
                .bind(name)
                .bind(layout)
                .fetch_optional(&mut *on)
                .await?;
            let ended = self
                .query(
                    "DELETE FROM {s}.gateways WHERE id = $1 RETURNING incarnation, false AS serves",
                )
                .bind(name)
                .fetch_optional(&mut *on)
                .await?;
            let earlier = renamed.or(ended);
            // It has no memory of any epoch, so it has given up all but the one it is about to serve.
            let checked_in = shard.epoch - i64::from(!shard.recovering);
            let row = self
                .query(&lease(
                    "INSERT INTO {s}.gateways (id, incarnation, lease_until, checked_in, layout) \
                     VALUES ($1, $3, now() + {lease}, $2, $4) \
                     RETURNING incarnation",
                ))
                .bind(name)
                .bind(checked_in)
                .bind(new_incarnation())
                .bind(layout)
                .fetch_one(on)
                .await?;
            Ok(Joined {
                incarnation: row.int("incarnation")?,
                still_serves: match &earlier {
                    Some(earlier) => earlier.try_get("serves")?,
                    None => false,
                },
                replaced: earlier.map(|row| row.int("incarnation")).transpose()?,
            })
        })
        .await
    }

    /// Renews the lease, and reads where the ledger stands. `None` where another gateway has taken
    /// the place.
    pub async fn renew(&self, incarnation: i64) -> Result<Option<Checkpoint>, LedgerError> {
        self.transact(async |on| {
            let renewed = self
                .query(&lease(
                    "UPDATE {s}.gateways SET lease_until = now() + {lease} WHERE incarnation = $1",
                ))
                .bind(incarnation)
                .execute(&mut *on)
                .await?;
            if renewed.rows_affected() == 0 {
                return Ok(None);
            }
            // After its own, so that nobody waits for anybody.
            self.query(&lease(SHORTEN)).execute(&mut *on).await?;
            self.read_checkpoint("", on).await.map(Some)
        })
        .await
    }

    /// Takes a place again for a start of a gateway that had lost it; also what it is called there: by
    /// its name, unless another start has that by now. It may still have to hand over what it remembers
    /// of the present epoch.
    pub async fn rejoin(
        &self,
        name: &str,
        incarnation: i64,
        layout: i32,
    ) -> Result<(Checkpoint, String), LedgerError> {
        self.transact(async |on| {
            self.lock("gateways", on).await?;
            let shard = self.read_checkpoint("FOR SHARE", on).await?;
            let row = self
                .query(&lease(
                    "INSERT INTO {s}.gateways (id, incarnation, lease_until, checked_in, layout) \
                     SELECT CASE WHEN EXISTS (SELECT 1 FROM {s}.gateways WHERE id = $1) \
                     THEN $1 || '-' || $2 ELSE $1 END, $2, now() + {lease}, $3, $4 RETURNING id",
                ))
                .bind(name)
                .bind(incarnation)
                .bind(shard.epoch.saturating_sub(1))
                .bind(layout)
                .fetch_one(on)
                .await?;
            Ok((shard, row.text("id")?.to_owned()))
        })
        .await
    }

    /// Gives the place up. It stays empty while there are holds of its calls: who comes next, or the
    /// others after a while, ends them.
    pub async fn leave(&self, incarnation: i64) -> Result<(), LedgerError> {
        self.transact(async |on| {
            self.query("UPDATE {s}.gateways SET lease_until = now() WHERE incarnation = $1")
                .bind(incarnation)
                .execute(&mut *on)
                .await?;
            self.query(LEAVE).bind(incarnation).execute(on).await?;
            Ok(())
        })
        .await
    }

    /// Does the same for a gateway that is gone, unless it came back meanwhile.
    pub async fn forget_gone(&self, incarnation: i64) -> Result<(), LedgerError> {
        self.transact(async |on| {
            let sql = format!("{LEAVE} AND {GONE}");
            self.query(&sql).bind(incarnation).execute(on).await?;
            Ok(())
        })
        .await
    }

    /// Says that the data of an epoch is lost: nothing is decided until the next one opens.
    pub async fn give_up(&self, epoch: i64) -> Result<(), LedgerError> {
        self.transact(async |on| {
            self.query("UPDATE {s}.shards SET recovering = true WHERE id = $1 AND epoch = $2")
                .bind(SHARD)
                .bind(epoch)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
    }

    /// Gives up an epoch for this gateway, which acknowledges nothing of it any more: what Redis had
    /// acknowledged to it is handed over, some at a time; the gateway has checked in with the last. False
    /// where the next epoch has opened without it.
    pub async fn check_in(
        &self,
        incarnation: i64,
        epoch: i64,
        ring: &[NumberedBatch],
        is_last: bool,
    ) -> Result<bool, LedgerError> {
        self.transact(async |on| {
            let shard = self.read_checkpoint("FOR SHARE", on).await?;
            if shard.epoch != epoch || !shard.recovering {
                return Ok(false);
            }
            let (seqs, texts): (Vec<_>, Vec<_>) =
                ring.iter().map(|batch| (batch.seq, batch.text.clone())).unzip();
            self.query(
                "INSERT INTO {s}.redo (shard, epoch, seq, batch) SELECT $1, $2, seq, batch \
                 FROM UNNEST($3::int8[], $4::text[]) AS n (seq, batch) ON CONFLICT DO NOTHING",
            )
            .bind(SHARD)
            .bind(epoch)
            .bind(seqs)
            .bind(texts)
            .execute(&mut *on)
            .await?;
            if is_last {
                self.query("UPDATE {s}.gateways SET checked_in = $2 WHERE incarnation = $1")
                    .bind(incarnation)
                    .bind(epoch)
                    .execute(on)
                    .await?;
            }
            Ok(true)
        })
        .await
    }

    /// The gateways of this layout.
    pub async fn gateways_of(&self, layout: i32) -> Result<Others, LedgerError> {
        self.transact(async |on| self.others(layout, on).await).await
    }

    async fn others(&self, layout: i32, on: &mut PgConnection) -> Result<Others, LedgerError> {
        let sql = format!(
            "SELECT count(*) AS places, count(*) FILTER (WHERE NOT ({GONE})) AS heard_of \
             FROM {{s}}.gateways WHERE layout = $1"
        );
        let row = self.query(&sql).bind(layout).fetch_one(on).await?;
        Ok(match (row.count("places")?, row.count("heard_of")?) {
            (0, _) => Others::None,
            (_, 0) => Others::Unheard,
            _ => Others::Serve,
        })
    }

    /// Begins to open the next epoch, where the ledger waits for it: `None` where it does not, or
    /// another gateway is at it, or a gateway that may still serve has not checked in, or gateways of the
    /// layout that it had are there, and this is another one.
    pub async fn begin_recovery(&self, layout: i32) -> Result<Option<Recovery>, LedgerError> {
        let begin = async {
            let mut transaction = self.begin(RECOVERY_IDLE_LIMIT, Duration::ZERO).await?;
            let locked = self
                .query(
                    "SELECT 1 FROM {s}.shards WHERE id = $1 AND recovering FOR UPDATE SKIP LOCKED",
                )
                .bind(SHARD)
                .fetch_optional(&mut *transaction)
                .await?;
            if locked.is_none() {
                return Ok(None);
            }
            let checkpoint = self.read_checkpoint("", &mut transaction).await?;
            let serving = self
                .query(
                    "SELECT count(*) AS serving FROM {s}.gateways \
                     WHERE lease_until > clock_timestamp() AND checked_in < $1",
                )
                .bind(checkpoint.epoch)
                .fetch_one(&mut *transaction)
                .await?;
            if serving.count("serving")? > 0 {
                return Ok(None);
            }
            if checkpoint.layout != layout
                && self.others(checkpoint.layout, &mut transaction).await? == Others::Serve
            {
                return Ok(None);
            }
            Ok(Some(Recovery { store: self.clone(), transaction, checkpoint }))
        };
        let begun = tokio::time::timeout(LIMIT, begin).await;
        begun.unwrap_or(Err(LedgerError::Slow { what: "Postgres" }))
    }

    /// The gateways that have been without a lease for long.
    pub async fn gone(&self) -> Result<Vec<i64>, LedgerError> {
        self.transact(async |on| {
            let sql = format!("SELECT incarnation FROM {{s}}.gateways WHERE {GONE}");
            let rows = self.query(&sql).fetch_all(on).await?;
            rows.iter().map(|row| Ok(row.int("incarnation")?)).collect()
        })
        .await
    }

    /// The live holds of the calls of one gateway.
    pub async fn calls_of(&self, incarnation: i64) -> Result<Vec<CallHold>, LedgerError> {
        self.calls(CALLS, incarnation).await
    }

    /// The same; none where it is not gone, or has come back.
    pub async fn calls_of_gone(&self, incarnation: i64) -> Result<Vec<CallHold>, LedgerError> {
        let is_gone = format!("SELECT 1 FROM {{s}}.gateways WHERE incarnation = $1 AND {GONE}");
        self.calls(&format!("{CALLS} AND EXISTS ({is_gone})"), incarnation).await
    }

    async fn calls(&self, sql: &str, incarnation: i64) -> Result<Vec<CallHold>, LedgerError> {
        self.transact(async |on| {
            let rows = self.query(sql).bind(incarnation).fetch_all(on).await?;
            let hold = |row: &PgRow| {
                let (id, account) = (row.hold("id")?, row.account("account")?);
                Ok(CallHold { id, account, route: row.text("route")?.into() })
            };
            rows.iter().map(hold).collect()
        })
        .await
    }

    /// Forgets the endings of calls' holds that are long past; those that expired, which make the list of
    /// calls that were cut off, only if they are older still.
    pub async fn purge(&self, before_ms: i64, crashed_before_ms: i64) -> Result<(), LedgerError> {
        self.transact_within(Duration::from_secs(60), async |on| {
            self.query(
                "DELETE FROM {s}.holds WHERE state <> 'live' AND origin = 'call' AND ended_at < $1 \
                 AND (state <> 'expired' OR ended_at < $2)",
            )
            .bind(before_ms)
            .bind(crashed_before_ms)
            .execute(on)
            .await?;
            Ok(())
        })
        .await
    }
}

/// A number that no start of a gateway had before, also where Postgres was taken back to an earlier
/// point: a sequence would go back with it.
fn new_incarnation() -> i64 {
    let bits = uuid::Uuid::new_v4().as_u128() >> 75;
    // 53 bits are left.
    i64::try_from(bits).unwrap_or(i64::MAX)
}

fn lease(sql: &str) -> String {
    sql.replace("{lease}", &format!("interval '{} milliseconds'", LEASE.as_millis()))
}

/// The way to the next epoch, in one transaction that has the shard's row locked: all of it, or
/// nothing.
#[derive(Debug)]
pub(crate) struct Recovery {
    store: Store,
    transaction: Transaction<'static, Postgres>,
    /// Of the epoch that ends.
    pub checkpoint: Checkpoint,
}

impl Recovery {
    /// Has Postgres hear of it, which ends it otherwise.
    pub async fn stay(&mut self) -> Result<(), LedgerError> {
        self.store.query("SELECT 1").execute(&mut *self.transaction).await?;
        Ok(())
    }

    /// True where a gateway has not checked in: it may be gone, stopped, or cut off from here.
    pub async fn someone_is_silent(&mut self) -> Result<bool, LedgerError> {
        let row = self
            .store
            .query("SELECT count(*) AS silent FROM {s}.gateways WHERE checked_in < $1")
            .bind(self.checkpoint.epoch)
            .fetch_one(&mut *self.transaction)
            .await?;
        Ok(row.count("silent")? > 0)
    }

    /// Writes what survived in the stream and what the gateways remember, batch by batch in order.
    /// How many batches that were, and how many in between nobody has.
    pub async fn replay(
        &mut self,
        survived: Vec<NumberedBatch>,
    ) -> Result<(usize, i64), LedgerError> {
        let epoch = self.checkpoint.epoch;
        let rows = self
            .store
            .query("SELECT seq, batch FROM {s}.redo WHERE shard = $1 AND epoch = $2")
            .bind(SHARD)
            .bind(epoch)
            .fetch_all(&mut *self.transaction)
            .await?;
        let mut batches = survived;
        for row in &rows {
            let text: String = row.try_get("batch")?;
            batches.push(NumberedBatch { seq: row.int("seq")?, text });
        }
        // Sorting keeps the stream's own before a gateway's copy of the same number.
        batches.sort_by_key(|batch| batch.seq);
        batches.dedup_by_key(|batch| batch.seq);
        let lost: Vec<_> = batches.iter().filter(|b| b.seq > self.checkpoint.seq).collect();
        let newest = lost.last().map_or(self.checkpoint.seq, |batch| batch.seq);
        let replayed = lost.len();
        let on: &mut PgConnection = &mut self.transaction;
        self.store.write(&lost, true, on).await?;
        let missing = newest - self.checkpoint.seq - i64::try_from(replayed).unwrap_or(i64::MAX);
        Ok((replayed, missing))
    }

    /// Writes what calls owed when their gateways stopped, after all that was decided; how many charges.
    pub async fn charge_owed(&mut self, at_ms: i64) -> Result<usize, LedgerError> {
        self.store.charge_owed(at_ms, &mut self.transaction).await
    }

    /// Opens an epoch, the next one or a later one.
    pub async fn open(mut self, epoch: &Epoch, layout: i32) -> Result<(), LedgerError> {
        self.store
            .query(
                "UPDATE {s}.shards SET epoch = $3, nonce = $2, checkpoint = 0, digest = '', \
                 recovering = false, layout = $4 WHERE id = $1",
            )
            .bind(SHARD)
            .bind(&epoch.nonce)
            .bind(epoch.number)
            .bind(layout)
            .execute(&mut *self.transaction)
            .await?;
        self.store
            .query("DELETE FROM {s}.redo WHERE shard = $1")
            .bind(SHARD)
            .execute(&mut *self.transaction)
            .await?;
        Ok(self.transaction.commit().await?)
    }
}
