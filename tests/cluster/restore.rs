//! Postgres was restored to an earlier point while Redis lives, so Redis has operations that Postgres lacks. No
//! credit is minted, whatever the operator forgets to do.

use crate::check::Excuse;
use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::support::eventually;
use crate::support::servers::CutProxy;

in_both_modes!(
    what_redis_has_of_later_epochs_is_never_read_again,
    gateways_that_run_on_find_out_by_themselves,
    a_failover_to_a_replica_that_lacks_a_grant_is_noticed,
);

/// Redis has another epoch's balances under the very number that would come next.
async fn what_redis_has_of_later_epochs_is_never_read_again(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    cluster.grant("erin", 100, "gift-erin").await;
    cluster.gateway(0).post("erin", ROUTE).await.expect(200);
    cluster.check(&[]).await;
    cluster.postgres.back_up();
    cluster.redis.flush_all();
    // Grants from now on are lost with the restored Postgres, and so is what they paid for.
    let late = async || {
        let body = r#"{"credits":1000,"id":"gift-late"}"#;
        let path = "/admin/accounts/erin/grants";
        cluster.gateway(0).admin(http::Method::POST, path, body).await.status == 200
    };
    assert!(eventually(late).await);
    assert!(eventually(async || cluster.gateway(1).post("erin", ROUTE).await.status == 200).await);
    let synced = async || cluster.gateway(0).account("erin").await["balance"] == 1090;
    assert!(eventually(synced).await, "{}", cluster.gateway(0).account("erin").await);
    for gateway in 0..2 {
        cluster.stop_gateway(gateway);
    }
    cluster.postgres.take_back();

    let said = cluster.run(0, &["recover", "--dry-run"]).unwrap();
    for expected in [
        "Postgres was taken back to an earlier point",
        "erin: Redis 1090, Postgres 95, afterwards 90",
        "grants, refunds or freezes of erin that Redis had heard of: 1000 credits",
        "Redis: the stream takes ",
        "syncer: ",
        "nothing was changed",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let again = cluster.run(0, &["recover", "--dry-run"]).unwrap();
    // Only the time goes on.
    let lasting = |said: &str| {
        let lines = said.lines().filter(|line| !line.contains("gateway"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lasting(&said), lasting(&again));

    for gateway in 0..2 {
        cluster.restart_gateway(gateway);
    }
    let answer = cluster.gateway(0).post("erin", ROUTE).await;
    assert!(answer.status == 200 || answer.status == 503, "{}", answer.text);
    assert!(eventually(async || cluster.gateway(1).post("erin", ROUTE).await.status == 200).await);
    // The stream had the charge of the later epoch, which counts.
    cluster.check(&[]).await;
}

/// The gateways are not stopped, as the runbook asks for.
async fn gateways_that_run_on_find_out_by_themselves(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    load.stop().await;
    // At rest: a hold that is live in a backup is live until it expires.
    cluster.check(&[]).await;
    cluster.postgres.back_up();
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(300, 900).await;
    load.stop().await;
    cluster.check(&[]).await;
    let recovered = cluster.recoveries().await;
    // No call arrives, so the gateway can notice it only by asking Postgres.
    cluster.postgres.take_back();
    assert!(eventually(async || cluster.recoveries().await > recovered).await, "it was noticed");
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    load.stop().await;
    // The stream had all charges since the backup.
    cluster.check(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_asked_for_loses_nothing_under_load() {
    let mut cluster = Cluster::start(Durability::Relaxed, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let said = cluster.run(0, &["recover"]).unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("epoch 2 has begun"), "{said}");
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// Postgres is restored within the same epoch, and the stream no longer has the batches that
/// Postgres lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_which_batches_are_gone_and_whose_they_were() {
    let mut cluster = Cluster::start(Durability::Relaxed, 2).await;
    cluster.grant("erin", 100, "gift-erin").await;
    cluster.gateway(0).post("erin", ROUTE).await.expect(200);
    cluster.check(&[]).await;
    cluster.postgres.back_up();
    for _ in 0..5 {
        let again = async || cluster.gateway(0).post("erin", ROUTE).await.status == 200;
        assert!(eventually(again).await);
        cluster.check(&[]).await;
    }
    for gateway in 0..2 {
        cluster.stop_gateway(gateway);
    }
    cluster.postgres.take_back();
    // Postgres had them for longer than the stream keeps them.
    cluster.redis.ask(&["XTRIM", "{s00}:out", "MAXLEN", "1"]);
    let said = cluster.run(0, &["recover", "--dry-run"]).unwrap();
    for expected in ["lost: batches ", "of epoch 1: Postgres had them once", "erin: Redis 70, "] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let said = cluster.run(0, &["recover"]).unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("epoch 2 has begun"), "{said}");
    for gateway in 0..2 {
        cluster.restart_gateway(gateway);
    }
    cluster.check_with(&[], Excuse { lost: 5, ..Excuse::default() }).await;
}

/// Both servers have the same checkpoint, since no call was made in between. The next grant gets the number of the
/// lost one.
async fn a_failover_to_a_replica_that_lacks_a_grant_is_noticed(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let line = CutProxy::before(cluster.postgres.address()).await;
    let replica = cluster.postgres.replica_through(line.address());
    for gateway in [0, 1] {
        cluster.gateway(gateway).post("alice", ROUTE).await.expect(200);
    }
    cluster.gateway(0).assert_reconciled().await;
    let checkpoint = "SELECT epoch, checkpoint FROM farebox.shards";
    let follows = || replica.sql(&cluster.database, checkpoint) == cluster.sql(checkpoint);
    assert!(eventually(async || follows()).await, "the replica does not follow");
    line.swallow();
    cluster.grant("alice", 70, "gift-that-is-lost").await;
    *cluster.granted.get_mut("alice").unwrap() -= 70;
    assert_eq!(replica.sql(&cluster.database, checkpoint), cluster.sql(checkpoint));

    cluster.postgres.kill();
    replica.promote();
    for member in &cluster.members {
        member.to_postgres.lead_to(replica.address());
    }
    cluster.postgres = replica;
    let granted = async || {
        let (path, body) = ("/admin/accounts/alice/grants", r#"{"credits":30,"id":"gift-after"}"#);
        cluster.gateway(0).admin(http::Method::POST, path, body).await.status == 200
    };
    assert!(eventually(granted).await);
    *cluster.granted.get_mut("alice").unwrap() += 30;
    let says = |gateway: usize| {
        let logged = cluster.gateway(gateway).stderr();
        logged.contains("Postgres was failed over or restored")
    };
    assert!(eventually(async || says(0) || says(1)).await);
    let tells_the_amount = |gateway: usize| {
        let logged = cluster.gateway(gateway).stderr();
        let lost = |line: &str| {
            line.contains(" ERROR ") && line.contains("account=\"alice\" amount=\"70\"")
        };
        logged.lines().any(lost)
    };
    assert!(eventually(async || tells_the_amount(0) || tells_the_amount(1)).await);
    for gateway in [0, 1] {
        let served = async || cluster.gateway(gateway).post("alice", ROUTE).await.status == 200;
        assert!(eventually(served).await);
    }
    cluster.check(&[]).await;
}

/// Gateways serve meanwhile. What such a run names, an operator would put right by an adjustment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_under_load_names_no_balance_that_would_stay() {
    let mut cluster = Cluster::start(Durability::Strict, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for _ in 0..5 {
        let said = cluster.run(0, &["recover", "--dry-run"]).unwrap();
        assert!(said.contains("no balance would change"), "{said}");
        assert!(said.contains("no decided operation is lost"), "{said}");
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
