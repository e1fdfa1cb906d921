//! Metered calls: a hold that grows while its call runs, a charge above the hold, and what the entry
//! keeps of it.

use std::sync::Arc;

use farebox::ledger::{
    AfterCrash, Backend as _, CallId, Entry, Ledger, LedgerConfig, Operation, Origin, Outcome,
    Overrun, Refusal, Settlement, Stage,
};
use farebox::metrics::Metrics;
use farebox::store::SqliteLedger;
use farebox::usage::{Kind as UsageKind, Usage, UsageRecord};
use tokio::sync::Barrier;

use crate::payments::{disputed, paid, take};
use crate::test_ledger::{
    HOUR_MS, Kind, Running, TestLedger, account, api_hold, call_capture, call_release, credits,
    ended, eventually, grant, hold_id, hold_of, on_every_ledger, text,
};

on_every_ledger!("multi_thread":
    an_extension_sets_more_aside_under_the_same_hold,
    an_extension_takes_effect_once,
    an_extension_needs_credits_and_an_account_that_is_not_frozen,
    what_is_left_is_extended_by_once,
    a_charge_above_the_hold_is_a_debt_or_given_up,
    a_charge_keeps_what_the_call_used,
    a_charge_that_may_not_be_above_its_hold_is_refused_there,
    an_extended_hold_that_expires_gives_all_of_it_back,
);

mod after_a_crash {
    use super::an_extended_hold_is_ended_whole;
    use crate::test_ledger::on_embedded_ledgers;

    on_embedded_ledgers!("multi_thread": an_extended_hold_is_ended_whole);
}

/// The usage of a call for which `held` was held at its end.
pub fn record(held: &str, model: Option<&str>, input: u64) -> UsageRecord {
    let usage = Usage::NONE.with(UsageKind::Input, input).unwrap();
    UsageRecord {
        held: credits(held),
        model: model.map(Into::into),
        usage: usage.with(UsageKind::Reasoning, 7).unwrap(),
        prices: "0123456789abcdef".into(),
    }
}

pub fn settlement(amount: &str, overrun: Overrun, usage: Option<UsageRecord>) -> Settlement {
    Settlement { amount: credits(amount), overrun, usage }
}

pub fn extend(id: &str, who: &str, amount: &str) -> Operation {
    Operation::Extend { hold: hold_id(id), account: account(who), amount: credits(amount) }
}

pub fn last(entries: &[Entry]) -> &Entry {
    entries.last().unwrap()
}

