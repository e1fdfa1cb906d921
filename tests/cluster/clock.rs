//! The clocks of a gateway and of Postgres, which stores the leases, jump by most of an hour, as
//! after a mistake with time zones. libfaketime moves the clock of one process. It cannot move
//! Redis's clock, because it does not work with the jemalloc that Redis is built with.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, ROUTE, in_both_modes};
use crate::support::clock::Clock;
use crate::support::servers::{Persistence, Redis};
use crate::support::{eventually, token};
use crate::two_redis::serves;

in_both_modes!(
    a_gateway_whose_clock_jumps_loses_nothing,
    a_postgres_whose_clock_jumps_loses_nothing,
    a_gateway_that_died_before_postgres_s_clock_goes_back_is_not_waited_for,
    a_redis_that_was_reached_before_postgres_s_clock_goes_back_is_not_waited_for,
    a_gateway_whose_clock_is_minutes_off_asks_postgres_about_no_new_call,
    calls_outlive_servers_that_stand_still,
);

const JUMPS: [&str; 3] = ["+50m", "-50m", "+0"];

/// Postgres's clock is never behind the machine's. In the handler of a signal libfaketime shows the machine's time, and
/// with a clock behind that Postgres would take each time limit for reached.
const JUMPS_OF_POSTGRES: [&str; 3] = ["+100m", "+50m", "+0"];

async fn a_gateway_whose_clock_jumps_loses_nothing(durability: Durability) {
    let clock = Clock::new();
    let plan = Plan { gateway_env: clock.env(), ..Plan::new(durability, 2) };
    jumps(&clock, JUMPS, &plan).await;
}

async fn a_postgres_whose_clock_jumps_loses_nothing(durability: Durability) {
    let clock = Clock::new();
    let plan = Plan { postgres_env: clock.env(), ..Plan::new(durability, 2) };
    jumps(&clock, JUMPS_OF_POSTGRES, &plan).await;
}

