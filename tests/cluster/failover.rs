//! Postgres fails over to an asynchronous replica that lacks the last seconds, or comes back without the last seconds
//! and without any sign of that. No charge is lost, and every grant that is lost is noticed.

use std::time::Duration;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, ROUTE, in_both_modes};
use crate::import::deliver;
use crate::support::eventually;
use crate::support::http::Answer;
use crate::support::packs::TWO_PACKS;
use crate::support::servers::{CutProxy, Postgres};
use crate::support::stripe::Stripe;
use crate::support::token;

in_both_modes!(
    a_replica_that_lacks_the_last_seconds_takes_over_and_no_charge_is_lost,
    a_replica_that_lacks_the_beginning_of_the_epoch_takes_over_and_no_charge_is_lost,
    another_change_under_the_number_of_a_lost_one_brings_the_account_anew,
    purchases_that_a_failover_lost_come_back_from_stripe,
);

/// How far the stream is written in Postgres.
const CHECKPOINT: &str = "SELECT epoch, checkpoint FROM farebox.shards";

/// The answer to [`CHECKPOINT`]: the epoch, and its newest batch in Postgres.
fn written(row: &str) -> (i64, i64) {
    let (epoch, checkpoint) = row.split_once('|').unwrap();
    (epoch.parse().unwrap(), checkpoint.parse().unwrap())
}

/// A standby, and the line over which it follows.
pub struct Standby {
    postgres: Postgres,
    line: CutProxy,
}

impl Standby {
    /// Starts a standby, and waits until it has all that the primary has now.
    pub async fn of(cluster: &Cluster) -> Self {
        let now = written(&cluster.sql(CHECKPOINT));
        let line = CutProxy::before(cluster.postgres.address()).await;
        let postgres = cluster.postgres.replica_through(line.address());
        let standby = Self { postgres, line };
        let follows = async || written(&standby.sql(cluster, CHECKPOINT)) >= now;
        assert!(eventually(follows).await, "the replica does not follow");
        standby
    }

    fn sql(&self, cluster: &Cluster, sql: &str) -> String {
        self.postgres.sql(&cluster.database, sql)
    }

    /// Cuts this standby off: from now on it hears of no change.
    pub fn falls_behind(&self) {
        self.line.swallow();
    }

    /// Kills the primary, and lets this standby take over.
    pub fn take_over(self, cluster: &mut Cluster) {
        cluster.postgres.kill();
        self.postgres.promote();
        for member in &cluster.members {
            member.to_postgres.lead_to(self.postgres.address());
        }
        cluster.postgres = self.postgres;
    }
}

async fn a_replica_that_lacks_the_last_seconds_takes_over_and_no_charge_is_lost(
    durability: Durability,
) {
    lose_the_last_seconds(durability, false).await;
}

/// Redis lost its scripts after the replica fell behind. So the charges are in two epochs, and the promoted Postgres
/// knows only the first.
async fn a_replica_that_lacks_the_beginning_of_the_epoch_takes_over_and_no_charge_is_lost(
    durability: Durability,
) {
    lose_the_last_seconds(durability, true).await;
}

async fn lose_the_last_seconds(durability: Durability, ends_an_epoch: bool) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let mut calls = load.stop().await;
    cluster.check(&calls).await;
    let standby = Standby::of(&cluster).await;
    standby.falls_behind();
    let behind = standby.sql(&cluster, CHECKPOINT);

    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    if ends_an_epoch {
        let before = cluster.recoveries().await;
        cluster.redis.script_flush();
        assert!(eventually(async || cluster.recoveries().await > before).await);
        load.serves_within(BACK_WITHIN).await;
    }
    cluster.some_time(500, 1500).await;
    calls.extend(load.stop().await);
    // Everything is in the primary, and Redis knows it.
    cluster.check(&calls).await;
    assert_eq!(standby.sql(&cluster, CHECKPOINT), behind, "the replica is not behind");
    assert_ne!(cluster.sql(CHECKPOINT), behind);

    standby.take_over(&mut cluster);
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    calls.extend(load.stop().await);
    cluster.check(&calls).await;
}

