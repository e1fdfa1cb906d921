//! Two ledgers, each with a Postgres of its own, that reach one Redis: a wrong `redis_url`. Neither may charge its accounts
//! for the other's calls.

use std::time::{Duration, Instant};

use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::support::eventually;

in_both_modes!(
    a_ledger_stays_out_of_the_redis_in_which_another_one_is_served,
    a_ledger_that_takes_over_the_redis_of_another_one_charges_none_of_its_calls,
);

/// Waits until calls of this ledger are paid.
async fn serves(cluster: &Cluster) {
    let began = Instant::now();
    while cluster.gateway(0).post("alice", ROUTE).await.status != 200 {
        assert!(began.elapsed() < BACK_WITHIN, "{}", cluster.gateway(0).stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_ledger_stays_out_of_the_redis_in_which_another_one_is_served(durability: Durability) {
    let served = Cluster::start(durability, 1).await;
    let lost = Cluster::start(durability, 1).await;
    for cluster in [&served, &lost] {
        serves(cluster).await;
    }
    let recoveries = served.recoveries().await;
    lost.members[0].to_redis.lead_to(served.redis.address());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(12) {
        served.gateway(0).post("alice", ROUTE).await.expect(200);
        lost.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(served.recoveries().await, recoveries, "the other ledger takes its Redis away");
    let ready = format!("http://{}/readyz", lost.gateway(0).admin);
    assert_eq!(lost.gateway(0).client.get(ready).send().await.unwrap().status(), 503);
    assert_eq!(lost.members[0].metric("farebox_ledger_other_redis").await, 1.0);
    let logged = lost.gateway(0).stderr();
    assert_eq!(logged.matches("this Redis has another ledger").count(), 1, "{logged}");
    let said = lost.run(0, &["recover", "--dry-run"]).unwrap();
    assert!(said.contains("Redis: has the data of another ledger"), "{said}");

    lost.members[0].to_redis.lead_to(lost.redis.address());
    serves(&lost).await;
    lost.check(&[]).await;
    served.check(&[]).await;
}

/// Both ledgers are in their first epoch, so the batches of both have the same numbers. The heir has no batch of its own
/// yet, by which it would see that the stream is not its own.
async fn a_ledger_that_takes_over_the_redis_of_another_one_charges_none_of_its_calls(
    durability: Durability,
) {
    let mut gone = Cluster::start(durability, 1).await;
    let mut heir = Cluster::start(durability, 1).await;
    for _ in 0..20 {
        gone.gateway(0).post("alice", ROUTE).await.expect(200);
    }
    gone.check(&[]).await;
    gone.stop_gateway(0);
    heir.members[0].to_redis.lead_to(gone.redis.address());
    let taken_over = async || heir.recoveries().await > 0.0;
    let began = Instant::now();
    while !taken_over().await {
        assert!(began.elapsed() < BACK_WITHIN, "{}", heir.gateway(0).stderr());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    serves(&heir).await;
    std::mem::swap(&mut gone.redis, &mut heir.redis);
    assert!(eventually(async || heir.members[0].metric("farebox_ledger_up").await == 1.0).await);
    heir.check(&[]).await;
}
