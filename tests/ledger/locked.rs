//! While a row stays locked, each operation waits for its own rows alone, whatever is decided together with it.

use std::time::Duration;

use farebox::gateway::open_ledger;
use farebox::ledger::{
    CallId, ClaimState, HeldOrClaimed, HoldId, Import, ImportRow, Ledger, Operation, OperationId,
    Outcome, Refusal,
};
use farebox::metrics::Metrics;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::claiming::{ask, by, claimed, held, key};
use crate::rare::{
    assert_as_quiet, locks, quiet, retire_all, trouble_lasts, undelayed,
    until_one_waits_for_a_lock, waits_during,
};
use crate::test_ledger::{
    Running, TestLedger, account, api_capture, api_hold, call_release, credits, eventually, grant,
    hold_id, on_cluster_ledgers, on_one_ledger,
};

on_cluster_ledgers!("multi_thread":
    a_retry_of_a_paid_call_delays_no_call_of_another_account,
    a_refund_that_waits_for_its_charge_delays_no_grant_beside_it,
    a_refund_of_an_answered_call_waits_for_its_charge_and_is_never_unknown,
    a_refund_of_a_running_call_keeps_no_other_call_waiting,
    a_row_that_is_soon_free_refuses_nothing,
    a_newcomer_whose_row_is_locked_delays_no_other_newcomer,
    an_unknown_hold_delays_no_call_of_a_cold_account,
    a_gateway_that_serves_under_a_locked_row_says_that_it_does,
    grants_that_wait_for_a_row_keep_their_order,
    a_gateway_that_starts_under_a_locked_row_serves,
);
on_one_ledger!(
    "multi_thread",
    cluster_strict_only,
    ClusterStrict,
    a_gateway_has_no_more_connections_than_it_may
);