/// The disk is restored, for example: the server, its timeline and its gateways are as before.
async fn another_change_under_the_number_of_a_lost_one_brings_the_account_anew(
    durability: Durability,
) {
    for lost in [1, 2] {
        let mut cluster = Cluster::start(durability, 2).await;
        cluster.gateway(0).post("alice", ROUTE).await.expect(200);
        cluster.gateway(0).assert_reconciled().await;
        let columns = "balance, seq, grant_seq, digest";
        let before =
            cluster.sql(&format!("SELECT {columns} FROM farebox.accounts WHERE id = 'alice'"));
        let before: Vec<_> = before.split('|').map(str::to_owned).collect();
        let [balance, seq, grant_seq, digest] = &before[..] else { panic!("{before:?}") };
        for n in 0..lost {
            let answer = cluster.gateway(0).grant("alice", 70, &format!("gift-{n}")).await;
            assert!(answer["balance_after"].is_number(), "{answer}");
        }
        let heard = async || cluster.sql("SELECT count(*) FROM farebox.deliveries") == "0";
        assert!(eventually(heard).await);
        cluster.sql(&format!(
            "SET session_replication_role = replica; \
             DELETE FROM farebox.entries WHERE account = 'alice' AND seq > {seq}; \
             DELETE FROM farebox.operations WHERE account = 'alice' AND seq > {seq}; \
             UPDATE farebox.accounts SET balance = {balance}, seq = {seq}, grant_seq = {grant_seq}, \
             digest = '{digest}' WHERE id = 'alice'"
        ));
        cluster.grant("alice", 30, "gift-after").await;
        let amount = format!("account=\"alice\" amount=\"{}\"", 70 * lost);
        let tells = |gateway: usize| {
            let logged = cluster.gateway(gateway).stderr();
            logged.lines().any(|line| line.contains(" ERROR ") && line.contains(&amount))
        };
        assert!(eventually(async || tells(0) || tells(1)).await, "{}", cluster.gateway(0).stderr());
        for gateway in [0, 1] {
            cluster.gateway(gateway).post("alice", ROUTE).await.expect(200);
        }
        // Redis has what Postgres has, and knows of nothing else.
        cluster.check(&[]).await;
    }
}

async fn purchases_that_a_failover_lost_come_back_from_stripe(durability: Durability) {
    let stripe = Stripe::start().await;
    let sections = [TWO_PACKS, &stripe.section("")].concat();
    let mut cluster = Cluster::of(&Plan { sections, ..Plan::new(durability, 2) }).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    cluster.gateway(0).assert_reconciled().await;
    let standby = Standby::of(&cluster).await;
    standby.falls_behind();

    let gateway = cluster.gateway(0);
    let request = gateway.client.post(gateway.url("/credits/buy")).bearer_auth(token("alice"));
    let bought = Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await.expect(200);
    deliver(gateway, &stripe.pay(bought["session_id"].as_str().unwrap())).await;
    let has_paid = async || {
        let lines = cluster.gateway(1).transactions("alice").await;
        lines.iter().any(|line| line["amount"] == 500)
    };
    assert!(eventually(has_paid).await);
    *cluster.granted.get_mut("alice").unwrap() += 500;

    standby.take_over(&mut cluster);
    // Stripe had its 200, so it sends nothing again, and nobody types a command.
    let limit = std::time::Instant::now() + Duration::from_secs(40);
    let comes_back = async || {
        let account =
            cluster.gateway(1).admin(http::Method::GET, "/admin/accounts/alice", "").await;
        account.status == 200
            && {
                let sql = "SELECT count(*) FROM farebox.operations WHERE account = 'alice' AND amount = 500000000";
                cluster.sql(sql) == "1"
            }
    };
    while !comes_back().await {
        assert!(std::time::Instant::now() < limit, "{}", cluster.gateway(0).stderr());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for gateway in [0, 1] {
        let served = async || cluster.gateway(gateway).post("alice", ROUTE).await.status == 200;
        assert!(eventually(served).await);
    }
    cluster.check(&[]).await;
}
