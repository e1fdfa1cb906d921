//! kill -9 and SIGSTOP of everything, at random moments, under load.

use std::time::{Duration, Instant};

use crate::check::Excuse;
use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, in_both_modes};
use crate::load::{Call, Shape, longest_gap};
use crate::support::servers::Persistence;

in_both_modes!(
    a_gateway_that_is_killed_takes_nothing_with_it_but_its_calls,
    a_gateway_that_is_stopped_holds_nobody_up_and_loses_nothing,
    a_gateway_that_was_taken_for_gone_settles_its_calls_and_serves_again,
    a_redis_that_is_killed_and_comes_back_empty_loses_nothing,
    a_redis_that_is_killed_and_comes_back_with_its_log_loses_nothing,
    a_redis_that_is_stopped_loses_nothing,
    a_postgres_that_is_killed_loses_nothing,
    a_postgres_that_is_stopped_loses_nothing,
    redis_and_a_gateway_lost_at_once_lose_the_last_moments_at_most,
);

/// The age below which a call's entry may not be in Postgres yet.
const UNSYNCED: Duration = Duration::from_secs(1);

/// The longest time until a lost gateway is given up: a lease, the grace beyond it, and the
/// interval at which another gateway looks.
pub const GIVEN_UP_WITHIN: Duration = Duration::from_secs(40);

/// The time within which the other gateways serve again after one is gone.
const GO_ON_WITHIN: Duration = Duration::from_secs(5);

async fn a_gateway_that_is_killed_takes_nothing_with_it_but_its_calls(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    let load = cluster.load_of(&Shape { metered: true, ..Shape::default() });
    load.serves_within(BACK_WITHIN).await;
    for _ in 0..4 {
        cluster.some_time(50, 500).await;
        let victim = cluster.any_gateway();
        cluster.kill_gateway(victim);
        load.gateway_serves_within((victim + 1) % 3, 3, GO_ON_WITHIN).await;
        cluster.restart_gateway(victim);
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_gateway_that_is_stopped_holds_nobody_up_and_loses_nothing(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    // Shorter than a lease, and longer.
    for (from, to) in [(200, 1000), (3500, 4500)] {
        cluster.some_time(50, 500).await;
        let victim = cluster.any_gateway();
        cluster.members[victim].pause();
        load.gateway_serves_within((victim + 1) % 3, 3, GO_ON_WITHIN).await;
        load.gateway_serves_within((victim + 2) % 3, 3, GO_ON_WITHIN).await;
        cluster.some_time(from, to).await;
        cluster.members[victim].resume();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// The gateway is stopped for so long that the others have given it up, with the holds of its
/// calls.
async fn a_gateway_that_was_taken_for_gone_settles_its_calls_and_serves_again(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load_of(&Shape { delay_ms: 200, ..Shape::default() });
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(50, 500).await;
    let victim = cluster.any_gateway();
    cluster.members[victim].pause();
    let limit = Instant::now() + GIVEN_UP_WITHIN;
    while cluster.sql("SELECT count(*) FROM farebox.gateways") != "1" {
        assert!(Instant::now() < limit, "nobody has given it up");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.members[victim].resume();
    load.gateway_serves_within(victim, 2, BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_redis_that_is_killed_and_comes_back_empty_loses_nothing(durability: Durability) {
    redis_is_killed(Plan::new(durability, 2)).await;
}

async fn a_redis_that_is_killed_and_comes_back_with_its_log_loses_nothing(durability: Durability) {
    redis_is_killed(Plan { persistence: Persistence::Aof, ..Plan::new(durability, 2) }).await;
}

async fn redis_is_killed(plan: Plan) {
    let mut cluster = Cluster::of(&plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for _ in 0..2 {
        cluster.some_time(50, 500).await;
        cluster.redis.kill();
        cluster.some_time(1, 300).await;
        cluster.redis.restart();
        let back = load.serves_within(BACK_WITHIN).await;
        eprintln!("served again after {back:?}");
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
    assert!(cluster.recoveries().await >= 2.0);
}

async fn a_redis_that_is_stopped_loses_nothing(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for (from, to) in [(100, 900), (3500, 4500)] {
        cluster.some_time(50, 500).await;
        cluster.redis.pause();
        cluster.some_time(from, to).await;
        cluster.redis.resume();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_postgres_that_is_killed_loses_nothing(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    for _ in 0..3 {
        cluster.some_time(50, 500).await;
        cluster.postgres.kill();
        cluster.some_time(1, 300).await;
        cluster.postgres.restart();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    if durability == Durability::Relaxed {
        let gap = longest_gap(&calls, began);
        assert!(gap < Duration::from_secs(2), "no call was paid for {gap:?}");
    }
    cluster.check(&calls).await;
}

async fn a_postgres_that_is_stopped_loses_nothing(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    for (from, to) in [(100, 900), (3500, 4500)] {
        cluster.some_time(50, 500).await;
        cluster.postgres.pause();
        cluster.some_time(from, to).await;
        cluster.postgres.resume();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    if durability == Durability::Relaxed {
        let gap = longest_gap(&calls, began);
        assert!(gap < Duration::from_secs(2), "no call was paid for {gap:?}");
    }
    cluster.check(&calls).await;
}

/// The declared double fault: what only these two knew is gone, and nothing else.
async fn redis_and_a_gateway_lost_at_once_lose_the_last_moments_at_most(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(500, 1500).await;
    let last_moments = Instant::now() - UNSYNCED;
    cluster.redis.kill();
    cluster.kill_gateway(0);
    let lost_at = Instant::now();
    cluster.redis.restart();
    cluster.restart_gateway(0);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    let recent = |call: &&Call| call.gateway == 0 && (last_moments..lost_at).contains(&call.ended);
    let lost = calls.iter().filter(recent).count();
    cluster.check_with(&calls, Excuse { lost, ..Excuse::default() }).await;
}
