//! PgBouncer in transaction mode between the gateways and Postgres: each transaction may run in another session, so
//! no transaction may leave state in a session for the next one.

use std::time::{Duration, Instant};

use http::Method;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, ROUTE, in_both_modes};
use crate::history::History;

in_both_modes!(a_ledger_behind_pgbouncer_works_and_survives_what_others_do);

async fn a_ledger_behind_pgbouncer_works_and_survives_what_others_do(durability: Durability) {
    let plan = Plan { has_bouncer: true, ..Plan::new(durability, 3) };
    let mut cluster = Cluster::of(&plan).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;

    // Operations that Postgres decides, beside the load.
    for n in 0..20 {
        cluster.grant("alice", 5, &format!("more-{n}")).await;
    }
    let (id, key) = cluster.key(0, "bob", false).await;
    let call = async |key: &str| {
        let gateway = cluster.gateway(0);
        let request = gateway.client.get(gateway.url("/credits/transactions")).bearer_auth(key);
        request.send().await.unwrap().status()
    };
    assert_eq!(call(&key).await, 200);
    let revoked = cluster.gateway(0).admin(Method::DELETE, &format!("/admin/keys/{id}"), "").await;
    assert!(revoked.status.is_success(), "{}", revoked.text);
    assert_eq!(call(&key).await, 401);

    // A recovery, a rolling restart, and the loss of each of the two.
    cluster.redis.flush_all();
    load.serves_within(BACK_WITHIN).await;
    assert!(cluster.recoveries().await >= 1.0);
    cluster.stop_gateway(2);
    cluster.restart_gateway(2);
    load.serves_within(BACK_WITHIN).await;
    cluster.bouncer.as_mut().unwrap().kill();
    cluster.some_time(200, 1500).await;
    cluster.bouncer.as_mut().unwrap().restart();
    load.serves_within(BACK_WITHIN).await;
    cluster.postgres.kill();
    cluster.some_time(200, 1500).await;
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    cluster.kill_gateway(1);
    cluster.restart_gateway(1);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;

    // Migrations, and the locks of folding.
    cluster.run(0, &["migrate"]).unwrap();
    cluster.write_history(&History { months: 2, accounts: 700, of_the_first: 50, of_each: 3 });
    let said = cluster.run(0, &["fold", "--before", &cluster.this_month()]).unwrap();
    assert!(said.contains("of 700 accounts"), "{said}");
    cluster.gateway(1).post("alice", ROUTE).await.expect(200);
    cluster.run(1, &["reconcile"]).unwrap();
    let said = cluster.bouncer.as_ref().unwrap().said();
    assert!(!said.contains("prepared statement"), "{said}");
}

/// How soon an operator is told what a start waits for.
const SAID_WITHIN: Duration = Duration::from_secs(5);

/// PgBouncer accepts connections even if there is no Postgres behind it, and lets its clients wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_behind_a_pgbouncer_without_postgres_says_what_it_waits_for() {
    let plan = Plan { has_bouncer: true, ..Plan::new(Durability::Strict, 1) };
    let mut cluster = Cluster::of(&plan).await;
    cluster.stop_gateway(0);
    // Postgres is gone, or accepts connections without answering, as if packets were dropped. PgBouncer either has
    // spoken to it before, and then greets clients in its name, or has not.
    for (is_gone, is_known) in [(true, true), (false, false), (false, true)] {
        if !is_known {
            cluster.bouncer.as_mut().unwrap().stop();
        }
        if is_gone {
            cluster.postgres.kill()
        } else {
            cluster.postgres.pause()
        }
        if !is_known {
            cluster.bouncer.as_mut().unwrap().restart();
        }
        let began = Instant::now();
        cluster.members[0].begin_again();
        let gateway = &mut cluster.members[0].process;
        gateway.wait_until(|gateway| gateway.stderr().contains("the start waits for Postgres"));
        let said = began.elapsed();
        assert!(said < SAID_WITHIN, "said after {said:?}");
        // The gateway serves once the server is there.
        if is_gone {
            cluster.postgres.restart()
        } else {
            cluster.postgres.resume()
        }
        let gateway = &mut cluster.members[0].process;
        gateway.wait_until(|gateway| gateway.stdout().contains("listening on"));
        gateway.post("alice", ROUTE).await.expect(200);
        assert!(gateway.terminate().success(), "{}", gateway.stderr());
    }
    // If Postgres stays away, the start ends as it does without PgBouncer, and says why.
    cluster.postgres.pause();
    cluster.members[0].begin_again();
    let gateway = &mut cluster.members[0].process;
    let status = gateway.ended_within(Duration::from_secs(40));
    gateway.wait_for_logs();
    assert_eq!(status.code(), Some(1));
    assert!(gateway.stderr().contains("Postgres does not answer in time"), "{}", gateway.stderr());
    cluster.postgres.resume();
}
