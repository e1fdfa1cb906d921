//! Gateways that are told to end while somebody keeps the row of one account locked in Postgres. No batch with a charge
//! of that account can be folded, nor any after it. That is no trouble of the other accounts.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use crate::cluster::{BACK_WITHIN, Cluster, Durability, in_both_modes};
use crate::load::{Call, End, Load, Shape};
use crate::support::eventually;

in_both_modes!(
    a_gateway_that_stops_under_a_locked_row_ends_no_epoch,
    a_gateway_that_stops_under_a_locked_row_loses_nothing_if_redis_is_lost_then,
    a_cluster_that_stops_under_a_locked_row_loses_nothing_if_redis_is_lost_then,
);

/// The longest time that a stop under a locked row may take: five seconds for the calls, and as long for the ledger.
const STOPS_WITHIN: Duration = Duration::from_secs(12);

/// Locks alice's row until the connection is dropped, and waits until batches wait for it.
async fn lock_alice(cluster: &Cluster) -> PgConnection {
    let url = cluster.postgres.url(&cluster.database);
    let mut locked = PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT 1 FROM farebox.accounts WHERE id = 'alice' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut locked).await.unwrap();
    // A write that is under way ends, and a halved one folds the batches in front of alice's first charge.
    let limit = Instant::now() + BACK_WITHIN;
    loop {
        let (before, began) = (checkpoint(cluster), Instant::now());
        let goes_on =
            async || newest(cluster) > before + 30 && began.elapsed() > Duration::from_millis(500);
        assert!(eventually(goes_on).await, "nothing is decided under the lock");
        if checkpoint(cluster) == before {
            break;
        }
        assert!(Instant::now() < limit, "batches are folded in spite of the lock");
    }
    locked
}

/// The newest batch that Redis decided.
fn newest(cluster: &Cluster) -> i64 {
    cluster.redis.ask(&["HGET", "{s00}:meta", "seq"]).parse().unwrap()
}

/// The newest batch that is folded.
fn checkpoint(cluster: &Cluster) -> i64 {
    cluster.sql("SELECT checkpoint FROM farebox.shards").parse().unwrap()
}

/// The epoch, and whether it is about to end.
fn epoch(cluster: &Cluster) -> String {
    cluster.sql("SELECT epoch, recovering FROM farebox.shards")
}

/// Stops a gateway, which must not take long.
fn stop_in_time(cluster: &mut Cluster, gateway: usize) {
    let told = Instant::now();
    cluster.stop_gateway(gateway);
    let took = told.elapsed();
    eprintln!("the stop took {took:?}");
    assert!(took < STOPS_WITHIN, "{took:?}\n{}", cluster.gateway(gateway).stderr());
}

/// The calls through a gateway that began after this moment and were refused.
fn refused(load: &Load, gateway: usize, from: Instant) -> Vec<Call> {
    let is_refused = |call: &Call| {
        call.gateway == gateway && call.began > from && matches!(call.end, End::Refused(..))
    };
    load.so_far().into_iter().filter(is_refused).collect()
}

async fn a_gateway_that_stops_under_a_locked_row_ends_no_epoch(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let (before, began) = (epoch(&cluster), Instant::now());
    let locked = lock_alice(&cluster).await;
    stop_in_time(&mut cluster, 1);
    load.gateway_serves_within(0, 2, Duration::from_secs(2)).await;
    // A recovery would wait for the row, and answer 503 meanwhile.
    cluster.some_time(1500, 2500).await;
    assert_eq!(epoch(&cluster), before, "{}", cluster.gateway(1).stderr());
    let refusals = refused(&load, 0, began);
    assert!(refusals.is_empty(), "{refusals:?}");
    let said = cluster.gateway(1).stderr();
    assert!(!said.contains("Redis is away"), "Redis is there all the time: {said}");
    drop(locked);
    cluster.restart_gateway(1);
    load.serves_within(BACK_WITHIN).await;
    assert_eq!(epoch(&cluster), before);
    let calls = load.stop().await;
    cluster.check(&calls).await;
    let is_empty = async || cluster.sql("SELECT count(*) FROM farebox.appends") == "0";
    assert!(eventually(is_empty).await, "batches that are folded are still among the appends");
    assert_eq!(cluster.recoveries().await, 0.0);
}

/// Redis loses everything after the stop, while the row is still locked.
async fn a_gateway_that_stops_under_a_locked_row_loses_nothing_if_redis_is_lost_then(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let locked = lock_alice(&cluster).await;
    stop_in_time(&mut cluster, 1);
    load.gateway_serves_within(0, 2, Duration::from_secs(2)).await;
    cluster.redis.flush_all();
    // In `relaxed` the other gateway hands its batches over, and those of the one that has stopped are between them.
    let mut said = String::new();
    let nothing_is_lost = async || {
        said = cluster.run(0, &["recover", "--dry-run"]).unwrap();
        let has_redo = !said.contains(" 0 that gateways handed over");
        let has_all = durability == Durability::Strict || has_redo;
        has_all && said.contains(" appended") && said.contains("no decided operation is lost")
    };
    assert!(eventually(nothing_is_lost).await, "{said}");
    drop(locked);
    cluster.restart_gateway(1);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
    let said = cluster.gateway(0).stderr() + &cluster.gateway(1).stderr();
    assert!(!said.contains("batches are lost"), "{said}");
}

/// No gateway runs any more, and then Redis loses everything: only Postgres has what was decided.
async fn a_cluster_that_stops_under_a_locked_row_loses_nothing_if_redis_is_lost_then(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load_of(&Shape { metered: true, ..Shape::default() });
    load.serves_within(BACK_WITHIN).await;
    let before = epoch(&cluster);
    let locked = lock_alice(&cluster).await;
    stop_in_time(&mut cluster, 0);
    stop_in_time(&mut cluster, 1);
    assert_eq!(epoch(&cluster), before, "{}", cluster.gateway(1).stderr());
    cluster.redis.kill();
    drop(locked);
    cluster.redis.restart();
    cluster.restart_gateway(0);
    cluster.restart_gateway(1);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// Nothing can be written. Then the log says how many calls' holds are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_a_gateway_that_stops_without_postgres_says_how_many_holds_it_leaves() {
    let mut cluster = Cluster::start(Durability::Strict, 1).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    cluster.postgres.pause();
    // The holds that Redis grants then are refused, and their releases wait for Postgres.
    let is_refused = async || !refused(&load, 0, began).is_empty();
    assert!(eventually(is_refused).await);
    let gateway = &mut cluster.members[0].process;
    gateway.signal("TERM");
    gateway.ended_within(Duration::from_secs(40));
    gateway.wait_for_logs();
    cluster.postgres.resume();
    let said = cluster.gateway(0).stderr();
    let counts = |line: &str| {
        let left = line.split_once(" holds=").and_then(|(_, left)| left.split(' ').next());
        left.is_some_and(|left| left.parse::<usize>().unwrap() > 0)
    };
    assert!(said.lines().any(counts), "{said}");
    load.stop().await;
}