async fn an_extension_sets_more_aside_under_the_same_hold(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let mut hold = ledger.call("2").await.unwrap();
    let after = hold.extend(credits("3")).await.unwrap();
    assert_eq!((after.held.to_string(), hold.amount()), ("5".to_owned(), credits("5")));
    assert_eq!(hold.after(), after);
    assert_eq!(ledger.has("alice").await, text(("10", "5")));
    ledger.reconciles().await;
    hold.extend(credits("1.5")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("10", "6.5")));
    hold.capture(credits("6"));
    assert_eq!(ledger.has("alice").await, text(("4", "0")));
    // A release gives back the whole hold, with its extension.
    let mut hold = ledger.call("1").await.unwrap();
    hold.extend(credits("2")).await.unwrap();
    hold.release();
    assert_eq!(ledger.has("alice").await, text(("4", "0")));
    // A future that is dropped leaves nothing behind either.
    let mut hold = ledger.call("1").await.unwrap();
    drop(tokio::time::timeout(std::time::Duration::ZERO, hold.extend(credits("2"))).await);
    hold.capture(credits("1"));
    eventually("nothing is held", async || ledger.has("alice").await == text(("3", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn an_extension_takes_effect_once(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    let held = async |backend: &mut crate::test_ledger::AnyBackend| {
        let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
        let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
        balance.held.to_string()
    };
    backend.ask(Operation::Post(grant("g", "alice", "10"))).await;
    backend.ask(Operation::Post(grant("g2", "bob", "10"))).await;
    let hold = hold_of(Origin::Call, "call", "2", HOUR_MS);
    let first = extend("call", "alice", "5");
    let batch = [hold, first.clone(), first.clone(), extend("call", "alice", "3")];
    for outcome in backend.apply(&batch).await.iter().skip(1) {
        let Outcome::Held { after } = outcome else { panic!("{outcome:?}") };
        assert_eq!(after.held.to_string(), "5");
    }
    let again = backend.ask(first.clone()).await;
    assert!(matches!(again, Outcome::Held { .. }), "{again:?}");
    assert_eq!(held(&mut backend).await, "5");
    let more = [extend("call", "alice", "6"), extend("call", "alice", "7"), first.clone()];
    backend.apply(&more).await;
    assert_eq!(held(&mut backend).await, "7");

    backend.ask(api_hold("job", "1")).await;
    let unknown = Outcome::Refused(Refusal::UnknownHold);
    for other in
        [extend("none", "alice", "5"), extend("call", "bob", "9"), extend("job", "alice", "5")]
    {
        assert_eq!(backend.ask(other.clone()).await, unknown, "{other:?}");
    }
    assert_eq!(held(&mut backend).await, "8");
    let ends = [call_capture("call", "7"), extend("call", "alice", "8")];
    let outcomes = backend.apply(&ends).await;
    assert!(matches!(outcomes[0], Outcome::Captured { late: false, .. }), "{outcomes:?}");
    assert_eq!(outcomes[1], ended());
    assert_eq!(backend.ask(first).await, ended());
    // An extension comes before its hold, and after a release that came before the hold.
    assert_eq!(backend.ask(extend("early", "alice", "1")).await, unknown);
    backend.ask(call_release("early")).await;
    assert_eq!(backend.ask(extend("early", "alice", "1")).await, ended());
    assert_eq!(held(&mut backend).await, "1");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.close().await);
}

async fn an_extension_needs_credits_and_an_account_that_is_not_frozen(fixture: TestLedger) {
    let ledger = fixture.open().await;
    take(&ledger, paid()).await.unwrap(); // 250 credits
    let (before, _) = ledger.has("alice").await;
    let mut hold = ledger.call("1").await.unwrap();
    let too_much = hold.extend(credits(&before)).await.unwrap_err();
    let available = ledger.balance(&account("alice")).await.unwrap().unwrap().available();
    assert_eq!(too_much, Refusal::Insufficient { available });
    assert_eq!(hold.amount(), credits("1"));
    take(&ledger, disputed(Stage::Standing)).await.unwrap();
    assert_eq!(hold.extend(credits("1")).await, Err(Refusal::Frozen));
    assert_eq!(ledger.has("alice").await.1, "1");
    ledger.ask(Operation::Thaw { account: account("alice") }).await;
    hold.extend(credits("1")).await.unwrap();
    hold.capture(credits("2"));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Forty calls of one credit each ask for another one, and there are fifteen.
async fn what_is_left_is_extended_by_once(fixture: TestLedger) {
    const CALLS: usize = 40;
    let ledger = fixture.open_with("55").await;
    let start = Arc::new(Barrier::new(CALLS));
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let (ledger, start) = (Ledger::clone(&ledger), start.clone());
            tokio::spawn(async move {
                let (id, one) = (CallId::new(), credits("1"));
                let mut hold = ledger.hold(id, account("alice"), one, "/x".into()).await.unwrap();
                start.wait().await;
                let extended = hold.extend(one).await;
                (hold, extended)
            })
        })
        .collect();
    let (mut granted, mut holds) = (0, Vec::new());
    for call in calls {
        let (hold, extended) = call.await.unwrap();
        match extended {
            Ok(_) => granted += 1,
            Err(refusal) => assert!(matches!(refusal, Refusal::Insufficient { .. }), "{refusal}"),
        }
        holds.push(hold);
    }
    assert_eq!((granted, ledger.has("alice").await), (15, text(("55", "55"))));
    for hold in holds {
        let amount = hold.amount();
        hold.capture(amount);
    }
    assert_eq!(ledger.has("alice").await, text(("0", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_charge_above_the_hold_is_a_debt_or_given_up(fixture: TestLedger) {
    let ledger = fixture.open_with("5").await;
    let hold = ledger.call("5").await.unwrap();
    let used = record("0", Some("gpt-5"), 600);
    assert_eq!(hold.settle(settlement("7", Overrun::Debt, Some(used.clone()))), credits("7"));
    assert_eq!(ledger.has("alice").await, text(("-2", "0")));
    let debt = Refusal::Insufficient { available: "-2".parse().unwrap() };
    assert_eq!(ledger.call("0.000001").await.unwrap_err(), debt);
    ledger.post(grant("pays", "alice", "6")).await.unwrap();
    let hold = ledger.call("4").await.unwrap();
    assert_eq!(hold.settle(settlement("7", Overrun::Cap, Some(used.clone()))), credits("4"));
    assert_eq!(ledger.has("alice").await, text(("0", "0")));
    ledger.post(grant("more", "alice", "3")).await.unwrap();
    // A settlement without a record, after an extension.
    let mut hold = ledger.call("1").await.unwrap();
    hold.extend(credits("1")).await.unwrap();
    hold.settle(settlement("2.5", Overrun::Debt, None));
    assert_eq!(ledger.has("alice").await, text(("0.5", "0")));
    let entries = ledger.entries("alice").await;
    let charges: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry.amount.to_string(), entry.usage.as_deref()?.clone())))
        .collect();
    let held = |amount: &str| UsageRecord { held: credits(amount), ..used.clone() };
    let bare = UsageRecord { held: credits("2"), ..UsageRecord::unknown() };
    let expected =
        [("-7", held("5")), ("-4", held("4")), ("-2.5", bare)].map(|(a, u)| (a.to_owned(), u));
    assert_eq!(charges, expected);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_charge_keeps_what_the_call_used(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.call("1").await.unwrap().capture(credits("1"));
    let models = [Some("gpt-5"), None, Some("a \\ \"b\"\n é + h c1"), Some("")];
    let mut expected = vec![None, None];
    for (n, model) in models.into_iter().enumerate() {
        let used = record("2", model, n as u64);
        expected.push(Some(Arc::new(used.clone())));
        let hold = ledger.call("2").await.unwrap();
        hold.settle(settlement("1", Overrun::Debt, Some(used)));
    }
    // A call that used nothing, or was free, is not charged.
    let hold = ledger.call("2").await.unwrap();
    let free = settlement("0", Overrun::Debt, Some(record("2", Some("free"), 9)));
    assert_eq!(hold.settle(free), credits("0"));
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.reconciles().await;
    let used =
        |entries: &[Entry]| -> Vec<_> { entries.iter().map(|entry| entry.usage.clone()).collect() };
    assert_eq!(used(&ledger.entries("alice").await), expected);
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(used(&ledger.entries("alice").await), expected);
    expected.reverse();
    let alice = account("alice");
    let by_time = ledger.read().entries_of(&alice, 0..i64::MAX, None, 100).await.unwrap();
    assert_eq!(used(&by_time), expected);
    let mut newest = used(&ledger.read().newest(100).await.unwrap());
    newest.sort_by_key(|used| used.as_deref().map(|used| used.usage.of(UsageKind::Input)));
    expected.sort_by_key(|used| used.as_deref().map(|used| used.usage.of(UsageKind::Input)));
    assert_eq!(newest, expected);
    // A refund of the charge and folding work as for every charge.
    let charge = by_time[0].operation.hold().unwrap().to_owned();
    ledger.refund(hold_id(&charge), None).await.unwrap();
    let entries = ledger.entries("alice").await;
    assert_eq!(
        (last(&entries).usage.clone(), last(&entries).amount.to_string()),
        (None, "1".into())
    );
    ledger.fold(i64::MAX).await.unwrap();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_charge_that_may_not_be_above_its_hold_is_refused_there(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "20"))).await;
    let capture = |id: &str, origin, may_overrun| Operation::Capture {
        hold: hold_id(id),
        account: Some(account("alice")),
        amount: credits("3"),
        route: "/x".into(),
        origin,
        may_overrun,
        usage: None,
        claim: None,
    };
    for origin in [Origin::Call, Origin::Api] {
        for may_overrun in [false, true] {
            let id = format!("{origin:?}-{may_overrun}");
            backend.ask(hold_of(origin, &id, "2", HOUR_MS)).await;
            let outcome = backend.ask(capture(&id, origin, may_overrun)).await;
            if origin == Origin::Call && may_overrun {
                assert!(matches!(outcome, Outcome::Captured { late: false, .. }), "{outcome:?}");
                // Asked again, also after Redis has forgotten it or the ledger was opened again.
                let again = backend.ask(capture(&id, origin, may_overrun)).await;
                assert!(matches!(again, Outcome::Captured { late: false, .. }), "{again:?}");
            } else {
                let held = credits("2");
                assert_eq!(outcome, Outcome::Refused(Refusal::AboveHold { held }), "{id}");
            }
        }
    }
    let late = hold_of(Origin::Call, "late", "2", 0);
    backend.ask(late).await;
    assert_eq!(backend.tick(&|_| false).await.len(), 1);
    let refused = backend.ask(capture("late", Origin::Call, false)).await;
    assert_eq!(refused, Outcome::Refused(Refusal::AboveHold { held: credits("2") }));
    let charged = backend.ask(capture("late", Origin::Call, true)).await;
    assert!(matches!(charged, Outcome::Captured { late: true, .. }), "{charged:?}");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.close().await);
}

