//! Gateways that reach two Redis servers: a master that was demoted and its successor, or two `redis_url`s during a
//! rolling change. The gateways must not take the ledger from each other.

use std::time::{Duration, Instant};

use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::load::Shape;
use crate::support::eventually;
use crate::support::servers::{Persistence, Redis};

in_both_modes!(
    a_gateway_with_another_redis_url_stays_out_while_the_others_serve,
    a_gateway_on_a_demoted_master_finds_the_new_one_and_disturbs_nobody,
    a_demoted_master_that_cannot_reach_the_new_one_is_left_by_both_connections,
    two_connections_that_lead_to_two_servers_are_brought_together,
    an_address_that_led_to_another_server_for_a_moment_ends_no_epoch,
    recoveries_again_and_again_slow_down_and_leave_nothing,
);

/// The state of a gateway's `/readyz`.
async fn readyz(cluster: &Cluster, gateway: usize) -> u16 {
    let process = cluster.gateway(gateway);
    let url = format!("http://{}/readyz", process.admin);
    process.client.get(url).send().await.unwrap().status().as_u16()
}

/// Waits until calls through this gateway are paid.
pub async fn serves(cluster: &Cluster, gateway: usize) {
    let back = Instant::now();
    while cluster.gateway(gateway).post("alice", ROUTE).await.status != 200 {
        let logged = || cluster.gateway(gateway).stderr();
        assert!(back.elapsed() < BACK_WITHIN, "gateway {gateway} does not serve: {}", logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Expects that gateway 0 serves for `time` without a break, and that gateway 1 takes no call.
async fn one_serves_and_one_stays_out(cluster: &Cluster, time: Duration) {
    let (began, recoveries) = (Instant::now(), cluster.recoveries().await);
    while began.elapsed() < time {
        cluster.gateway(0).post("alice", ROUTE).await.expect(200);
        cluster.gateway(1).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        cluster.recoveries().await,
        recoveries,
        "the ledger is recovered though one serves it"
    );
}

async fn a_gateway_with_another_redis_url_stays_out_while_the_others_serve(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let other = Redis::start(Persistence::None);
    for gateway in [0, 1] {
        serves(&cluster, gateway).await;
    }
    // A charge that is still on its way to Redis is handed over at the stop, by a recovery.
    assert!(eventually(async || cluster.gateway(1).account("alice").await["held"] == 0).await);
    let recoveries = cluster.recoveries().await;
    cluster.members[1].to_redis.lead_to(other.address());
    one_serves_and_one_stays_out(&cluster, Duration::from_secs(3)).await;
    assert!(
        eventually(async || readyz(&cluster, 1).await == 503).await,
        "it says that it is ready"
    );
    assert_eq!(cluster.members[1].metric("farebox_ledger_other_redis").await, 1.0);
    assert_eq!(cluster.members[1].metric("farebox_ledger_up").await, 0.0);
    let logged = || cluster.gateway(1).stderr();
    let is_logged = async || logged().contains("this gateway reaches another Redis");
    assert!(eventually(is_logged).await, "{}", logged());
    assert_eq!(readyz(&cluster, 0).await, 200);
    one_serves_and_one_stays_out(&cluster, Duration::from_secs(3)).await;
    assert_eq!(other.ask(&["DBSIZE"]), "0", "it takes the ledger to the other Redis");
    // After a restart, gateway 1 still takes no call.
    cluster.stop_gateway(1);
    cluster.members[1].begin_again();
    one_stays_ready_while_the_other_starts(&cluster).await;

    cluster.members[1].to_redis.lead_to(cluster.redis.address());
    serves(&cluster, 1).await;
    assert!(eventually(async || readyz(&cluster, 1).await == 200).await);
    assert_eq!(cluster.recoveries().await, recoveries);
    cluster.check(&[]).await;
}

async fn one_stays_ready_while_the_other_starts(cluster: &Cluster) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let answer = cluster.gateway(0).post("alice", ROUTE).await;
        let logged = || cluster.gateway(0).stderr();
        assert_eq!(answer.status, 200, "while the other starts: {}\n{}", answer.text, logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The gateway's connections stay open when its master is demoted.
async fn a_gateway_on_a_demoted_master_finds_the_new_one_and_disturbs_nobody(
    durability: Durability,
) {
    find_the_new_master(durability, true).await;
}

/// Until a demoted master has spoken to the new one, it has its old replication id, so the scripts run up
/// to their first write. Only one of the gateway's connections writes while no call arrives.
async fn a_demoted_master_that_cannot_reach_the_new_one_is_left_by_both_connections(
    durability: Durability,
) {
    find_the_new_master(durability, false).await;
}

async fn find_the_new_master(durability: Durability, replicates: bool) {
    let mut cluster = Cluster::start(durability, 2).await;
    let mut successor = Redis::replica_of(cluster.redis.address());
    for gateway in [0, 1] {
        serves(&cluster, gateway).await;
    }
    let before = cluster.recoveries().await;
    successor.promote();
    // No server listens on port 1.
    let port = if replicates { successor.address().port() } else { 1 };
    let host = successor.address().ip().to_string();
    assert_eq!(cluster.redis.ask(&["REPLICAOF", &host, &port.to_string()]), "OK");
    cluster.members[0].to_redis.lead_to(successor.address());
    serves(&cluster, 0).await;
    one_serves_and_one_stays_out(&cluster, Duration::from_secs(5)).await;
    assert!(cluster.recoveries().await <= before + 1.0, "one for the failover");
    let logged = cluster.gateway(1).stderr();
    assert!(logged.contains("this Redis is a replica"), "{logged}");
    // From here on its address leads to the new master. The connections to the old one stay open.
    cluster.members[1].to_redis.lead_new_connections_to(successor.address());
    serves(&cluster, 1).await;
    assert!(cluster.recoveries().await <= before + 1.0, "the epoch is kept");
    cluster.demoted.push(std::mem::replace(&mut cluster.redis, successor));
    cluster.check(&[]).await;
}

/// The address leads to another server, and the network breaks the one connection that was in use.
async fn two_connections_that_lead_to_two_servers_are_brought_together(durability: Durability) {
    let mut cluster = Cluster::start(durability, 1).await;
    let other = Redis::start(Persistence::None);
    serves(&cluster, 0).await;
    let before = cluster.recoveries().await;
    cluster.members[0].to_redis.lead_new_connections_to(other.address());
    // The connection of the batches is idle while no call arrives, and the other one is not.
    let killed = async || {
        let clients = cluster.redis.ask(&["CLIENT", "LIST", "TYPE", "normal"]);
        let ours = || clients.lines().filter(|client| !client.contains(" cmd=client|list "));
        let idle = |client: &str| {
            let idle = client.split(' ').find_map(|word| word.strip_prefix("idle="));
            idle.unwrap().parse::<u32>().unwrap()
        };
        let is_one_idle = ours().count() == 2 && ours().any(|client| idle(client) >= 2);
        let Some(busy) = ours().find(|client| is_one_idle && idle(client) == 0) else {
            return false;
        };
        let id = busy.split(' ').next().unwrap().strip_prefix("id=").unwrap();
        cluster.redis.ask(&["CLIENT", "KILL", "ID", id]) == "1"
    };
    assert!(eventually(killed).await, "{}", cluster.redis.ask(&["CLIENT", "LIST"]));
    let has_moved = async || cluster.recoveries().await > before;
    assert!(eventually(has_moved).await, "the ledger stays where the address led to");
    serves(&cluster, 0).await;
    // This is longer than a renewal of the lease takes, which would find another loss.
    cluster.some_time(1500, 2000).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    assert_eq!(cluster.recoveries().await, before + 1.0, "one for the other server");
    cluster.demoted.push(std::mem::replace(&mut cluster.redis, other));
    cluster.check(&[]).await;
}

/// The gateway hears from the other server that the scripts are missing. Before it can look further, because Postgres
/// stands still, the address leads to the first server again.
async fn an_address_that_led_to_another_server_for_a_moment_ends_no_epoch(durability: Durability) {
    let mut cluster = Cluster::start(durability, 1).await;
    let other = Redis::start(Persistence::None);
    serves(&cluster, 0).await;
    let before = cluster.recoveries().await;
    for _ in 0..3 {
        cluster.postgres.pause();
        cluster.members[0].to_redis.lead_to(other.address());
        let was_asked = async || other.ask(&["INFO", "commandstats"]).contains("cmdstat_evalsha:");
        assert!(eventually(was_asked).await, "{}", other.ask(&["INFO", "commandstats"]));
        assert_eq!(other.ask(&["CONFIG", "RESETSTAT"]), "OK");
        cluster.members[0].to_redis.lead_to(cluster.redis.address());
        let is_back = async || {
            let clients = cluster.redis.ask(&["CLIENT", "LIST", "TYPE", "normal"]);
            clients.lines().filter(|client| !client.contains(" cmd=client|list ")).count() == 2
        };
        assert!(eventually(is_back).await, "{}", cluster.redis.ask(&["CLIENT", "LIST"]));
        cluster.postgres.resume();
        serves(&cluster, 0).await;
    }
    // This is longer than a renewal of the lease takes, which would find a loss.
    cluster.some_time(1500, 2000).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    assert_eq!(cluster.recoveries().await, before, "the epoch is kept");
    cluster.check(&[]).await;
}

async fn recoveries_again_and_again_slow_down_and_leave_nothing(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load_of(&Shape::light());
    load.serves_within(BACK_WITHIN).await;
    let (began, before) = (Instant::now(), cluster.recoveries().await);
    while began.elapsed() < Duration::from_secs(20) {
        cluster.redis.script_flush();
        cluster.some_time(100, 300).await;
    }
    let recoveries = cluster.recoveries().await - before;
    eprintln!("{recoveries} recoveries in 20 s");
    assert!((3.0..=8.0).contains(&recoveries), "{recoveries} recoveries in 20 s");
    load.serves_within(BACK_WITHIN).await;
    let logged: String = cluster.members.iter().map(|member| member.process.stderr()).collect();
    assert!(logged.contains("the ledger is recovered again and again"), "{logged}");
    // The keys of every epoch but this one are gone, without waiting for the hour's upkeep.
    let epoch = async || cluster.members[0].metric("farebox_ledger_epoch").await;
    let leave_nothing = async || {
        let own = format!("{{s00}}:{}:", epoch().await);
        let keys = cluster.redis.ask(&["KEYS", "{s00}:*"]);
        let is_kept =
            |key: &str| key.starts_with(&own) || ["{s00}:meta", "{s00}:out"].contains(&key);
        keys.lines().all(is_kept)
    };
    assert!(eventually(leave_nothing).await, "{}", cluster.redis.ask(&["KEYS", "{s00}:*"]));
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
