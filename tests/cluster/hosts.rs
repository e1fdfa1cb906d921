//! `postgres_url` lists several hosts, of which a gateway uses the one that accepts writes. It passes over a standby,
//! and finds a standby that was promoted.

use std::time::Duration;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, in_both_modes};
use crate::support::servers::Postgres;

in_both_modes!(
    the_host_that_is_promoted_is_used_when_the_primary_dies,
    the_host_that_is_promoted_is_used_when_the_primary_vanishes,
);

/// The ways in which a primary is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    /// The primary's packets are dropped, and no client gets an error.
    Vanished,
}

async fn the_host_that_is_promoted_is_used_when_the_primary_dies(durability: Durability) {
    fails_over(durability, Loss::Killed).await;
}

async fn the_host_that_is_promoted_is_used_when_the_primary_vanishes(durability: Durability) {
    fails_over(durability, Loss::Vanished).await;
}

/// The standby is the first of the hosts.
async fn fails_over(durability: Durability, loss: Loss) {
    let plan = Plan { has_standby: true, ..Plan::new(durability, 2) };
    let mut cluster = Cluster::of(&plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(300, 600).await;
    let standby = cluster.replica.take().unwrap();
    match loss {
        Loss::Killed => cluster.postgres.kill(),
        Loss::Vanished => {
            for member in &cluster.members {
                member.to_postgres.swallow();
            }
            // No gateway can reach it, and the standby has all that it has.
            follow(&cluster, &standby).await;
        }
    }
    standby.promote();
    let old = std::mem::replace(&mut cluster.postgres, standby);
    let back = load.serves_within(BACK_WITHIN).await;
    eprintln!("served again after {back:?}");
    for member in &cluster.members {
        let said = member.process.stderr();
        assert!(said.contains("on another host of `postgres_url`"), "{said}");
        assert!(said.matches("is a standby").count() < 40, "{said}");
    }
    // Connections that are opened anew lead to the same host.
    for member in &cluster.members {
        member.to_standby.as_ref().unwrap().cut();
    }
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
    drop(old);
}

async fn follow(cluster: &Cluster, standby: &Postgres) {
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    let written = cluster.postgres.sql("postgres", "SELECT pg_current_wal_lsn()");
    let follows = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    while standby.sql("postgres", &follows) != "t" {
        assert!(std::time::Instant::now() < limit, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A single address may lead to a standby, too. The gateway serves nothing from the standby, and uses the primary
/// once the address leads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_leads_to_a_standby_is_not_used() {
    let plan = Plan { has_standby: true, ..Plan::new(Durability::Strict, 1) };
    let mut cluster = Cluster::of(&plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let standby = cluster.replica.as_ref().unwrap().address();
    let primary = cluster.postgres.address();
    let member = &cluster.members[0];
    member.to_postgres.lead_to(standby);
    let refused = async || {
        let answer = member.process.post("alice", crate::cluster::ROUTE).await;
        answer.status == 503
    };
    assert!(crate::support::eventually(refused).await);
    member.to_postgres.lead_to(primary);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
