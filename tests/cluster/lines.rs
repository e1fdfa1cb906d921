//! Connections that break, wait, or lose what goes one way.

use std::time::{Duration, Instant};

use http::Method;

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
    postgres_behind_a_black_hole_is_served_from_within_seconds_twice_in_a_row,
    redis_behind_a_black_hole_is_served_from_within_seconds_twice_in_a_row,
);

/// How long a 503 takes if the ledger is known to be away, with room for a machine that is busy.
const AT_ONCE: Duration = Duration::from_millis(250);

/// How long after the network is back calls are served again.
const SECONDS: Duration = Duration::from_secs(6);

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

/// The connection on which holds were sent is slow. When the holds arrive, their callers are gone,
/// and the gateway has already released the holds on a new connection.
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

/// Packets are dropped, not refused, for longer than a lease lasts. The connections from before stay dead.
async fn postgres_behind_a_black_hole_is_served_from_within_seconds_twice_in_a_row(
    durability: Durability,
) {
    let (mut cluster, load) = running(durability).await;
    for round in 1..=2 {
        cluster.members.iter().for_each(|member| member.to_postgres.swallow());
        cluster.some_time(7000, 9000).await;
        cluster.members.iter().for_each(|member| member.to_postgres.carry_new_connections());
        let back = load.serves_within(SECONDS).await;
        eprintln!("served again after {back:?}");
        // The pool of connections has recovered too, so grants, which Postgres decides, are decided.
        let (path, began) = ("/admin/accounts/alice/grants", Instant::now());
        let body = format!(r#"{{"credits":1,"id":"gift-after-{round}"}}"#);
        while cluster.gateway(0).admin(Method::POST, path, &body).await.status != 200 {
            assert!(began.elapsed() < SECONDS, "no grant is decided");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *cluster.granted.entry("alice".to_owned()).or_default() += 1;
    }
    end(cluster, load).await;
}

async fn redis_behind_a_black_hole_is_served_from_within_seconds_twice_in_a_row(
    durability: Durability,
) {
    let (mut cluster, load) = running(durability).await;
    for _ in 0..2 {
        cluster.members.iter().for_each(|member| member.to_redis.swallow());
        cluster.some_time(4000, 6000).await;
        // The loss is known by now.
        let asked = Instant::now();
        cluster.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
        cluster.members.iter().for_each(|member| member.to_redis.carry_new_connections());
        let back = load.serves_within(SECONDS).await;
        eprintln!("served again after {back:?}");
    }
    end(cluster, load).await;
}

/// Redis has the batch of a capture, and the gateway never got the reply. The gateway asks again, and Redis says that
/// the batch is done. Then Redis is lost, before Postgres has any of it; no gateway is lost.
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