/// Locks alice's row, and charges alice for a call. Until the lock is dropped, the charge cannot be folded, and neither
/// can what comes after it.
async fn no_fold(fixture: &TestLedger, ledger: &Running) -> PgConnection {
    let locked = locks(fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    ledger.call("1").await.unwrap().capture(credits("1"));
    ledger.balance(&account("alice")).await.unwrap();
    locked
}

async fn a_retry_of_a_paid_call_delays_no_call_of_another_account(fixture: TestLedger) {
    let (ledger, quiet) = quiet(&fixture).await;
    let paid = held(&ledger, key(1)).await;
    let id = paid.id().clone();
    paid.capture(credits("1"));
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    ledger.reconciles().await;
    let locked = no_fold(&fixture, &ledger).await;
    let trouble = async {
        let (began, mut retries) = (Instant::now(), JoinSet::new());
        while began.elapsed() < trouble_lasts() {
            let ledger: Ledger = Ledger::clone(&ledger);
            retries.spawn(async move { ask(&ledger, key(1)).await });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        retries.join_all().await
    };
    let (waits, retries) = waits_during(&ledger, trouble).await;
    assert_as_quiet(&waits, quiet);
    for retried in retries {
        match retried {
            Ok(HeldOrClaimed::Claimed(claimed, _)) => {
                assert_eq!(claimed, by(&id, ClaimState::Charged));
            }
            refused => assert_eq!(refused.unwrap_err(), Refusal::Unavailable),
        }
    }
    drop(locked);
    eventually("a retry is answered", async || ask(&ledger, key(1)).await.is_ok()).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Gives bob credits. Returns how long that took.
async fn gives(ledger: &Ledger, name: &str) -> Duration {
    let asked = Instant::now();
    ledger.post(grant(name, "bob", "5")).await.unwrap();
    asked.elapsed()
}

async fn a_refund_that_waits_for_its_charge_delays_no_grant_beside_it(fixture: TestLedger) {
    let (ledger, _) = quiet(&fixture).await;
    let usual = gives(&ledger, "early").await;
    let locked = no_fold(&fixture, &ledger).await;
    for n in 0..2 {
        // More of them than groups of grants are decided at once.
        let refunds: JoinSet<_> = (0..4)
            .map(|of| {
                let (ledger, hold) = (Ledger::clone(&ledger), hold_id(&format!("job-{n}-{of}")));
                async move { ledger.ask(Operation::Refund { hold, reason: None }).await }
            })
            .collect();
        // A refund waits for two seconds, so a grant behind it would wait as long.
        let late = format!("late-{n}");
        let (refunded, waited) = tokio::join!(refunds.join_all(), gives(&ledger, &late));
        let unavailable = Outcome::Refused(Refusal::Unavailable);
        assert!(refunded.iter().all(|refunded| *refunded == unavailable), "{refunded:?}");
        assert!(waited < undelayed(usual), "a grant waited {waited:?}, before {usual:?}");
    }
    drop(locked);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The charges of a call that was answered wait in the first gateway behind a grant, which waits for a locked row. The
/// refund is asked of another gateway, whole or in part.
async fn a_refund_of_an_answered_call_waits_for_its_charge_and_is_never_unknown(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("100").await;
    let other = fixture.open_another("other").await;
    let part = |hold: &HoldId| Operation::RefundPart {
        hold: hold.clone(),
        id: OperationId::refund_part(hold, "part").unwrap(),
        amount: credits("1"),
        reason: None,
    };
    let whole = |hold: &HoldId| Operation::Refund { hold: hold.clone(), reason: None };
    let unsettled = Outcome::Refused(Refusal::Unsettled);
    for (n, is_soon_free) in [true, false].into_iter().enumerate() {
        let [one, two] = [ledger.call("3").await.unwrap(), ledger.call("3").await.unwrap()];
        let (first, second) = (one.id().clone(), two.id().clone());
        let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
        let late = {
            let (ledger, late) =
                (Ledger::clone(&ledger), grant(&format!("late-{n}"), "alice", "1"));
            tokio::spawn(async move { ledger.post(late).await })
        };
        until_one_waits_for_a_lock(&fixture).await;
        // From here on the callers have their answers.
        one.capture(credits("3"));
        two.capture(credits("3"));
        let lock = async {
            if is_soon_free {
                tokio::time::sleep(Duration::from_millis(500)).await;
                drop(locked);
                return None;
            }
            Some(locked)
        };
        let (refunded, in_part, locked) =
            tokio::join!(other.ask(whole(&first)), other.ask(part(&second)), lock);
        if is_soon_free {
            for posted in [refunded, in_part] {
                assert!(matches!(posted, Outcome::Posted { new: true, .. }), "{posted:?}");
            }
        } else {
            assert_eq!([refunded, in_part], [unsettled.clone(), unsettled.clone()]);
        }
        drop(locked);
        let _ = late.await.unwrap();
        for refund in [whole(&first), part(&second)] {
            eventually("the refund is made", async || {
                matches!(other.ask(refund.clone()).await, Outcome::Posted { .. })
            })
            .await;
        }
    }
    // A call that was not charged has no capture, and no refund waits for it.
    let released = ledger.call("3").await.unwrap();
    let ended = released.id().clone();
    released.release();
    ledger.reconciles().await;
    let asked = Instant::now();
    for id in [ended, CallId::new().into(), hold_id("nobody's")] {
        for refund in [whole(&id), part(&id)] {
            assert_eq!(other.ask(refund).await, Outcome::Refused(Refusal::UnknownCapture));
        }
    }
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    other.stop().await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The gateway that is asked for the refund runs the call. What names the call or its account would wait for the refund.
async fn a_refund_of_a_running_call_keeps_no_other_call_waiting(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let running = ledger.call("3").await.unwrap();
    let refund = Operation::Refund { hold: running.id().clone(), reason: None };
    let asked = Instant::now();
    let refunded = {
        let (ledger, refund) = (Ledger::clone(&ledger), refund.clone());
        tokio::spawn(async move { ledger.ask(refund).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.capture(credits("3"));
    ledger.call("1").await.unwrap().release();
    assert!(asked.elapsed() < Duration::from_millis(1500), "{:?}", asked.elapsed());
    // The refund may have been decided before the capture or after it.
    let refunded = refunded.await.unwrap();
    let is_right = matches!(
        refunded,
        Outcome::Refused(Refusal::Unsettled) | Outcome::Posted { new: true, .. }
    );
    assert!(is_right, "{refunded:?}");
    eventually("the refund is made", async || {
        matches!(ledger.ask(refund.clone()).await, Outcome::Posted { .. })
    })
    .await;
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_row_that_is_soon_free_refuses_nothing(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    assert!(matches!(ledger.ask(api_hold("job", "3")).await, Outcome::Held { .. }));
    assert!(matches!(ledger.ask(api_capture("job", "3")).await, Outcome::Captured { .. }));
    let locked = no_fold(&fixture, &ledger).await;
    let refund = Operation::Refund { hold: hold_id("job"), reason: None };
    let (refunded, entries, report, ()) =
        tokio::join!(ledger.ask(refund), ledger.entries("alice"), ledger.reconcile(), async {
            // A write of batches waits for a row five times shorter.
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(locked);
        },);
    assert!(matches!(refunded, Outcome::Posted { new: true, .. }), "{refunded:?}");
    assert!(entries.len() >= 3, "{entries:?}");
    report.unwrap();
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Three newcomers come at once. Returns how long the last of them waited.
async fn opens_three(ledger: &Ledger, name: &str) -> Duration {
    let asked = Instant::now();
    let three = (0..3).map(|of| {
        let (ledger, who) = (Ledger::clone(ledger), account(&format!("{name}-{of}")));
        async move { ledger.open(&who, credits("5")).await.unwrap() }
    });
    three.collect::<JoinSet<_>>().join_all().await;
    asked.elapsed()
}

async fn a_newcomer_whose_row_is_locked_delays_no_other_newcomer(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let usual = opens_three(&ledger, "early").await;
    let half = "INSERT INTO accounts (id, balance, seq, grant_seq, created_at) VALUES ('half', 0, 0, 0, 0)";
    let locked = locks(&fixture, half).await;
    let half = account("half");
    for n in 0..3 {
        let late = format!("late-{n}");
        let (opened, waited) =
            tokio::join!(ledger.open(&half, credits("5")), opens_three(&ledger, &late));
        assert_eq!(opened.unwrap_err(), Refusal::Unavailable);
        assert!(waited < undelayed(usual), "a newcomer waited {waited:?}, before {usual:?}");
    }
    drop(locked);
    eventually("the account is made", async || ledger.open(&half, credits("5")).await.is_ok())
        .await;
    assert_eq!(ledger.has("half").await.0, "5");
    ledger.reconciles().await;
    ledger.stop().await;
}

/// An account calls. Returns how long its hold took.
async fn calls(ledger: &Ledger, who: &str) -> Duration {
    let asked = Instant::now();
    let hold = ledger.hold(CallId::new(), account(who), credits("1"), "/x".into()).await.unwrap();
    let waited = asked.elapsed();
    hold.release();
    waited
}

async fn an_unknown_hold_delays_no_call_of_a_cold_account(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    for n in 0..6 {
        ledger.post(grant(&format!("g-{n}"), &format!("cold-{n}"), "10")).await.unwrap();
    }
    retire_all(&fixture, &ledger).await;
    let usual = calls(&ledger, "cold-5").await;
    let locked = no_fold(&fixture, &ledger).await;
    for n in 0..5 {
        let unknown = ledger.ask(call_release(&format!("unknown-{n}")));
        let cold = format!("cold-{n}");
        let (_, waited) = tokio::join!(unknown, calls(&ledger, &cold));
        assert!(waited < undelayed(usual), "a call waited {waited:?}, before {usual:?}");
    }
    drop(locked);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_gateway_that_serves_under_a_locked_row_says_that_it_does(fixture: TestLedger) {
    let metrics = Metrics::new().unwrap();
    let config = fixture.config("gateway");
    let ledger = Running::of(open_ledger(&config, metrics.clone()).await.unwrap());
    ledger.post(grant("initial", "alice", "1000")).await.unwrap();
    ledger.post(grant("g-bob", "bob", "1000")).await.unwrap();
    eventually("the gateway serves", async || metrics.ledger_up.get() == 1).await;
    let locked = no_fold(&fixture, &ledger).await;
    let began = Instant::now();
    while began.elapsed() < trouble_lasts() {
        let (id, bob) = (CallId::new(), account("bob"));
        ledger.hold(id, bob, credits("1"), "/x".into()).await.unwrap().release();
        assert_eq!(metrics.ledger_up.get(), 1, "after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(locked);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Many batches become durable at once, and none of them can.
async fn a_gateway_has_no_more_connections_than_it_may(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    for n in 0..10 {
        ledger.post(grant(&format!("g-{n}"), &format!("cold-{n}"), "10")).await.unwrap();
    }
    ledger.post(grant("g-bob", "bob", "1000")).await.unwrap();
    retire_all(&fixture, &ledger).await;
    // The pipeline decides the calls of this account, and groups beside it decide those of the others.
    ledger.balance(&account("bob")).await.unwrap();
    let mut watch = fixture.cluster().sql().await;
    let locked = locks(&fixture, "LOCK TABLE appends IN ACCESS EXCLUSIVE MODE").await;
    let (mut calls, mut appending) = (JoinSet::new(), 0);
    let began = Instant::now();
    // After a second and a half the gateway gives connections up, which Postgres notices later.
    while began.elapsed() < trouble_lasts() / 2 {
        let n = calls.len();
        let ledger = Ledger::clone(&ledger);
        calls.spawn(async move {
            let who = if n % 2 == 0 { "bob".to_owned() } else { format!("cold-{}", n / 2 % 10) };
            let hold = ledger.hold(CallId::new(), account(&who), credits("0.01"), "/x".into());
            let _ = hold.await.map(farebox::ledger::Hold::release);
        });
        let count = "SELECT count(*) FROM pg_stat_activity \
                     WHERE application_name = 'farebox' AND query LIKE '%append_batch%' AND state = 'active'";
        let now: i64 = sqlx::query_scalar(count).fetch_one(&mut watch).await.unwrap();
        appending = appending.max(now);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(locked);
    calls.join_all().await;
    assert!((1..=2).contains(&appending), "{appending} connections append at once");
    eventually("calls are taken", async || ledger.call("1").await.is_ok()).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The import waits for alice's row. A grant to bob that is asked for after it has the id of one of its rows.
async fn grants_that_wait_for_a_row_keep_their_order(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for who in ["bob", "carol"] {
        ledger.post(grant(&format!("g-{who}"), who, "10")).await.unwrap();
    }
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    let row = |id: &str, who: &str, amount: &str| ImportRow::Grant {
        posting: grant(id, who, amount),
        payment: None,
    };
    let rows = vec![row("a", "alice", "1"), row("x", "bob", "5")];
    let import = Import { rows, dry_run: false };
    let (first, other, import, second, ()) = tokio::join!(
        ledger.post(grant("one", "alice", "1")),
        ledger.post(grant("two", "carol", "1")),
        ledger.ask(import.into()),
        ledger.post(grant("x", "bob", "7")),
        async {
            until_one_waits_for_a_lock(&fixture).await;
            drop(locked);
        },
    );
    first.unwrap();
    other.unwrap();
    assert!(matches!(import, Outcome::Imported(_)), "{import:?}");
    assert!(second.is_err(), "it has overtaken the import: {second:?}");
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The charges of the first gateway cannot be folded while the second one starts.
async fn a_gateway_that_starts_under_a_locked_row_serves(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    ledger.post(grant("g-bob", "bob", "1000")).await.unwrap();
    let locked = no_fold(&fixture, &ledger).await;
    let began = Instant::now();
    let other = fixture.open_another("other").await;
    let took = began.elapsed();
    other.hold(CallId::new(), account("bob"), credits("1"), "/x".into()).await.unwrap().release();
    drop(locked);
    // Before, it waited for twenty seconds.
    assert!(took < Duration::from_secs(12), "it has waited for {took:?}");
    other.stop().await;
    ledger.reconciles().await;
    ledger.stop().await;
}
