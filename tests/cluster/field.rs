//! Failures with drift, leaks and replicas that users of other gateways report. Each of these
//! failures has a test here or in another module of this binary (`main.rs` has the table).

use std::time::Duration;

use crate::check::Excuse;
use crate::cluster::{BACK_WITHIN, Cluster, Durability, PRICE, ROUTE, in_both_modes};
use crate::load::Shape;
use crate::support::eventually;
use crate::support::http::plain_client;
use crate::support::token;

in_both_modes!(
    redis_and_postgres_do_not_drift_apart,
    reservations_of_clients_that_leave_do_not_leak,
    spending_neither_deadlocks_nor_exhausts_the_database,
    what_redis_keeps_does_not_grow_with_the_calls,
);

async fn redis_and_postgres_do_not_drift_apart(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        let load = cluster.load();
        load.serves_within(BACK_WITHIN).await;
        cluster.some_time(300, 900).await;
        calls.extend(load.stop().await);
        // The balance that Redis tells an account is the sum of its entries in Postgres.
        cluster.check(&calls).await;
    }
}

async fn reservations_of_clients_that_leave_do_not_leak(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    cluster.grant("erin", 100, "gift-erin").await;
    let client = plain_client().timeout(Duration::from_millis(60));
    let client = client.build().unwrap();
    for round in 0..10 {
        let url = cluster.gateway(round % 2).url(ROUTE);
        let calls = (0..20).map(|_| {
            let call = client.post(&url).bearer_auth(token("erin")).header("x-delay-ms", 400);
            tokio::spawn(call.send())
        });
        for call in calls.collect::<Vec<_>>() {
            // The client may have given up on the call, or the call was refused while others held
            // all credits.
            let _ = call.await.unwrap();
        }
        let free = async || cluster.gateway(0).account("erin").await["held"] == 0;
        assert!(eventually(free).await, "{}", cluster.gateway(0).account("erin").await);
    }
    let shown = cluster.gateway(1).account("erin").await;
    let left = shown["balance"].as_i64().unwrap();
    assert!(left >= 0 && left % PRICE == 0, "{shown}");
    cluster.check_with(&[], Excuse { unread: 20, ..Excuse::default() }).await;
}

async fn spending_neither_deadlocks_nor_exhausts_the_database(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    let load = cluster.load_of(&Shape { clients: 96, delay_ms: 5, ..Shape::dense() });
    load.serves_within(BACK_WITHIN).await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let mut most = 0;
    for _ in 0..10 {
        cluster.some_time(50, 150).await;
        let connections: u32 = cluster.postgres.sql("postgres", count).parse().unwrap();
        most = most.max(connections);
    }
    // Postgres gives a hundred connections by default; ten gateways should fit.
    assert!(most <= 3 * 10, "{most} connections of three gateways");
    let calls = load.stop().await;
    cluster.check(&calls).await;
    let deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database";
    assert_eq!(cluster.postgres.sql("postgres", deadlocks), "0");
    assert!(!cluster.postgres.said().contains("deadlock"), "{}", cluster.postgres.said());
}

/// Batches leave the outbox once Postgres has them. Redis still keeps their entries for some minutes, unless it needs
/// the memory.
async fn what_redis_keeps_does_not_grow_with_the_calls(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let mut calls = load.stop().await;
    while calls.len() < 2_000 {
        let load = cluster.load_of(&Shape { clients: 48, delay_ms: 0, ..Shape::dense() });
        cluster.some_time(1000, 1001).await;
        calls.extend(load.stop().await);
    }
    cluster.check(&calls).await;
    let length = || -> usize {
        let streams = cluster.redis.ask(&["SCAN", "0", "COUNT", "100000", "TYPE", "stream"]);
        let streams = streams.lines().skip(1).filter(|key| !key.is_empty());
        streams.map(|key| cluster.redis.ask(&["XLEN", key]).parse::<usize>().unwrap()).sum()
    };
    let waiting = async || cluster.members[0].metric("farebox_ledger_outbox_batches").await;
    assert!(eventually(async || waiting().await < 100.0).await, "{} batches wait", waiting().await);
    assert!(length() > 100, "nothing is kept for a Postgres that fails over");
    let info = cluster.redis.ask(&["INFO", "memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = used.trim().parse::<u64>().unwrap() / 20 * 21;
    cluster.redis.ask(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    let trimmed = eventually(async || length() < 100);
    assert!(trimmed.await, "{} entries in the outbox after {} calls", length(), calls.len());
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
}
