//! One of several gateways, the syncer, writes into Postgres what Redis decided. The others only read how far it has
//! come.

use std::time::{Duration, Instant};

use farebox::ledger::{Backend as _, HoldId, Operation, Origin, Outcome};
use farebox::store::ClusterLedger;

use crate::test_ledger::{
    HOUR_MS, TestLedger, call_capture, eventually, grant, hold_of, on_cluster_ledgers,
};

on_cluster_ledgers!("multi_thread":
    one_gateway_reads_the_stream_and_looks_for_holds_whose_time_is_up,
    another_gateway_takes_the_place_of_a_syncer_that_died,
    a_gateway_that_stops_leaves_the_place_of_the_syncer_free,
);

/// The name of the gateway that is the syncer; empty if none is.
async fn syncer(fixture: &TestLedger) -> String {
    let name = "SELECT coalesce((SELECT g.id FROM gateways g JOIN syncers s \
                ON s.syncer = g.incarnation AND s.until > clock_timestamp()), '')";
    sqlx::query_scalar(name).fetch_one(&mut fixture.cluster().sql().await).await.unwrap()
}

/// The number of commands of this kind that Redis has executed.
fn executed(fixture: &TestLedger, command: &str) -> u64 {
    let stats = fixture.cluster().redis.ask(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| {
        line.trim().strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next()
    });
    line.map_or(0, |calls| calls.parse().unwrap())
}

/// One call of alice's, from its hold to its end. Its id is new, so that Postgres need not be asked about it.
async fn call(gateway: &mut ClusterLedger) {
    let id = HoldId::for_call();
    let held = gateway.apply(&[hold_of(Origin::Call, id.as_str(), "1", HOUR_MS)]).await;
    assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    let charged = gateway.apply(&[call_capture(id.as_str(), "1")]).await;
    assert!(matches!(charged[..], [Outcome::Captured { late: false, .. }]), "{charged:?}");
}

async fn charges(fixture: &TestLedger) -> i64 {
    let charges = "SELECT count(*) FROM entries WHERE kind = 'capture'";
    sqlx::query_scalar(charges).fetch_one(&mut fixture.cluster().sql().await).await.unwrap()
}

/// Gateways with these names, and a grant for alice.
async fn gateways<const N: usize>(fixture: &TestLedger, names: [&str; N]) -> Vec<ClusterLedger> {
    let mut gateways = Vec::new();
    for name in names {
        gateways.push(fixture.gateway(name).await.unwrap());
    }
    gateways[0].apply(&[Operation::Post(grant("g", "alice", "1000"))]).await;
    gateways
}

async fn one_gateway_reads_the_stream_and_looks_for_holds_whose_time_is_up(fixture: TestLedger) {
    const NAMES: [&str; 4] = ["one", "two", "three", "four"];
    let mut gateways = gateways(&fixture, NAMES).await;
    assert_eq!(syncer(&fixture).await, "one");
    // Each of them warms alice, or finds her warm.
    for gateway in &mut gateways {
        call(gateway).await;
    }
    let before = (executed(&fixture, "xrange"), executed(&fixture, "hscan"));
    let (began, mut calls, mut ticked) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(4) {
        let next = gateways.len();
        call(&mut gateways[calls % next]).await;
        calls += 1;
        if began.elapsed() > Duration::from_millis(500 * ticked) {
            for gateway in &mut gateways {
                gateway.tick(&|_| false).await;
            }
            ticked += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    let now = (executed(&fixture, "xrange"), executed(&fixture, "hscan"));
    let (reads, looks) = (now.0 - before.0, now.1 - before.1);
    // One gateway comes every 25 ms, in `strict` every 50. Each gateway looks at the first sweep.
    let most_reads = u64::try_from(took.as_millis()).unwrap() / 25 + 20;
    assert!(reads <= most_reads, "{reads} reads of the stream in {took:?}");
    assert!(looks < ticked + 8, "{looks} looks in {ticked} rounds of sweeps");
    eventually("all of it is in Postgres", async || {
        charges(&fixture).await == i64::try_from(calls + NAMES.len()).unwrap()
    })
    .await;
    for gateway in &mut gateways {
        assert!(gateway.close().await);
    }
}

async fn another_gateway_takes_the_place_of_a_syncer_that_died(fixture: TestLedger) {
    let mut gateways = gateways(&fixture, ["one", "two"]).await;
    assert_eq!(syncer(&fixture).await, "one");
    drop(gateways.remove(0));
    let two = &mut gateways[0];
    call(two).await;
    let ended = Instant::now();
    eventually("somebody writes it", async || charges(&fixture).await == 1).await;
    eprintln!("written {:?} after the call", ended.elapsed());
    eventually("the other one is the syncer", async || syncer(&fixture).await == "two").await;
    assert!(two.close().await);
}

async fn a_gateway_that_stops_leaves_the_place_of_the_syncer_free(fixture: TestLedger) {
    let mut gateways = gateways(&fixture, ["one", "two"]).await;
    assert_eq!(syncer(&fixture).await, "one");
    assert!(gateways[0].close().await);
    let stopped = Instant::now();
    eventually("the other one is the syncer", async || syncer(&fixture).await == "two").await;
    // Well before the place would have run out by itself.
    assert!(stopped.elapsed() < Duration::from_millis(2500), "{:?}", stopped.elapsed());
    assert!(gateways[1].close().await);
}