async fn an_extended_hold_that_expires_gives_all_of_it_back(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("g", "alice", "10"))).await;
    backend.ask(hold_of(Origin::Call, "left", "2", 1)).await;
    backend.ask(extend("left", "alice", "5")).await;
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    eventually("it expired", async || !backend.tick(&|_| false).await.is_empty()).await;
    let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
    let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
    assert_eq!((balance.balance.to_string(), balance.held), ("10".to_owned(), credits("0")));
    // The late call may still be charged the amount to which its hold was extended.
    let late = backend.ask(call_capture("left", "5")).await;
    assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    let reader = backend.reader().await;
    assert!(reader.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
}

/// The hold is extended before anything was written, and long after.
async fn an_extended_hold_is_ended_whole(fixture: TestLedger) {
    let opened = async |at: &TestLedger, after_crash| {
        std::fs::create_dir_all(at.dir()).unwrap();
        let (path, durability) = (at.path(), at.kind.durability());
        let config = LedgerConfig { path, durability, after_crash, ..LedgerConfig::default() };
        let metrics = Metrics::new().unwrap();
        let backend = SqliteLedger::open_as(&config, metrics.clone()).await.unwrap();
        let reader = backend.reader();
        Running::of(Ledger::start(backend, reader, metrics))
    };
    for (after_crash, balance) in [(AfterCrash::Release, "20"), (AfterCrash::Charge, "6")] {
        let first = fixture.crashed();
        let ledger = opened(&first, after_crash).await;
        ledger.post(grant("initial", "alice", "20")).await.unwrap();
        let mut early = ledger.call("4").await.unwrap();
        early.extend(credits("1")).await.unwrap();
        // The three holds are written together.
        let (late, other, beside) =
            tokio::join!(ledger.call("3"), ledger.call("1"), ledger.call("1"));
        let (mut late, other, beside) = (late.unwrap(), other.unwrap(), beside.unwrap());
        for _ in 0..3 {
            ledger.reconciles().await; // In `relaxed` this also waits for the disk.
            late.extend(credits("2")).await.unwrap();
        }
        let used = record("1", Some("m"), 4);
        beside.settle(settlement("0.5", Overrun::Cap, Some(used.clone())));
        other.release();
        assert_eq!(ledger.has("alice").await, text(("19.5", "14")));
        if !first.kind.is_strict() {
            ledger.reconciles().await;
        }
        let crashed = first.crashed();
        let after = opened(&crashed, after_crash).await;
        let mut listed = crate::cut_off::listed(after.read()).await;
        listed.sort_by(|a, b| a.1.cmp(&b.1));
        let amounts: Vec<_> = listed.iter().map(|(_, amount, _)| &**amount).collect();
        assert_eq!(amounts, ["5", "9"]);
        let balance = if balance == "20" { "19.5" } else { "5.5" };
        assert_eq!(after.has("alice").await, text((balance, "0")));
        let entries = after.entries("alice").await;
        let charged: Vec<_> = entries.iter().filter_map(|entry| entry.usage.as_deref()).collect();
        assert_eq!(charged, [&used]);
        after.reconciles().await;
        after.stop().await;
        early.release();
        late.release();
        ledger.stop().await;
    }
}

/// An overrun is counted whether it became a debt or was given up.
#[tokio::test]
async fn an_overrun_is_counted() {
    let fixture = TestLedger::new(Kind::EmbeddedStrict);
    std::fs::create_dir_all(fixture.dir()).unwrap();
    let metrics = Metrics::new().unwrap();
    let durability = fixture.kind.durability();
    let backend = SqliteLedger::open(&fixture.path(), durability, metrics.clone()).await.unwrap();
    let reader = backend.reader();
    let ledger = Running::of(Ledger::start(backend, reader, metrics.clone()));
    ledger.post(grant("initial", "alice", "20")).await.unwrap();
    for (amount, overrun) in [("7", Overrun::Debt), ("6.5", Overrun::Cap), ("5", Overrun::Debt)] {
        ledger.call("5").await.unwrap().settle(settlement(amount, overrun, None));
        ledger.has("alice").await;
    }
    let of = |counter: &prometheus::CounterVec| counter.with_label_values(&["/x"]).get();
    let counted = (of(&metrics.overrun_credits), of(&metrics.credits_captured));
    assert_eq!((counted, of(&metrics.credits_released)), ((3.5, 17.0), 0.0));
    ledger.stop().await;
}
