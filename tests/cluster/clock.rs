//! Clocks that jump by most of an hour, as after a mistake with time zones: of a gateway, and of
//! Postgres, where the leases are. libfaketime moves the clock of one process. It cannot move
//! Redis's: it does not get along with the jemalloc that Redis is built with.

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, in_both_modes};
use crate::support::clock::Clock;

in_both_modes!(
    a_gateway_whose_clock_jumps_loses_nothing,
    a_postgres_whose_clock_jumps_loses_nothing,
);

const JUMPS: [&str; 3] = ["+50m", "-50m", "+0"];

async fn a_gateway_whose_clock_jumps_loses_nothing(durability: Durability) {
    let clock = Clock::new();
    jumps(&clock, &Plan { gateway_env: clock.env(), ..Plan::new(durability, 2) }).await;
}

async fn a_postgres_whose_clock_jumps_loses_nothing(durability: Durability) {
    let clock = Clock::new();
    jumps(&clock, &Plan { postgres_env: clock.env(), ..Plan::new(durability, 2) }).await;
}

async fn jumps(clock: &Clock, plan: &Plan) {
    let mut cluster = Cluster::of(plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for jump in JUMPS {
        clock.is_off_by(jump);
        load.serves_within(BACK_WITHIN).await;
        cluster.some_time(200, 800).await;
        cluster.redis.flush_all();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
