//! Redis loses all of its data, its scripts, or the last moments. Postgres and the gateways lose
//! nothing.

use std::time::{Duration, Instant};

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, ROUTE, in_both_modes};
use crate::load::gateway_of;
use crate::support::eventually;
use crate::support::servers::{CutProxy, Flow, Persistence, Redis};

in_both_modes!(
    a_flush_of_everything_erases_no_debit,
    a_flush_of_the_scripts_is_mended,
    a_restart_from_an_old_copy_of_this_epoch_erases_no_debit,
    a_restart_from_a_copy_of_an_earlier_epoch_erases_no_debit,
    a_restart_from_what_redis_saved_by_itself_erases_no_debit,
    a_server_that_goes_back_to_an_earlier_state_without_a_restart_serves_no_call_unpaid,
    a_lagging_replica_that_is_promoted_erases_no_debit,
    a_gateway_on_the_old_master_spends_nothing_that_the_new_one_has,
);

/// Long enough for a thing to be synced.
const A_WHILE: (u64, u64) = (300, 900);

async fn a_flush_of_everything_erases_no_debit(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for round in 1..=3 {
        cluster.some_time(50, 500).await;
        cluster.redis.flush_all();
        load.serves_within(BACK_WITHIN).await;
        assert!(cluster.recoveries().await >= f64::from(round), "it was noticed");
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_flush_of_the_scripts_is_mended(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for _ in 0..3 {
        cluster.some_time(50, 500).await;
        cluster.redis.script_flush();
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_restart_from_an_old_copy_of_this_epoch_erases_no_debit(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for _ in 0..2 {
        cluster.some_time(50, 500).await;
        let old = cluster.redis.snapshot();
        cluster.some_time(A_WHILE.0, A_WHILE.1).await;
        cluster.redis.restart_from(&old);
        load.serves_within(BACK_WITHIN).await;
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_restart_from_a_copy_of_an_earlier_epoch_erases_no_debit(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let old = cluster.redis.snapshot();
    cluster.redis.flush_all();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(A_WHILE.0, A_WHILE.1).await;
    cluster.redis.restart_from(&old);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_restart_from_what_redis_saved_by_itself_erases_no_debit(durability: Durability) {
    let plan = Plan { persistence: Persistence::Rdb, ..Plan::new(durability, 2) };
    let mut cluster = Cluster::of(&plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(1500, 2500).await;
    cluster.redis.kill();
    cluster.redis.restart();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn a_lagging_replica_that_is_promoted_erases_no_debit(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let line = CutProxy::before(cluster.redis.address()).await;
    let mut replica = Redis::replica_of(line.address());
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    line.set(Flow::Open, Flow::Stalled);
    cluster.some_time(A_WHILE.0, A_WHILE.1).await;
    cluster.redis.kill();
    replica.promote();
    cluster.lead_to(replica);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// Split brain: one gateway still reaches the old master, but not Postgres; the other follows a
/// replica that was promoted. Both work for accounts whose credits are nearly spent.
async fn a_gateway_on_the_old_master_spends_nothing_that_the_new_one_has(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let line = CutProxy::before(cluster.redis.address()).await;
    let mut replica = Redis::replica_of(line.address());
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    line.set(Flow::Open, Flow::Stalled);
    cluster.members[0].to_postgres.part();
    cluster.some_time(200, 600).await;
    replica.promote();
    cluster.members[1].to_redis.lead_to(replica.address());
    load.gateway_serves_within(1, 2, BACK_WITHIN).await;
    // The other's lease has run out: whatever it still did before, it does nothing now.
    serves_nothing_on_the_old_master(&cluster).await;
    cluster.members[0].to_postgres.mend();
    let leases = "SELECT count(*) FROM farebox.gateways WHERE lease_until > now()";
    assert!(eventually(async || cluster.sql(leases) == "2").await, "it has no lease again");
    // The gateway's lease is new, and the old master still runs the scripts of the epoch that has ended.
    serves_nothing_on_the_old_master(&cluster).await;
    cluster.lead_to(replica);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// Expects that the first gateway forwards no call for a while.
async fn serves_nothing_on_the_old_master(cluster: &Cluster) {
    let quiet = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let served = cluster.upstream.served();
    let mut later = served.iter().filter(|call| call.at > quiet);
    let by_the_old = later.find(|call| gateway_of(call.client, 2) == 0);
    assert!(by_the_old.is_none(), "{by_the_old:?}");
}

/// As with a machine that is put back to a snapshot: the process, its scripts and its replication id stay the same.
async fn a_server_that_goes_back_to_an_earlier_state_without_a_restart_serves_no_call_unpaid(
    durability: Durability,
) {
    let redis = Redis::start_with(&["--save", "", "--enable-debug-command", "yes"]);
    let mut cluster = Cluster::around(&Plan::new(durability, 2), redis).await;
    let pay = async |cluster: &Cluster, calls: usize| {
        for call in 0..calls {
            cluster.gateway(call % 2).post("alice", ROUTE).await.expect(200);
        }
    };
    pay(&cluster, 4).await;
    cluster.check(&[]).await;
    assert_eq!(cluster.redis.ask(&["SAVE"]), "OK");
    pay(&cluster, 20).await;
    cluster.check(&[]).await;
    let recoveries = cluster.recoveries().await;
    assert_eq!(cluster.redis.ask(&["DEBUG", "RELOAD", "NOSAVE"]), "OK");
    // The first decision after it shows what has happened.
    cluster.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    assert!(cluster.recoveries().await > recoveries, "{}", cluster.gateway(0).stderr());
    cluster.check(&calls).await;
}
