//! Metered calls on the cluster ledger: what Redis, a gateway or a stop loses, and a ledger that is moved.

use farebox::ledger::{Backend as _, Origin, Overrun, Refusal};

use crate::cluster::serves_again;
use crate::metered::{extend, last, record, settlement};
use crate::test_ledger::{
    HOUR_MS, Kind, TestLedger, credits, eventually, hold_of, on_cluster_ledgers, text,
};
use crate::without_postgres::with_a_line;

on_cluster_ledgers!("multi_thread":
    an_extension_survives_the_loss_of_redis,
    an_overrun_survives_the_loss_of_redis,
    a_crashed_gateways_extended_hold_is_given_back_whole,
    a_metered_ledger_is_moved_with_what_its_calls_used,
    what_a_metered_call_owes_at_a_stop_without_redis_is_charged_with_its_usage,
);

/// Either Postgres had the extension, or only Redis and the gateway.
async fn an_extension_survives_the_loss_of_redis(fixture: TestLedger) {
    let kind = fixture.kind;
    drop(fixture);
    for is_synced in [true, false] {
        let (fixture, line) = with_a_line(kind).await;
        let ledger = fixture.open_with("10").await;
        let mut hold = ledger.call("2").await.unwrap();
        ledger.reconciles().await;
        if is_synced || kind == Kind::ClusterStrict {
            hold.extend(credits("5")).await.unwrap();
            ledger.reconciles().await;
        } else {
            line.part();
            hold.extend(credits("5")).await.unwrap();
        }
        fixture.cluster().redis.flush_all();
        line.mend();
        serves_again(&ledger).await;
        eventually("nothing else is held", async || ledger.has("alice").await == text(("10", "7")))
            .await;
        assert!(matches!(ledger.call("3.5").await, Err(Refusal::Insufficient { .. })));
        hold.settle(settlement("7", Overrun::Cap, Some(record("7", Some("m"), 5))));
        assert_eq!(ledger.has("alice").await, text(("3", "0")));
        let entries = ledger.entries("alice").await;
        assert_eq!(last(&entries).usage.as_deref(), Some(&record("7", Some("m"), 5)));
        ledger.reconciles().await;
        ledger.stop().await;
    }
}

async fn a_crashed_gateways_extended_hold_is_given_back_whole(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let mut crashed = fixture.gateway("crashed").await.unwrap();
    crashed.apply(&[hold_of(Origin::Call, "lost", "4", HOUR_MS)]).await;
    crashed.apply(&[extend("lost", "alice", "6")]).await;
    drop(crashed);
    assert_eq!(ledger.has("alice").await, text(("10", "6")));
    eventually("its hold expired", async || ledger.has("alice").await.1 == "0").await;
    eventually("it is listed", async || !crate::cut_off::listed(ledger.read()).await.is_empty())
        .await;
    assert_eq!(crate::cut_off::listed(ledger.read()).await[0].1, "6");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn what_a_metered_call_owes_at_a_stop_without_redis_is_charged_with_its_usage(
    mut fixture: TestLedger,
) {
    let ledger = fixture.open_with("10").await;
    let mut hold = ledger.call("4").await.unwrap();
    hold.extend(credits("1")).await.unwrap();
    ledger.reconciles().await;
    fixture.cluster_mut().redis.kill();
    hold.settle(settlement("6", Overrun::Debt, Some(record("5", Some("a\nb"), 3))));
    ledger.stop().await;
    fixture.cluster_mut().redis.restart();
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("4", "0")));
    let entries = ledger.entries("alice").await;
    assert_eq!(last(&entries).usage.as_deref(), Some(&record("5", Some("a\nb"), 3)));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// In `relaxed` only the gateway remembers it.
async fn an_overrun_survives_the_loss_of_redis(fixture: TestLedger) {
    let kind = fixture.kind;
    drop(fixture);
    let (fixture, line) = with_a_line(kind).await;
    let ledger = fixture.open_with("10").await;
    let mut hold = ledger.call("2").await.unwrap();
    hold.extend(credits("1")).await.unwrap();
    ledger.reconciles().await;
    if kind == Kind::ClusterRelaxed {
        line.part();
    }
    hold.settle(settlement("4", Overrun::Debt, Some(record("3", Some("a b"), 5))));
    eventually("it is charged", async || ledger.has("alice").await == text(("6", "0"))).await;
    fixture.cluster().redis.flush_all();
    line.mend();
    serves_again(&ledger).await;
    eventually("nothing else is held", async || ledger.has("alice").await == text(("6", "0")))
        .await;
    let entries = ledger.entries("alice").await;
    assert_eq!(last(&entries).usage.as_deref(), Some(&record("3", Some("a b"), 5)));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_metered_ledger_is_moved_with_what_its_calls_used(fixture: TestLedger) {
    let from = TestLedger::new(Kind::EmbeddedStrict);
    let ledger = from.open_with("10").await;
    ledger.call("1").await.unwrap().capture(credits("1"));
    for model in [Some("gpt-5 \"\\\n"), None] {
        let used = Some(record("2", model, 5));
        let hold = ledger.call("2").await.unwrap();
        hold.settle(settlement("3", Overrun::Debt, used));
    }
    let before = ledger.entries("alice").await;
    assert_eq!(before.iter().filter(|entry| entry.usage.is_some()).count(), 2);
    ledger.stop().await;
    farebox::store::import(&fixture.config("import"), &from.path()).await.unwrap();
    let ledger = fixture.open().await;
    assert_eq!(ledger.entries("alice").await, before);
    ledger.reconciles().await;
    ledger.stop().await;
}
