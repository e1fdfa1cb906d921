//! Gateways come and go under load, as in every deployment.

use std::time::Instant;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, in_both_modes};
use crate::load::{End, Shape};

in_both_modes!(
    a_rolling_restart_under_load_fails_no_call_that_was_accepted,
    gateways_that_start_at_once_migrate_once,
);

async fn a_rolling_restart_under_load_fails_no_call_that_was_accepted(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    let shape = Shape { delay_ms: 100, fresh_connections: true, metered: true, ..Shape::default() };
    let load = cluster.load_of(&shape);
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    for number in 0..3 {
        cluster.stop_gateway(number);
        cluster.restart_gateway(number);
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    let served = cluster.upstream.served();
    for call in calls.iter().filter(|call| call.began > began) {
        match call.end {
            End::Paid | End::Unreachable => {}
            // The system accepts a connection for a listener before the gateway does. If the listener closes first,
            // the system resets the connection, so no gateway has seen the call.
            End::Broken(_) => {
                let while_it_ran = call.began..=call.ended;
                let mut own = served.iter().filter(|served| served.client == call.client);
                assert!(!own.any(|served| while_it_ran.contains(&served.at)), "{call:?}");
            }
            End::Refused(..) | End::CutShort(_) => panic!("{call:?}"),
        }
    }
    let checked = cluster.check(&calls).await;
    assert_eq!(checked.in_flight_at_kills, 0);
    assert_eq!(cluster.recoveries().await, 0.0, "nothing was lost, so nothing is recovered");
}

/// All gateways of a new deployment make the same schema at the same time.
async fn gateways_that_start_at_once_migrate_once(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    for member in &mut cluster.members {
        member.process.terminate();
    }
    cluster.redis.flush_all();
    let drop = "DROP SCHEMA farebox CASCADE";
    cluster.postgres.sql(&cluster.database, drop);
    cluster.granted.clear();
    std::thread::scope(|scope| {
        for member in &mut cluster.members {
            scope.spawn(|| member.restart());
        }
    });
    cluster.grant("alice", 1_000, "gift").await;
    for number in 0..3 {
        cluster.gateway(number).post("alice", crate::cluster::ROUTE).await.expect(200);
    }
    cluster.check(&[]).await;
}
