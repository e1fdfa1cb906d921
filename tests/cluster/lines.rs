//! Connections that break, wait, or lose what goes one way.

use std::time::Duration;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::load::Load;
use crate::support::eventually;
use crate::support::servers::Flow::{Lost, Open, Stalled};
use crate::support::token;

in_both_modes!(
    connections_that_are_cut_under_load_lose_nothing,
    answers_of_redis_that_come_too_late_hold_nothing,
    answers_of_redis_that_never_come_are_not_done_twice,
    requests_that_never_reach_redis_are_not_taken_for_done,
    holds_that_reach_redis_after_their_release_take_nothing,
    a_commit_whose_answer_was_lost_is_counted_once,
);

async fn running(durability: Durability) -> (Cluster, Load) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    (cluster, load)
}

async fn end(cluster: Cluster, load: Load) {
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn connections_that_are_cut_under_load_lose_nothing(durability: Durability) {
    let (mut cluster, load) = running(durability).await;
    for _ in 0..12 {
        cluster.some_time(20, 200).await;
        let member = cluster.any_gateway();
        let member = &cluster.members[member];
        cluster.random.one_of(&[&member.to_redis, &member.to_postgres]).cut();
    }
    load.serves_within(BACK_WITHIN).await;
    for member in &cluster.members {
        member.to_redis.part();
        member.to_postgres.part();
    }
    cluster.some_time(300, 900).await;
    for member in &cluster.members {
        member.to_redis.mend();
        member.to_postgres.mend();
    }
    end(cluster, load).await;
}

async fn answers_of_redis_that_come_too_late_hold_nothing(durability: Durability) {
    let (mut cluster, load) = running(durability).await;
    cluster.members[0].to_redis.set(Open, Stalled);
    // Callers are told 503 before that; their holds are in Redis all the same.
    cluster.some_time(5000, 6000).await;
    cluster.members[0].to_redis.mend();
    end(cluster, load).await;
}

async fn answers_of_redis_that_never_come_are_not_done_twice(durability: Durability) {
    let (mut cluster, load) = running(durability).await;
    for _ in 0..3 {
        cluster.members[0].to_redis.set(Open, Lost);
        cluster.some_time(50, 1000).await;
        cluster.members[0].to_redis.mend();
        load.serves_within(BACK_WITHIN).await;
    }
    end(cluster, load).await;
}

async fn requests_that_never_reach_redis_are_not_taken_for_done(durability: Durability) {
    let (mut cluster, load) = running(durability).await;
    for _ in 0..3 {
        cluster.members[0].to_redis.set(Lost, Open);
        cluster.some_time(50, 1000).await;
        cluster.members[0].to_redis.mend();
        load.serves_within(BACK_WITHIN).await;
    }
    end(cluster, load).await;
}

/// The connection on which holds were sent is slow; their callers are gone, and the gateway has
/// released them on a new connection, when they arrive.
async fn holds_that_reach_redis_after_their_release_take_nothing(durability: Durability) {
    let (mut cluster, load) = running(durability).await;
    cluster.members[0].to_redis.delay_connections();
    cluster.some_time(5000, 6000).await;
    cluster.members[0].to_redis.mend();
    end(cluster, load).await;
}

async fn a_commit_whose_answer_was_lost_is_counted_once(durability: Durability) {
    let (mut cluster, load) = running(durability).await;
    for _ in 0..3 {
        let member = cluster.any_gateway();
        cluster.members[member].to_postgres.set(Open, Lost);
        cluster.some_time(50, 500).await;
        cluster.members[member].to_postgres.mend();
        load.serves_within(BACK_WITHIN + Duration::from_secs(5)).await;
    }
    end(cluster, load).await;
}

/// Redis has the batch of a capture, and the gateway never heard so. Asked again, Redis says that it was done. Then
/// Redis is lost, before Postgres has any of it; no gateway is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_a_capture_whose_answer_was_lost_outlives_redis() {
    let mut cluster = Cluster::start(Durability::Relaxed, 2).await;
    cluster.grant("erin", 100, "gift-erin").await;
    let gateway = cluster.gateway(0);
    gateway.post("erin", ROUTE).await.expect(200);
    let call = gateway.client.post(gateway.url(ROUTE)).bearer_auth(token("erin"));
    let call = tokio::spawn(call.header("x-delay-ms", 1000).send());
    assert!(eventually(async || cluster.upstream.count() == 2).await);
    for member in &cluster.members {
        member.to_postgres.part();
    }
    cluster.members[0].to_redis.set(Open, Lost);
    let batches = || cluster.redis.ask(&["XLEN", "{s00}:out"]).parse::<u64>().unwrap();
    let before = batches();
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    assert!(eventually(async || batches() > before).await, "Redis has its capture");
    cluster.members[0].to_redis.mend();
    // A request that was not answered is sent again before anything else.
    assert!(eventually(async || cluster.gateway(0).post("erin", ROUTE).await.status == 200).await);
    cluster.redis.flush_all();
    for member in &cluster.members {
        member.to_postgres.mend();
    }
    cluster.check(&[]).await;
}
