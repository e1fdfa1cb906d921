//! Charges that calls owe when their gateway stops: Redis could not decide them, or its answer was
//! lost.

use crate::cluster::serves_again;
use crate::servers::{CutProxy, Flow};
use crate::test_ledger::{TestLedger, account, credits, eventually, on_cluster_ledgers, text};

on_cluster_ledgers!("multi_thread":
    what_calls_owe_when_their_gateway_stops_without_redis_is_charged,
    what_redis_charged_though_its_gateway_never_heard_is_charged_once,
    what_calls_owe_when_redis_has_no_room_is_charged_after_a_stop,
    what_calls_owe_and_cannot_be_charged_stops_no_recovery,
    what_an_earlier_version_left_uncharged_is_charged_later,
);

/// Redis is lost before the calls end, and their gateway is told to stop before Redis is back.
async fn what_calls_owe_when_their_gateway_stops_without_redis_is_charged(mut fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let (part, whole) = (ledger.call("4").await.unwrap(), ledger.call("2").await.unwrap());
    let back = ledger.call("1").await.unwrap();
    ledger.reconciles().await;
    fixture.cluster_mut().redis.kill();
    part.capture(credits("3"));
    whole.capture(credits("2"));
    back.release();
    ledger.stop().await;
    fixture.cluster_mut().redis.restart();
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
    let owed = "SELECT 1 / (count(*) = 0)::int FROM owed";
    fixture.execute(owed).await.unwrap();
}

/// This Redis answers, and decides nothing.
async fn what_calls_owe_when_redis_has_no_room_is_charged_after_a_stop(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call = ledger.call("4").await.unwrap();
    ledger.reconciles().await;
    let redis = &fixture.cluster().redis;
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    call.capture(credits("3"));
    ledger.stop().await;
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

const OWED: &str = "INSERT INTO owed (shard, operation, hold, account, amount, route) \
     VALUES (0, 'capture:late', 'late', 'alice', 2000000, '/x')";

async fn what_calls_owe_and_cannot_be_charged_stops_no_recovery(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.reconciles().await;
    fixture.execute(OWED).await.unwrap();
    // Postgres can write no entry of this capture.
    let broken = "ALTER TABLE operations ADD CHECK (id <> 'capture:late')";
    fixture.execute(broken).await.unwrap();
    fixture.cluster().redis.flush_all();
    serves_again(&ledger).await;
    assert_eq!(ledger.has("alice").await.0, "10");
    ledger.reconciles().await;
    ledger.stop().await;
    fixture.execute("SELECT 1 / count(*) FROM owed WHERE set_aside").await.unwrap();
}

/// This gateway led the recovery, and did not know the table.
async fn what_an_earlier_version_left_uncharged_is_charged_later(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.reconciles().await;
    fixture.execute(OWED).await.unwrap();
    let next = fixture.open_another("next").await;
    eventually("it is charged", async || {
        let balance = ledger.balance(&account("alice")).await.ok().flatten();
        balance.is_some_and(|balance| balance.balance.to_string() == "8")
    })
    .await;
    serves_again(&next).await;
    serves_again(&ledger).await;
    ledger.reconciles().await;
    ledger.stop().await;
    next.stop().await;
}

/// The answer is lost, and so is the gateway's connection to Redis. The gateway hands over a charge that is in the
/// stream already.
async fn what_redis_charged_though_its_gateway_never_heard_is_charged_once(
    mut fixture: TestLedger,
) {
    let line = CutProxy::before(fixture.cluster().redis.address()).await;
    fixture.cluster_mut().redis_url = Some(format!("redis://{}", line.address()));
    let ledger = fixture.open_with("10").await;
    let call = ledger.call("4").await.unwrap();
    ledger.reconciles().await;
    line.set(Flow::Open, Flow::Lost);
    call.capture(credits("3"));
    let redis = &fixture.cluster().redis;
    let stream = || redis.ask(&["XREVRANGE", "{s00}:out", "+", "-", "COUNT", "1"]);
    eventually("it is in the stream", async || stream().contains("c0 ")).await;
    line.part();
    ledger.stop().await;
    line.mend();
    line.set(Flow::Open, Flow::Open);
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}
