//! The gateways that serve this ledger, and their leases.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::shard::{Checkpoint, read_checkpoint};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// How long a lease lasts, by Postgres's clock.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// A Redis counts as reached for this long after a gateway with a lease has reached it.
pub(crate) const REDIS_IS_REACHED_FOR: Duration = Duration::from_secs(3);

/// Counts the gateways other than `$1` that serve the epoch from the epoch's own Redis, or did a
/// moment ago.
pub(super) const REACHING: &str = "(SELECT count(*) FROM {s}.gateways g WHERE g.incarnation <> $1 \
     AND g.lease_until > clock_timestamp() AND g.redis = s.redis \
     AND g.redis_at > clock_timestamp() - {reached})";

/// The condition for a gateway that counts as lost, so that the holds of its calls expire.
pub(crate) const GONE: &str = "lease_until < clock_timestamp() - interval '10 seconds'";

/// Shortens leases that were given before Postgres's clock was set back. Otherwise a gateway that
/// has died would keep its lease for too long. The new lease has the full length from now, so it
/// never ends before its gateway expects.
const SHORTEN: &str = "UPDATE {s}.gateways SET lease_until = clock_timestamp() + {lease} WHERE incarnation IN \
     (SELECT incarnation FROM {s}.gateways \
     WHERE lease_until > clock_timestamp() + {lease} + interval '1 second' FOR UPDATE SKIP LOCKED)";

/// Deletes a gateway's row, if no hold of its calls is live.
const LEAVE: &str = "DELETE FROM {s}.gateways WHERE incarnation = $1 AND NOT EXISTS \
     (SELECT 1 FROM {s}.holds WHERE owner = $1 AND state = 'live' AND origin = 'call')";

/// The result of [`join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The number of this start of the gateway.
    pub incarnation: i64,
    /// The incarnation of the gateway's previous start, whose row this one replaces.
    pub replaced: Option<i64>,
    /// True if the previous start still has a lease.
    pub still_serves: bool,
}

/// Whether gateways use a layout of the data in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayoutUsers {
    /// No gateway has this layout.
    None,
    /// Gateways have this layout, but all of them have been without a lease for long.
    Gone,
    /// A gateway with this layout has a lease, or had one a moment ago. It may have calls to
    /// capture or release.
    Serving,
}

