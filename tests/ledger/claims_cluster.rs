//! Claims on the cluster ledger: several gateways get one key at once, and Redis, a gateway or both lose what they
//! have.

use std::time::Duration;

use farebox::ledger::{
    Backend as _, Claim, ClaimId, ClaimState, Claimed, HeldOrClaimed, HoldId, NewHold, Operation,
    Outcome, Refusal, Stage,
};

use crate::claiming::{KEEP_MS, ask, capture_of, claim_id, held, hold_with, key, mark};
use crate::cluster::serves_again;
use crate::payments::{disputed, paid, take};
use crate::test_ledger::{
    Kind, Running, TestLedger, account, credits, eventually, grant, hold_id, on_cluster_ledgers,
    text,
};
use crate::without_postgres::with_a_line;

on_cluster_ledgers!("multi_thread":
    gateways_that_get_a_key_at_once_let_one_call_through,
    a_charged_key_stays_the_first_calls_when_redis_is_emptied,
    a_running_call_keeps_its_key_when_redis_is_emptied,
    a_key_is_marked_after_redis_was_emptied,
    a_key_of_a_killed_gateway_is_charged_or_runs_anew,
    a_key_survives_the_loss_of_redis_and_its_gateway,
    a_late_charge_keeps_its_key,
    a_key_is_charged_though_redis_is_away_when_its_gateway_stops,
    a_retry_hears_of_a_call_that_was_left_once_whatever_redis_loses,
    many_retries_after_a_recovery_are_all_answered,
    a_key_whose_time_is_up_leaves_redis_and_postgres,
    a_frozen_account_hears_its_refusal_and_not_of_the_claim,
    a_call_without_a_key_leaves_no_trace_of_claims,
);

/// The state of the call that has a claim; `None` if the claim was free. In that case this takes the claim and gives
/// it up again.
pub async fn stands(ledger: &Running, claim: Claim) -> Option<ClaimState> {
    let mut state = None;
    eventually("the ledger decides", async || {
        match ask(ledger, claim).await {
            Ok(HeldOrClaimed::Held(hold)) => hold.release(),
            Ok(HeldOrClaimed::Claimed(claimed, _)) => state = Some(claimed.state),
            Err(Refusal::Unavailable) => return false,
            Err(refusal) => panic!("{refusal:?}"),
        }
        true
    })
    .await;
    state
}

pub async fn is_charged(ledger: &Running, what: &str, charged: &str, held: &str) {
    eventually(what, async || ledger.has("alice").await == text((charged, held))).await;
}

/// Waits until the gateway, which may not serve yet, has written everything, and both stores agree.
async fn is_clean(ledger: &Running) {
    eventually("the ledger agrees with itself", async || {
        ledger.reconcile().await.is_ok_and(|report| report.is_clean())
    })
    .await;
}

/// A call's hold that claims a key, for a bare backend.
fn keyed(id: &str, claim: Claim) -> Operation {
    hold_with(&hold_id(id), claim)
}

fn keyed_capture(hold: &str, claim: ClaimId) -> Operation {
    capture_of(&hold_id(hold), Some(claim))
}

fn claimed(hold: &str, state: ClaimState) -> Outcome {
    Outcome::Claimed(Claimed { hold: hold_id(hold), state })
}

async fn gateways_that_get_a_key_at_once_let_one_call_through(fixture: TestLedger) {
    let first = fixture.open_with("1000").await;
    let second = fixture.open_another("second").await;
    let mut charged = 0;
    for n in 0..100 {
        let all = [&first, &second, &first, &second].map(|ledger| ask(ledger, key(n)));
        let mut through = Vec::new();
        let mut heard: Vec<HoldId> = Vec::new();
        for asked in futures_util::future::join_all(all).await {
            match asked.unwrap() {
                HeldOrClaimed::Held(hold) => through.push(hold),
                HeldOrClaimed::Claimed(Claimed { hold, state }, _) => {
                    assert_eq!(state, ClaimState::Running);
                    heard.push(hold);
                }
            }
        }
        assert_eq!((through.len(), heard.len()), (1, 3), "round {n}");
        heard.dedup();
        assert_eq!(heard.len(), 1);
        let hold = through.pop().unwrap();
        if n % 2 == 0 {
            charged += 1;
            hold.capture(credits("1"));
        } else {
            hold.release();
        }
    }
    is_charged(&second, "all is settled", &(1000 - charged).to_string(), "0").await;
    for n in 0..100 {
        let ledger = if n % 3 == 0 { &first } else { &second };
        let expected = (n % 2 == 0).then_some(ClaimState::Charged);
        assert_eq!(stands(ledger, key(n)).await, expected, "key {n}");
    }
    first.reconciles().await;
    first.stop().await;
    second.stop().await;
}

