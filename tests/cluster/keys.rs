//! A key made or revoked on one gateway is known to every gateway.

use std::time::{Duration, Instant};

use http::Method;

use crate::cluster::{Cluster, Durability, ROUTE};
use crate::support::eventually;
use crate::support::http::Answer;

/// How soon every gateway knows of a key that was revoked.
const REVOKED_WITHIN: Duration = Duration::from_secs(2);

async fn call(cluster: &Cluster, gateway: usize, key: &str) -> u16 {
    let gateway = cluster.gateway(gateway);
    let request = gateway.client.post(gateway.url(ROUTE)).bearer_auth(key);
    Answer::of(request.body("{}")).await.status.as_u16()
}

async fn revoke(cluster: &Cluster, gateway: usize, id: &str) {
    let path = format!("/admin/keys/{id}");
    let answer = cluster.gateway(gateway).admin(Method::DELETE, &path, "").await;
    assert!(answer.status.is_success(), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_at_one_gateway_is_refused_by_all_within_two_seconds() {
    let cluster = Cluster::start(Durability::Relaxed, 3).await;
    for maker in 0..3 {
        let (id, key) = cluster.key(maker, "alice", false).await;
        for number in 0..3 {
            let known = eventually(async || call(&cluster, number, &key).await == 200);
            assert!(known.await, "gateway {number} never learns of a key of gateway {maker}");
        }
        revoke(&cluster, maker, &id).await;
        let revoked = Instant::now();
        assert_eq!(call(&cluster, maker, &key).await, 401, "who revoked it knows at once");
        for number in 0..3 {
            let gone = eventually(async || call(&cluster, number, &key).await == 401);
            assert!(gone.await, "gateway {number}");
        }
        assert!(revoked.elapsed() < REVOKED_WITHIN, "{:?}", revoked.elapsed());
    }
    cluster.check(&[]).await;
}

/// An answer that came late must not bring a revoked key back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_revoked_while_a_gateway_is_stopped_is_refused_when_it_goes_on() {
    let cluster = Cluster::start(Durability::Relaxed, 2).await;
    let (id, key) = cluster.key(0, "alice", false).await;
    assert!(eventually(async || call(&cluster, 1, &key).await == 200).await);
    cluster.members[1].pause();
    revoke(&cluster, 0, &id).await;
    tokio::time::sleep(REVOKED_WITHIN).await;
    cluster.members[1].resume();
    let gone = Instant::now();
    assert!(eventually(async || call(&cluster, 1, &key).await == 401).await);
    assert!(gone.elapsed() < REVOKED_WITHIN, "{:?}", gone.elapsed());
    cluster.check(&[]).await;
}

/// The failure is ours, so it is no 401, after which a client would throw its key away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_a_gateway_without_postgres_cannot_know_is_no_401() {
    let cluster = Cluster::start(Durability::Relaxed, 2).await;
    assert_eq!(call(&cluster, 1, "fb_unknown").await, 401);
    cluster.members[1].to_postgres.part();
    let (_, key) = cluster.key(0, "alice", false).await;
    assert!(eventually(async || call(&cluster, 1, &key).await == 503).await);
    assert_eq!(call(&cluster, 0, &key).await, 200);
    assert_eq!(call(&cluster, 0, "fb_unknown").await, 401);
    cluster.members[1].to_postgres.mend();
    assert!(eventually(async || call(&cluster, 1, &key).await == 200).await);
    assert_eq!(call(&cluster, 1, "fb_unknown").await, 401);
    cluster.check(&[]).await;
}

/// Postgres sends notices about ordinary states ("already exists, skipping"). A command's output must not contain
/// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_their_answer_and_nothing_of_the_database_s() {
    let cluster = Cluster::start(Durability::Strict, 1).await;
    let (id, _) = cluster.key(0, "alice", false).await;
    for (arguments, answer) in [
        (&["migrate"][..], "up to date"),
        (&["key", "list", "alice"], &*id),
        (&["grant", "alice", "5"], "alice"),
        (&["account", "list"], "alice"),
        (&["account", "show", "alice"], "alice"),
        (&["reconcile"], "account"),
    ] {
        let said = cluster.run(0, arguments).unwrap();
        let first = said.lines().next().unwrap_or_default();
        assert!(said.contains(answer), "{arguments:?}: {said}");
        assert!(!said.contains("INFO") && !said.contains("notice"), "{arguments:?}: {said}");
        assert!(!first.is_empty() && !first.starts_with("20"), "{arguments:?}: {said}");
    }
}