/// Adds this gateway, with its first lease. The row of an earlier start under the same name is
/// deleted if its lease has ended. Otherwise that row gets another name, because a recovery must
/// wait for its lease.
pub(crate) async fn join(store: &Store, name: &str, layout: i32) -> Result<Joined, LedgerError> {
    store
        .transact(async |on| {
            store.lock("gateways", on).await?;
            let shard = read_checkpoint(store, "FOR SHARE", on).await?;
            let renamed = store
                .query(
                    "UPDATE {s}.gateways SET id = id || '-' || incarnation \
                 WHERE id = $1 AND (lease_until > now() OR layout <> $2) \
                 RETURNING incarnation, lease_until > now() AS serves",
                )
                .bind(name)
                .bind(layout)
                .fetch_optional(&mut *on)
                .await?;
            let ended = store
                .query(
                    "DELETE FROM {s}.gateways WHERE id = $1 RETURNING incarnation, false AS serves",
                )
                .bind(name)
                .fetch_optional(&mut *on)
                .await?;
            let earlier = renamed.or(ended);
            // This start has no batches to hand over. So it counts as checked in for every epoch,
            // except for an open one.
            let checked_in = shard.epoch - i64::from(!shard.recovering);
            let row = store
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

/// The result of [`renew`].
#[derive(Debug)]
pub(crate) struct Renewed {
    pub checkpoint: Checkpoint,
    /// How often this gateway's lease has been renewed, as Postgres counts.
    pub renewals: i64,
}

/// Renews the lease, stores the identity of the Redis that the gateway has just reached, and reads
/// the checkpoint. If Postgres's clock was set back, `redis_at` may lie in the future; it then counts as now. `None` if the gateway's row is gone, because another start has replaced it.
pub(crate) async fn renew(
    store: &Store,
    incarnation: i64,
    redis: Option<&str>,
) -> Result<Option<Renewed>, LedgerError> {
    store
        .transact(async |on| {
            let renewed = store
                .query(&lease(
                    "UPDATE {s}.gateways SET lease_until = now() + {lease}, \
                     renewals = renewals + 1, redis = coalesce($2, redis), \
                     redis_at = CASE WHEN $2::text IS NULL THEN least(redis_at, now()) \
                     ELSE now() END \
                     WHERE incarnation = $1 RETURNING renewals",
                ))
                .bind(incarnation)
                .bind(redis)
                .fetch_optional(&mut *on)
                .await?;
            let Some(renewed) = renewed else { return Ok(None) };
            // This statement comes after the update of the gateway's own row, and skips locked rows, so that no gateway
            // waits for another.
            store.query(&lease(SHORTEN)).execute(&mut *on).await?;
            let checkpoint = read_checkpoint(store, "", on).await?;
            Ok(Some(Renewed { checkpoint, renewals: renewed.int("renewals")? }))
        })
        .await
}

/// Adds this gateway again after its row was deleted. Returns the checkpoint and the name of the new row, which is the
/// gateway's own name unless another start now uses that name. The gateway does not count as checked in, because it may
/// still have batches of the present epoch.
pub(crate) async fn rejoin(
    store: &Store,
    name: &str,
    incarnation: i64,
    layout: i32,
) -> Result<(Checkpoint, String), LedgerError> {
    store
        .transact(async |on| {
            store.lock("gateways", on).await?;
            let shard = read_checkpoint(store, "FOR SHARE", on).await?;
            let row = store
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

/// Ends the lease. The gateway's row is deleted too, unless its calls have live holds. These holds
/// are ended by the gateway's next start, or later by the other gateways.
pub(crate) async fn leave(store: &Store, incarnation: i64) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            store
                .query("UPDATE {s}.gateways SET lease_until = now() WHERE incarnation = $1")
                .bind(incarnation)
                .execute(&mut *on)
                .await?;
            store.query(LEAVE).bind(incarnation).execute(on).await?;
            Ok(())
        })
        .await
}

/// Deletes the row of a gateway that is lost, if no hold of its calls is live.
pub(crate) async fn remove_gone(store: &Store, incarnation: i64) -> Result<(), LedgerError> {
    store
        .transact(async |on| {
            let sql = format!("{LEAVE} AND {GONE}");
            store.query(&sql).bind(incarnation).execute(on).await?;
            Ok(())
        })
        .await
}

/// Whether gateways use this layout.
pub(crate) async fn layout_users(store: &Store, layout: i32) -> Result<LayoutUsers, LedgerError> {
    store.transact(async |on| count_layout_users(store, layout, on).await).await
}

/// Counts the gateways of a layout, as [`layout_users`] does, in the caller's transaction `on`.
pub(crate) async fn count_layout_users(
    store: &Store,
    layout: i32,
    on: &mut PgConnection,
) -> Result<LayoutUsers, LedgerError> {
    let sql = format!(
        "SELECT count(*) AS places, count(*) FILTER (WHERE NOT ({GONE})) AS serving \
         FROM {{s}}.gateways WHERE layout = $1"
    );
    let row = store.query(&sql).bind(layout).fetch_one(on).await?;
    Ok(match (row.count("places")?, row.count("serving")?) {
        (0, _) => LayoutUsers::None,
        (_, 0) => LayoutUsers::Gone,
        _ => LayoutUsers::Serving,
    })
}

/// The incarnations of gateways that have no lease, and of those that have no row although holds of
/// their calls are live.
pub(crate) async fn lost_gateways(store: &Store) -> Result<Vec<i64>, LedgerError> {
    // The owners are found in their index one after the other, however many holds each has.
    let sql = "WITH RECURSIVE owners AS ( \
         SELECT min(owner) AS owner FROM {s}.holds WHERE state = 'live' AND origin = 'call' \
         UNION ALL SELECT (SELECT min(owner) FROM {s}.holds WHERE state = 'live' \
         AND origin = 'call' AND owner > o.owner) FROM owners o WHERE o.owner IS NOT NULL) \
         SELECT incarnation FROM {s}.gateways WHERE lease_until < clock_timestamp() \
         UNION ALL SELECT owner FROM owners WHERE owner IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM {s}.gateways WHERE incarnation = owner)";
    store
        .transact(async |on| {
            let rows = store.query(sql).fetch_all(on).await?;
            rows.iter().map(|row| Ok(row.int("incarnation")?)).collect()
        })
        .await
}

/// A number that no start of a gateway has had. It is random, because a sequence would repeat
/// numbers after Postgres was restored to an earlier point.
fn new_incarnation() -> i64 {
    let bits = uuid::Uuid::new_v4().as_u128() >> 75;
    // The number has 53 bits, so it always fits.
    i64::try_from(bits).unwrap_or(i64::MAX)
}

/// Fills two times into a statement: the length of a lease, and how long a Redis counts as reached.
pub(super) fn lease(sql: &str) -> String {
    let interval = |time: Duration| format!("interval '{} milliseconds'", time.as_millis());
    sql.replace("{lease}", &interval(LEASE)).replace("{reached}", &interval(REDIS_IS_REACHED_FOR))
}