async fn jumps(clock: &Clock, jumps: [&str; 3], plan: &Plan) {
    let mut cluster = Cluster::of(plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for jump in jumps {
        clock.is_off_by(jump);
        load.serves_within(BACK_WITHIN).await;
        cluster.some_time(200, 800).await;
        cluster.redis.flush_all();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// The clock goes back by less than the ten seconds after which a silent gateway counts as lost.
async fn a_gateway_that_died_before_postgres_s_clock_goes_back_is_not_waited_for(
    durability: Durability,
) {
    let clock = Clock::new();
    clock.is_off_by("+9s");
    let plan = Plan { postgres_env: clock.env(), ..Plan::new(durability, 2) };
    let mut cluster = Cluster::of(&plan).await;
    serves(&cluster, 0).await;
    serves(&cluster, 1).await;
    // A gateway and Redis are lost at once below, so Postgres needs to have everything.
    cluster.check(&[]).await;
    cluster.kill_gateway(1);
    clock.is_off_by("+0");
    cluster.redis.flush_all();
    let lost = Instant::now();
    serves(&cluster, 0).await;
    assert!(lost.elapsed() < Duration::from_secs(9), "{:?}", lost.elapsed());
    cluster.restart_gateway(1);
    cluster.check(&[]).await;
}

/// One gateway reaches no Redis any more, and the other one a new Redis.
async fn a_redis_that_was_reached_before_postgres_s_clock_goes_back_is_not_waited_for(
    durability: Durability,
) {
    let clock = Clock::new();
    clock.is_off_by("+50m");
    let plan = Plan { postgres_env: clock.env(), ..Plan::new(durability, 2) };
    let mut cluster = Cluster::of(&plan).await;
    serves(&cluster, 0).await;
    serves(&cluster, 1).await;
    cluster.members[0].to_redis.part();
    // For a moment longer, its renewals still say which Redis it has reached.
    tokio::time::sleep(Duration::from_secs(4)).await;
    clock.is_off_by("+0");
    let other = Redis::start(Persistence::None);
    cluster.members[1].to_redis.lead_to(other.address());
    cluster.redis.kill();
    serves(&cluster, 1).await;
    cluster.lead_to(other);
    cluster.members[0].to_redis.mend();
    serves(&cluster, 0).await;
    cluster.check(&[]).await;
}

/// Makes a call through one gateway, whose answer takes `delay`, and returns its status.
async fn call(cluster: &Cluster, gateway: usize, delay: Duration) -> u16 {
    let process = cluster.gateway(gateway);
    let request = process.client.post(process.url(ROUTE)).bearer_auth(token("alice"));
    let answer = request.header("x-delay-ms", delay.as_millis() as u64).send();
    answer.await.unwrap().status().as_u16()
}

/// If Redis takes an id for old, it asks for the id's fate, and remembers that Postgres does not know the id. For new
/// calls it must remember no such id.
async fn a_gateway_whose_clock_is_minutes_off_asks_postgres_about_no_new_call(
    durability: Durability,
) {
    let clock = Clock::new();
    let plan = Plan { gateway_env: clock.env(), ..Plan::new(durability, 1) };
    let cluster = Cluster::of(&plan).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    for (offset, seconds) in [("-2m", -120.0), ("+2m", 120.0), ("+0", 0.0_f64)] {
        clock.is_off_by(offset);
        let is_known = async || {
            let skew = cluster.members[0].metric("farebox_ledger_clock_skew_seconds").await;
            (skew - seconds).abs() < 5.0
        };
        assert!(eventually(is_known).await, "the metric does not say so: {offset}");
        let delay = Duration::from_millis(1500);
        let calls = join_all((0..8).map(|_| call(&cluster, 0, delay)));
        let asked = async {
            tokio::time::sleep(delay / 2).await;
            let keys = cluster.redis.ask(&["KEYS", "{s00}:*:ended:*"]);
            let keys = keys.lines().filter(|key| !key.is_empty());
            let values: String =
                keys.map(|key| cluster.redis.ask(&["HVALS", key]) + "\n").collect();
            values.lines().filter(|value| *value == "N").count()
        };
        let (statuses, asked) = tokio::join!(calls, asked);
        assert_eq!(statuses, [200; 8]);
        assert_eq!(asked, 0, "Postgres was asked about new calls with a clock off by {offset}");
    }
    let logged = cluster.gateway(0).stderr();
    assert!(logged.contains("Redis's clock is ahead of this machine's"), "{logged}");
    assert!(logged.contains("the clocks of this machine and of Redis agree again"), "{logged}");
}

/// Redis and Postgres hear from no gateway for longer than it takes until a gateway counts as lost. Then
/// one gateway comes back later than the other, as if its machine had to connect anew.
async fn calls_outlive_servers_that_stand_still(durability: Durability) {
    let cluster = Cluster::start(durability, 2).await;
    for gateway in [0, 1] {
        cluster.gateway(gateway).post("alice", ROUTE).await.expect(200);
    }
    let calls = join_all((0..8).map(|n| call(&cluster, n % 2, Duration::from_secs(32))));
    let stand_still = async {
        assert!(eventually(async || cluster.upstream.count() == 10).await);
        cluster.redis.pause();
        cluster.postgres.pause();
        tokio::time::sleep(Duration::from_secs(15)).await;
        let late = &cluster.members[1];
        late.to_redis.swallow();
        late.to_postgres.swallow();
        cluster.postgres.resume();
        cluster.redis.resume();
        tokio::time::sleep(Duration::from_secs(6)).await;
        late.to_redis.carry_new_connections();
        late.to_postgres.carry_new_connections();
    };
    let (statuses, ()) = tokio::join!(calls, stand_still);
    assert_eq!(statuses, [200; 8]);
    for member in &cluster.members {
        let logged = member.process.stderr();
        assert!(!logged.contains("the calls of a lost gateway expire"), "{logged}");
        assert!(!logged.contains("a hold expired"), "{logged}");
    }
    cluster.check(&[]).await;
}
