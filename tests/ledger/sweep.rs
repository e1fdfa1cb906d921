//! The time of many holds runs out together. One sweep looks at only a part of them.

use std::collections::HashSet;

use farebox::ledger::{Backend as _, HoldId, NewHold, Operation, Origin, Outcome, Reader as _};
use farebox::store::ClusterLedger;

use crate::test_ledger::{
    HOUR_MS, TestLedger, account, api_capture, call_capture, credits, grant, hold_id, hold_of,
    on_cluster_ledgers,
};

on_cluster_ledgers!("multi_thread":
    holds_of_many_slices_expire_once_each_and_calls_are_served_in_between,
    the_hold_of_a_call_is_ended_by_no_other_gateway_whatever_redis_s_clock_says,
);

const ACCOUNTS: [&str; 3] = ["alice", "bob", "carol"];

/// The number of holds that are due. One sweep looks at two thousand holds, and ends five hundred.
const DUE: usize = 4500;

/// The number of holds whose time is not up. They alone are more than one slice.
const LIVE: usize = 4500;

/// The most sweeps that may be needed. Further ones would find no hold.
const MOST_SWEEPS: usize = 200;

fn hold(id: &str, n: usize, ttl_ms: u64) -> Operation {
    Operation::Hold(NewHold {
        id: hold_id(id),
        account: account(ACCOUNTS[n % ACCOUNTS.len()]),
        amount: credits("1"),
        route: "/jobs".into(),
        origin: Origin::Api,
        ttl_ms,
        claim: None,
    })
}

/// A call of alice's, from its hold to its end.
async fn call(ledger: &mut ClusterLedger) {
    let id = HoldId::for_call();
    let held = ledger.apply(&[hold_of(Origin::Call, id.as_str(), "2", HOUR_MS)]).await;
    assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    let charged = ledger.apply(&[call_capture(id.as_str(), "1")]).await;
    assert!(matches!(charged[..], [Outcome::Captured { late: false, .. }]), "{charged:?}");
}

async fn holds_of_many_slices_expire_once_each_and_calls_are_served_in_between(
    fixture: TestLedger,
) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    for who in ACCOUNTS {
        ledger.apply(&[Operation::Post(grant(&format!("g-{who}"), who, "10000"))]).await;
    }
    let due = (0..DUE).map(|n| hold(&format!("due-{n}"), n, 0));
    let live = (0..LIVE).map(|n| hold(&format!("live-{n}"), n, HOUR_MS));
    let holds: Vec<_> = due.chain(live).collect();
    for some in holds.chunks(1000) {
        let outcomes = ledger.apply(some).await;
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Held { .. })), "{outcomes:?}");
    }

    let (mut expired, mut captured) = (HashSet::new(), HashSet::new());
    let (mut sweeps, mut slices) = (0, 0);
    while expired.len() + captured.len() < DUE {
        let ended = ledger.tick(&|_| false).await;
        slices += usize::from(!ended.is_empty());
        for hold in ended {
            assert!(hold.hold.as_str().starts_with("due-"), "{hold:?}");
            assert!(expired.insert(hold.hold.as_str().to_owned()), "{hold:?} expired twice");
        }
        call(&mut ledger).await;
        // A hold that is due is captured before its turn comes.
        let next = (0..DUE).map(|n| format!("due-{n}"));
        if let Some(id) =
            next.into_iter().find(|id| !expired.contains(id) && !captured.contains(id))
        {
            let outcome = ledger.apply(&[api_capture(&id, "1")]).await;
            assert!(matches!(outcome[..], [Outcome::Captured { late: false, .. }]), "{outcome:?}");
            captured.insert(id);
        }
        sweeps += 1;
        assert!(sweeps < MOST_SWEEPS, "{} of {DUE} expired", expired.len());
    }
    assert!(slices > 2, "{slices}");
    assert!(expired.is_disjoint(&captured));
    // Another round finds nothing.
    for _ in 0..20 {
        assert!(ledger.tick(&|_| false).await.is_empty());
    }

    assert_eq!(ledger.apply(&[Operation::Audit]).await, [Outcome::Audited(vec![])]);
    let report = ledger.reader().reconcile().await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.live_holds, LIVE as u64);
    let count = async |sql: &str| -> i64 {
        let mut on = fixture.cluster().sql().await;
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut on).await.unwrap()
    };
    let ended = count("SELECT count(*) FROM holds WHERE state = 'expired'").await;
    assert_eq!(ended, expired.len() as i64);
    let entries = count("SELECT count(*) FROM entries").await;
    assert_eq!(entries as usize, ACCOUNTS.len() + captured.len() + sweeps);
    assert!(ledger.close().await);
}

/// Redis acts as if it had stood still for three minutes, or its clock had been set ahead, while the call went on.
async fn the_hold_of_a_call_is_ended_by_no_other_gateway_whatever_redis_s_clock_says(
    fixture: TestLedger,
) {
    let mut owner = fixture.gateway("owner").await.unwrap();
    let mut other = fixture.gateway("other").await.unwrap();
    owner.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    let id = HoldId::for_call();
    let held = owner.apply(&[hold_of(Origin::Call, id.as_str(), "10", HOUR_MS)]).await;
    assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    let redis = &fixture.cluster().redis;
    let key = redis.ask(&["KEYS", "{s00}:*:live"]);
    let deadline = || -> i64 { redis.ask(&["HGET", &key, id.as_str()])[..13].parse().unwrap() };
    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let record = redis.ask(&["HGET", &key, id.as_str()]);
    let overdue = format!("{}{}", now_ms - 180_000, &record[13..]);
    redis.ask(&["HSET", &key, id.as_str(), &overdue]);
    for _ in 0..5 {
        assert!(other.tick(&|_| false).await.is_empty(), "another gateway ends it");
    }
    assert!(owner.tick(&|_| true).await.is_empty());
    assert!(deadline() > now_ms, "its own gateway renews it");
    let captured = owner.apply(&[call_capture(id.as_str(), "10")]).await;
    assert!(matches!(captured[..], [Outcome::Captured { late: false, .. }]), "{captured:?}");
    assert!(other.close().await && owner.close().await);
}