/// Each key is looked up either before the recovery has loaded it, or after.
async fn a_charged_key_stays_the_first_calls_when_redis_is_emptied(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    for n in 0..30 {
        held(&ledger, key(n)).await.capture(credits("1"));
    }
    held(&ledger, key(30)).await.release();
    is_charged(&ledger, "all is settled", "70", "0").await;
    let other = Claim::Key { id: claim_id(5), mark: Some(mark(2)), keep_ms: KEEP_MS };
    for _ in 0..2 {
        fixture.cluster().redis.flush_all();
        for n in 0..30 {
            assert_eq!(stands(&ledger, key(n)).await, Some(ClaimState::Charged), "key {n}");
        }
        assert_eq!(stands(&ledger, other).await, Some(ClaimState::Conflict));
        assert_eq!(stands(&ledger, key(30)).await, None);
        let redis = &fixture.cluster().redis;
        eventually("every claim is in Redis", async || {
            redis.ask(&["HGET", "{s00}:meta", "claims"]) == "0"
        })
        .await;
        assert_eq!(stands(&ledger, key(31)).await, None);
        assert_eq!(stands(&ledger, key(7)).await, Some(ClaimState::Charged));
    }
    is_charged(&ledger, "nothing else is charged", "70", "0").await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// In `relaxed` only Redis and the gateway have the hold.
async fn a_running_call_keeps_its_key_when_redis_is_emptied(fixture: TestLedger) {
    let kind = fixture.kind;
    drop(fixture);
    let (fixture, line) = with_a_line(kind).await;
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(8)).await.release();
    ledger.reconciles().await;
    if kind == Kind::ClusterRelaxed {
        line.part();
    }
    let hold = held(&ledger, key(7)).await;
    fixture.cluster().redis.flush_all();
    line.mend();
    serves_again(&ledger).await;
    assert_eq!(stands(&ledger, key(7)).await, Some(ClaimState::Running));
    let other = Claim::Key { id: claim_id(7), mark: Some(mark(2)), keep_ms: KEEP_MS };
    assert_eq!(stands(&ledger, other).await, Some(ClaimState::Conflict));
    hold.capture(credits("1"));
    is_charged(&ledger, "it is charged", "9", "0").await;
    assert_eq!(stands(&ledger, key(7)).await, Some(ClaimState::Charged));
    fixture.cluster().redis.flush_all();
    assert_eq!(stands(&ledger, key(7)).await, Some(ClaimState::Charged));
    assert_eq!(stands(&ledger, key(8)).await, None);
    is_charged(&ledger, "nothing else is charged", "9", "0").await;
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_key_is_marked_after_redis_was_emptied(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let unmarked = Claim::Key { id: claim_id(7), mark: None, keep_ms: KEEP_MS };
    let hold = held(&ledger, unmarked).await;
    let other = Claim::Key { id: claim_id(7), mark: Some(mark(2)), keep_ms: KEEP_MS };
    assert_eq!(stands(&ledger, other).await, Some(ClaimState::Running));
    ledger.reconciles().await;
    fixture.cluster().redis.flush_all();
    eventually("it is marked", async || hold.mark_claim(mark(1)).await.is_ok()).await;
    for _ in 0..2 {
        assert_eq!(stands(&ledger, other).await, Some(ClaimState::Conflict));
        assert_eq!(stands(&ledger, key(7)).await, Some(ClaimState::Running));
        ledger.reconciles().await;
        fixture.cluster().redis.flush_all();
    }
    eventually("a second mark changes nothing", async || hold.mark_claim(mark(2)).await.is_ok())
        .await;
    assert_eq!(stands(&ledger, other).await, Some(ClaimState::Conflict));
    hold.capture(credits("1"));
    is_charged(&ledger, "it is charged", "9", "0").await;
    assert_eq!(stands(&ledger, other).await, Some(ClaimState::Conflict));
    ledger.stop().await;
}

async fn a_key_of_a_killed_gateway_is_charged_or_runs_anew(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let mut killed = fixture.gateway("killed").await.unwrap();
    let outcomes = killed
        .apply(&[
            keyed("charged", key(1)),
            keyed("runs", key(2)),
            keyed_capture("charged", claim_id(1)),
        ])
        .await;
    assert!(matches!(
        outcomes[..],
        [Outcome::Held { .. }, Outcome::Held { .. }, Outcome::Captured { .. }]
    ));
    drop(killed);
    assert_eq!(stands(&ledger, key(1)).await, Some(ClaimState::Charged));
    assert_eq!(stands(&ledger, key(2)).await, Some(ClaimState::Running));
    is_charged(&ledger, "the other hold expired", "9", "0").await;
    assert_eq!(stands(&ledger, key(1)).await, Some(ClaimState::Charged));
    let hold = held(&ledger, key(2)).await;
    assert_eq!(stands(&ledger, key(2)).await, Some(ClaimState::Running));
    hold.capture(credits("1"));
    is_charged(&ledger, "the call that ran anew is charged", "8", "0").await;
    assert_eq!(stands(&ledger, key(2)).await, Some(ClaimState::Charged));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The state of Postgres alone, at one moment: what is left when both go.
async fn a_key_survives_the_loss_of_redis_and_its_gateway(fixture: TestLedger) {
    let mut gateway = fixture.gateway("gateway").await.unwrap();
    gateway.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    let operations =
        [keyed("charged", key(1)), keyed("runs", key(2)), keyed_capture("charged", claim_id(1))];
    gateway.apply(&operations).await;
    assert_eq!(gateway.apply(&[Operation::Audit]).await, [Outcome::Audited(vec![])]);
    let crashed = fixture.crashed();
    drop(gateway);
    drop(fixture);
    let ledger = crashed.open().await;
    // A start under the same name lets the calls of the one before expire.
    is_charged(&ledger, "the call that ran has expired", "9", "0").await;
    assert_eq!(stands(&ledger, key(1)).await, Some(ClaimState::Charged));
    assert_eq!(stands(&ledger, key(2)).await, None);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_late_charge_keeps_its_key(fixture: TestLedger) {
    let mut gateway = fixture.gateway("gateway").await.unwrap();
    gateway.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    let expiring = |hold: &str, n| match keyed(hold, key(n)) {
        Operation::Hold(hold) => Operation::Hold(NewHold { ttl_ms: 0, ..hold }),
        _ => unreachable!(),
    };
    gateway.apply(&[expiring("late", 1), expiring("later", 2)]).await;
    assert_eq!(gateway.tick(&|_| false).await.len(), 2);
    // Another call takes the second key before its first call is charged.
    let asked = gateway.apply(&[keyed("next", key(2)), keyed("twice", key(2))]).await;
    assert!(matches!(asked[0], Outcome::Held { .. }), "{asked:?}");
    assert_eq!(asked[1], claimed("next", ClaimState::Running));
    let charges = [keyed_capture("late", claim_id(1)), keyed_capture("later", claim_id(2))];
    for outcome in gateway.apply(&charges).await {
        assert!(matches!(outcome, Outcome::Captured { late: true, .. }), "{outcome:?}");
    }
    let expected = [claimed("late", ClaimState::Charged), claimed("next", ClaimState::Running)];
    assert_eq!(gateway.apply(&[keyed("a", key(1)), keyed("b", key(2))]).await, expected);
    assert_eq!(gateway.apply(&[Operation::Audit]).await, [Outcome::Audited(vec![])]);
    fixture.cluster().redis.flush_all();
    for (n, expected) in [(1, &expected[0]), (2, &expected[1])] {
        eventually("it is so after a loss", async || {
            let name = format!("again-{n}");
            let asked = gateway.apply(&[keyed(&name, key(n))]).await.remove(0);
            assert!(
                asked == *expected || asked == Outcome::Refused(Refusal::Unavailable),
                "{asked:?}"
            );
            asked == *expected
        })
        .await;
    }
    gateway.apply(&[keyed_capture("next", claim_id(2))]).await;
    let asked = gateway.apply(&[keyed("c", key(2))]).await;
    assert_eq!(asked, [claimed("next", ClaimState::Charged)]);
    assert!(gateway.close().await);
}

async fn a_key_is_charged_though_redis_is_away_when_its_gateway_stops(mut fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let hold = held(&ledger, key(1)).await;
    ledger.reconciles().await;
    fixture.cluster_mut().redis.kill();
    hold.capture(credits("1"));
    ledger.stop().await;
    fixture.cluster_mut().redis.restart();
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("9", "0")));
    assert_eq!(stands(&ledger, key(1)).await, Some(ClaimState::Charged));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_retry_hears_of_a_call_that_was_left_once_whatever_redis_loses(fixture: TestLedger) {
    let first = fixture.open_with("100").await;
    let second = fixture.open_another("second").await;
    let retry = Claim::Retry { id: claim_id(9) };
    for loses in [false, true] {
        let lose = async || {
            if loses {
                is_clean(&first).await;
                fixture.cluster().redis.flush_all();
            }
        };
        let before = first.has("alice").await.0;
        let (one, other) = (first.call("1").await.unwrap(), second.call("1").await.unwrap());
        assert_eq!(stands(&second, retry).await, None, "nobody left");
        first.reconciles().await;
        assert!(one.leave(claim_id(9)).await.is_ok() && one.leave(claim_id(9)).await.is_ok());
        // A retry is told of the older of two equal calls first.
        assert!(other.leave(claim_id(9)).await.is_ok());
        lose().await;
        assert_eq!(stands(&second, retry).await, Some(ClaimState::Running));
        assert_eq!(stands(&second, retry).await, Some(ClaimState::Running), "it is not used up");
        one.capture(credits("1"));
        let after = (before.parse::<u32>().unwrap() - 1).to_string();
        is_charged(&second, "the oldest is charged", &after, "1").await;
        lose().await;
        assert_eq!(stands(&second, retry).await, Some(ClaimState::Charged));
        lose().await;
        assert_eq!(stands(&second, retry).await, Some(ClaimState::Running), "the next call runs");
        other.release();
        is_charged(&second, "it is released", &after, "0").await;
        lose().await;
        assert_eq!(stands(&first, retry).await, None, "a released call is forgotten");
    }
    is_clean(&first).await;
    first.stop().await;
    second.stop().await;
}

/// Redis finds out one by one that it does not know how the calls ended that were left.
async fn many_retries_after_a_recovery_are_all_answered(fixture: TestLedger) {
    const CALLS: u64 = 150;
    let ledger = fixture.open_with("1000").await;
    for n in 0..CALLS {
        let call = ledger.call("1").await.unwrap();
        call.leave(claim_id(n)).await.unwrap();
        call.capture(credits("1"));
    }
    is_clean(&ledger).await;
    fixture.cluster().redis.flush_all();
    serves_again(&ledger).await;
    is_charged(&ledger, "all are charged", &(1000 - CALLS).to_string(), "0").await;
    let retries = (0..CALLS).map(|n| {
        let ledger = farebox::ledger::Ledger::clone(&ledger);
        async move { ask(&ledger, Claim::Retry { id: claim_id(n) }).await }
    });
    let retries: tokio::task::JoinSet<_> = retries.collect();
    for retried in retries.join_all().await {
        match retried {
            Ok(HeldOrClaimed::Claimed(claimed, _)) => {
                assert_eq!(claimed.state, ClaimState::Charged);
            }
            other => panic!("{other:?}"),
        }
    }
    is_clean(&ledger).await;
    ledger.stop().await;
}

async fn a_key_whose_time_is_up_leaves_redis_and_postgres(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let short = Claim::Key { id: claim_id(1), mark: None, keep_ms: 1 };
    let hold = held(&ledger, short).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(stands(&ledger, short).await, Some(ClaimState::Running), "while the call runs");
    hold.capture(credits("1"));
    is_charged(&ledger, "it is charged", "9", "0").await;
    let brief = Claim::Key { id: claim_id(2), mark: None, keep_ms: 10_000 };
    held(&ledger, brief).await.capture(credits("1"));
    is_charged(&ledger, "the other is charged", "8", "0").await;
    assert_eq!(stands(&ledger, brief).await, Some(ClaimState::Charged));
    let keys = || fixture.cluster().redis.ask(&["KEYS", "{s00}:*:k:*"]);
    assert_eq!(keys().lines().count(), 1, "{}", keys());
    eventually("Redis has forgotten them", async || keys().is_empty()).await;
    for claim in [short, brief] {
        assert_eq!(stands(&ledger, claim).await, None);
    }
    ledger.reconciles().await;
    ledger.stop().await;
}

/// There is no trace in Redis, in the stream or in Postgres.
async fn a_call_without_a_key_leaves_no_trace_of_claims(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let live = ledger.call("1").await.unwrap();
    ledger.call("1").await.unwrap().capture(credits("1"));
    ledger.call("1").await.unwrap().release();
    ledger.reconciles().await;
    let redis = &fixture.cluster().redis;
    assert_eq!(redis.ask(&["KEYS", "{s00}:*:k:*"]), "");
    assert!(!redis.ask(&["HVALS", "{s00}:1:live"]).contains("/x /x"));
    for table in ["claims", "left_calls"] {
        let sql = format!("SELECT 1 / (count(*) = 0)::int FROM {table}");
        fixture.execute(&sql).await.unwrap();
    }
    live.release();
    ledger.stop().await;
}

async fn a_frozen_account_hears_its_refusal_and_not_of_the_claim(fixture: TestLedger) {
    let ledger = fixture.open().await;
    take(&ledger, paid()).await.unwrap();
    held(&ledger, key(1)).await.capture(credits("1"));
    take(&ledger, disputed(Stage::Standing)).await.unwrap();
    for claim in [key(1), Claim::Retry { id: claim_id(1) }] {
        assert_eq!(ask(&ledger, claim).await.unwrap_err(), Refusal::Frozen);
    }
    ledger.ask(Operation::Thaw { account: account("alice") }).await;
    assert_eq!(stands(&ledger, key(1)).await, Some(ClaimState::Charged));
    ledger.reconciles().await;
    ledger.stop().await;
}
