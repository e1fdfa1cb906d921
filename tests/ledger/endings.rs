//! How long Redis remembers how a hold ended: over one turn of its two hashes. Then Postgres is asked.

use farebox::ledger::{
    Backend as _, CrashOutcome, HoldId, Operation, Origin, Outcome, Reader as _,
};
use farebox::store::ClusterLedger;

use crate::test_ledger::{
    HOUR_MS, TestLedger, api_capture, api_hold, api_release, call_capture, call_release, ended,
    grant, hold_of, on_cluster_ledgers,
};

on_cluster_ledgers!("multi_thread":
    how_a_hold_ended_is_known_in_redis_over_one_turn_and_from_postgres_after_two,
    a_clock_that_went_back_forgets_nothing,
    the_calls_of_a_gateway_that_is_gone_are_listed_and_a_late_capture_corrects_it,
);

const META: &str = "{s00}:meta";

/// Five holds that end in every way there is.
const ENDED: [&str; 5] = ["charged", "released", "job", "job-2", "lost"];

/// Which of the two hashes is the newer one.
fn newer(fixture: &TestLedger) -> usize {
    usize::from(fixture.cluster().redis.ask(&["HGET", META, "ended"]) == "1")
}

/// Whether the newer hash has an id, and whether the older one has.
fn known(fixture: &TestLedger, id: &str) -> (bool, bool) {
    let redis = &fixture.cluster().redis;
    let has = |which: usize| {
        let key = redis.ask(&["KEYS", &format!("{{s00}}:*:ended:{which}")]);
        !key.is_empty() && redis.ask(&["HEXISTS", &key, id]) == "1"
    };
    (has(newer(fixture)), has(1 - newer(fixture)))
}

/// Sets the time at which the newer hash was begun, and changes the ledger. Returns whether that began another hash.
async fn turns(
    fixture: &TestLedger,
    ledger: &mut ClusterLedger,
    since_ms: &str,
    mover: &str,
) -> bool {
    fixture.cluster().redis.ask(&["HSET", META, "since", since_ms]);
    let before = newer(fixture);
    let moved = ledger.apply(&[api_hold(mover, "1"), api_release(mover)]).await;
    assert!(matches!(moved[..], [Outcome::Held { .. }, Outcome::Released { .. }]), "{moved:?}");
    newer(fixture) != before
}

/// Repeats the operations that ended the holds. The answers are the same, and nothing happens.
async fn asked_again(ledger: &mut ClusterLedger) {
    let holds = ENDED.map(|id| {
        let origin = if id.starts_with("job") { Origin::Api } else { Origin::Call };
        hold_of(origin, id, "3", HOUR_MS)
    });
    let again = ledger.apply(&holds).await;
    assert!(again.iter().all(|outcome| *outcome == ended()), "{again:?}");
    let again = ledger.apply(&[call_capture("charged", "2"), api_capture("job", "3")]).await;
    assert!(again.iter().all(|o| matches!(o, Outcome::Captured { late: false, .. })), "{again:?}");
    let again = ledger.apply(&[call_release("released"), api_release("job-2")]).await;
    assert!(again.iter().all(|o| matches!(o, Outcome::Released { .. })), "{again:?}");
}

async fn how_a_hold_ended_is_known_in_redis_over_one_turn_and_from_postgres_after_two(
    fixture: TestLedger,
) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "20"))]).await;
    // The first batch of an epoch begins the first hash.
    turns(&fixture, &mut ledger, "1", "first").await;
    let began = [
        hold_of(Origin::Call, "charged", "3", HOUR_MS),
        hold_of(Origin::Call, "released", "3", HOUR_MS),
        api_hold("job", "3"),
        api_hold("job-2", "3"),
        hold_of(Origin::Call, "lost", "3", 0),
        call_capture("charged", "2"),
        call_release("released"),
        api_capture("job", "3"),
        api_release("job-2"),
    ];
    let outcomes = ledger.apply(&began).await;
    assert!(outcomes.iter().all(|o| !matches!(o, Outcome::Refused(_))), "{outcomes:?}");
    assert_eq!(ledger.tick(&|_| false).await.len(), 1, "the call that nobody ends is lost");
    for (turn, expected) in [(None, (true, false)), (Some("one"), (false, true))] {
        if let Some(turn) = turn {
            assert!(turns(&fixture, &mut ledger, "1", turn).await);
        }
        for _ in 0..2 {
            assert_eq!(ENDED.map(|id| known(&fixture, id)), [expected; 5]);
            asked_again(&mut ledger).await;
        }
    }
    assert!(turns(&fixture, &mut ledger, "1", "two").await);
    assert_eq!(ENDED.map(|id| known(&fixture, id)), [(false, false); 5]);
    asked_again(&mut ledger).await;
    assert_eq!(ENDED.map(|id| known(&fixture, id)), [(true, false); 5], "as Postgres knows it");
    // Forgotten again: a late capture counts, once.
    for turn in ["three", "four"] {
        assert!(turns(&fixture, &mut ledger, "1", turn).await);
    }
    let late = ledger.apply(&[call_capture("lost", "3"), call_capture("lost", "3")]).await;
    assert!(matches!(late[0], Outcome::Captured { late: true, .. }), "{late:?}");
    assert!(matches!(late[1], Outcome::Captured { late: false, .. }), "{late:?}");
    assert!(ledger.close().await);
    let report = ledger.reader().reconcile().await.unwrap();
    assert!(report.is_clean() && report.live_holds == 0, "{report:?}");
    let view = ledger.reader().account(&"alice".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(view.balance.balance.to_string(), "12");
}

async fn a_clock_that_went_back_forgets_nothing(fixture: TestLedger) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "20"))]).await;
    assert!(turns(&fixture, &mut ledger, "1", "first").await);
    assert!(!turns(&fixture, &mut ledger, "9999999999999", "second").await);
    assert_eq!(known(&fixture, "second"), (true, false));
    let since: u64 = fixture.cluster().redis.ask(&["HGET", META, "since"]).parse().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    assert!(u128::from(since) <= now, "it counts from now on");
    assert!(ledger.close().await);
}

async fn the_calls_of_a_gateway_that_is_gone_are_listed_and_a_late_capture_corrects_it(
    fixture: TestLedger,
) {
    let mut gateway = fixture.gateway("gateway").await.unwrap();
    gateway.apply(&[Operation::Post(grant("g", "alice", "20"))]).await;
    let ids = [HoldId::for_call(), HoldId::for_call()];
    for id in &ids {
        gateway.apply(&[hold_of(Origin::Call, id.as_str(), "5", HOUR_MS)]).await;
    }
    assert_eq!(gateway.apply(&[Operation::Audit]).await, [Outcome::Audited(vec![])]);
    drop(gateway);
    // The next start of the same gateway ends them.
    let mut gateway = fixture.gateway("gateway").await.unwrap();
    assert_eq!(gateway.tick(&|_| false).await.len(), 2);
    gateway.apply(&[call_capture(ids[0].as_str(), "5")]).await;
    assert_eq!(gateway.apply(&[Operation::Audit]).await, [Outcome::Audited(vec![])]);
    let mut listed = crate::cut_off::listed(&gateway.reader()).await;
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [CrashOutcome::Corrected, CrashOutcome::Released];
    let expected = ids.iter().zip(expected).map(|(id, o)| (id.to_string(), "5".to_owned(), o));
    assert_eq!(listed, expected.collect::<Vec<_>>());
    assert!(gateway.close().await);
}
