//! Imports from an earlier system: all rows of an import or none, each payment once.

use futures_util::future::join_all;

use farebox::credits::Credits;
use farebox::ledger::{
    Backend as _, Facts, Import, ImportRow, KeyHash, KeyRecord, Money, OnDispute, Operation,
    Outcome, Progress, Refusal, Sale, TakeFacts,
};

use crate::payments::{nth, paid, refunded, take};
use crate::test_ledger::{
    Running, TestLedger, account, conflict, credits, grant, on_every_ledger, text,
};

on_every_ledger!("current_thread":
    an_import_is_whole_or_nothing_and_the_same_again_is_none,
    a_dry_run_says_what_would_happen_and_changes_nothing,
    an_account_brought_over_with_nothing_exists_from_then_on,
    a_payment_is_granted_once_under_whatever_ids_at_once,
    a_payment_that_is_sold_after_its_import_is_granted_no_second_time,
    what_was_refunded_before_an_import_is_taken_back_with_it,
    an_import_that_does_not_fit_changes_nothing,
);

fn row(id: &str, who: &str, amount: &str) -> ImportRow {
    ImportRow::Grant { posting: grant(id, who, amount), payment: None }
}

/// A row whose credits were bought for 79 euros with this payment.
fn paid_row(id: &str, who: &str, amount: &str, intent: &str) -> ImportRow {
    let money = Money { amount: 7900, currency: "eur".into() };
    let sale = Sale {
        session: intent.into(),
        account: account(who),
        pack: "import".into(),
        credits: credits(amount),
        price: money.clone(),
        imported: true,
    };
    let facts = Facts {
        names: [intent.into(), format!("import:{id}").into()].into(),
        sale: Some(sale),
        progress: Progress::Paid,
        paid: Some(money),
        ..Facts::default()
    };
    let (on_dispute, because) = (OnDispute::ClawBack, "a test".into());
    let payment = Some(Box::new(TakeFacts { event: None, facts, on_dispute, because }));
    ImportRow::Grant { posting: grant(id, who, amount), payment }
}

fn key(secret: &str, who: &str) -> ImportRow {
    ImportRow::Key(KeyRecord {
        id: format!("key_{secret}").into(),
        hash: KeyHash::of(secret),
        account: account(who),
        name: "".into(),
        service: false,
        hint: "".into(),
        created_at_ms: 1,
        revoked_at_ms: None,
    })
}

fn import(rows: &[ImportRow], dry_run: bool) -> Operation {
    Import { rows: rows.to_vec(), dry_run }.into()
}

/// The outcome of each row: new, there before, or refused.
fn told(outcome: Outcome) -> Vec<Result<bool, Refusal>> {
    let Outcome::Imported(outcomes) = outcome else { panic!("{outcome:?}") };
    let each = outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Posted { new, .. } => Ok(new),
        Outcome::KeysStored { new } => Ok(new == 1),
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    });
    each.collect()
}

async fn bring(ledger: &Running, rows: &[ImportRow]) -> Vec<Result<bool, Refusal>> {
    told(ledger.ask(import(rows, false)).await)
}

fn rows() -> Vec<ImportRow> {
    vec![
        row("old-1", "alice", "5"),
        row("old-2", "alice", "2"),
        row("old-3", "bob", "0"),
        paid_row("old-4", "carol", "100", "pi_1"),
        key("one", "dave"),
    ]
}

async fn an_import_is_whole_or_nothing_and_the_same_again_is_none(fixture: TestLedger) {
    let ledger = fixture.open_with("1").await;
    let mut bad = rows();
    // Rows with the same ids and other content.
    bad.extend([
        row("initial", "alice", "2"),
        paid_row("old-5", "eve", "100", "pi_1"),
        key("one", "eve"),
    ]);
    let refused = bring(&ledger, &bad).await;
    assert_eq!(refused[..5], [Ok(true); 5]);
    let expected = [Refusal::Conflict, Refusal::PaymentKnown, Refusal::Conflict].map(Err);
    assert_eq!(refused[5..], expected);
    assert_eq!(ledger.has("alice").await, text(("1", "0")), "nothing of it happened");
    for who in ["bob", "carol", "dave", "eve"] {
        assert_eq!(ledger.balance(&account(who)).await, Ok(None), "{who}");
    }
    assert_eq!(ledger.read().payment("pi_1").await.unwrap(), None);

    assert_eq!(bring(&ledger, &rows()).await, [Ok(true); 5]);
    for when in ["at once", "after a restart", "after folding"] {
        assert_eq!(bring(&ledger, &rows()).await, [Ok(false); 5], "{when}");
        assert_eq!(ledger.has("alice").await, text(("8", "0")), "{when}");
        assert_eq!(ledger.has("carol").await, text(("100", "0")), "{when}");
        ledger.fold(i64::MAX).await.unwrap();
    }
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(bring(&ledger, &rows()).await, [Ok(false); 5]);
    assert_eq!(ledger.read().keys(None).await.unwrap().len(), 1);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_dry_run_says_what_would_happen_and_changes_nothing(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    let before = fixture.row_counts().await;
    // The rows are in one batch with rows that are done. Each is decided on what the ones before it
    // left.
    let batch = [
        import(&rows(), true),
        import(&rows()[..2], false),
        import(&rows(), true),
        Operation::Balance { account: account("carol") },
    ];
    let mut outcomes = backend.apply(&batch[..1]).await;
    assert_eq!(told(outcomes.pop().unwrap()), [Ok(true); 5]);
    assert_eq!(fixture.row_counts().await, before);
    let mut outcomes = backend.apply(&batch).await.into_iter();
    assert_eq!(told(outcomes.next().unwrap()), [Ok(true); 5]);
    assert_eq!(told(outcomes.next().unwrap()), [Ok(true); 2]);
    let third = told(outcomes.next().unwrap());
    assert_eq!(third, [Ok(false), Ok(false), Ok(true), Ok(true), Ok(true)]);
    assert_eq!(outcomes.next(), Some(Outcome::Balance(None)));
    let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
    assert!(matches!(balance, Outcome::Balance(Some(b)) if b.balance == credits("7").signed()));
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.reader().await.reconcile().await.unwrap().is_clean());
    assert!(backend.close().await);
}

async fn an_account_brought_over_with_nothing_exists_from_then_on(fixture: TestLedger) {
    let ledger = fixture.open().await;
    assert_eq!(bring(&ledger, &[row("old-1", "alice", "0")]).await, [Ok(true)]);
    ledger.open(&account("alice"), credits("12")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("0", "0")), "no sign-up grant");
    assert_eq!(bring(&ledger, &[row("old-1", "alice", "5")]).await, [Err(Refusal::Conflict)]);
    assert_eq!(ledger.ask(Operation::Post(grant("old-1", "alice", "5"))).await, conflict());
    // A grant outside of an import cannot be of zero credits.
    let zero = ledger.ask(Operation::Post(grant("gift", "alice", "0"))).await;
    assert_eq!(zero, Outcome::Refused(Refusal::Zero));
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    ledger.open(&account("alice"), credits("12")).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("0", "0")));
    ledger.stop().await;
}

async fn a_payment_is_granted_once_under_whatever_ids_at_once(fixture: TestLedger) {
    let ledger = fixture.open().await;
    // On a shared ledger the rows come from two gateways.
    let another = match fixture.kind.is_embedded() {
        true => None,
        false => Some(fixture.open_another("another").await),
    };
    for round in 0..4 {
        let intent = format!("pi_{round}");
        let asked = (0..8).map(|n| {
            let through = another.as_ref().filter(|_| n % 2 == 0).unwrap_or(&ledger);
            let who = format!("account-{}", n / 4);
            let row = paid_row(&format!("old-{round}-{n}"), &who, "10", &intent);
            async move { bring(through, &[row]).await[0] }
        });
        let told = join_all(asked).await;
        let granted = told.iter().filter(|told| **told == Ok(true)).count();
        assert_eq!(granted, 1, "round {round}: {told:?}");
        assert!(told.iter().all(|told| matches!(told, Ok(true) | Err(Refusal::PaymentKnown))));
        // In one import: each row is decided on what the ones before it left.
        let intent = format!("pi_{round}_batch");
        let pair =
            [paid_row("a", "account-0", "10", &intent), paid_row("b", "account-1", "10", &intent)];
        let told = bring(&ledger, &pair).await;
        assert_eq!(told, [Ok(true), Err(Refusal::PaymentKnown)]);
    }
    let mut sum = Credits::ZERO;
    for who in ["account-0", "account-1"] {
        sum = sum.checked_add(credits(&ledger.has(who).await.0)).unwrap();
    }
    assert_eq!(sum, credits("40"));
    ledger.reconciles().await;
    if let Some(another) = another {
        another.stop().await;
    }
    ledger.stop().await;
}

async fn a_payment_that_is_sold_after_its_import_is_granted_no_second_time(fixture: TestLedger) {
    let ledger = fixture.open().await;
    // The buyer was sent to pay, and nobody knows yet by which payment.
    let open =
        Facts { names: ["cs_1".into()].into(), progress: Progress::Open, paid: None, ..paid() };
    assert!(take(&ledger, open).await.unwrap().is_ours());
    let row = paid_row("old-1", "bob", "500", "pi_1");
    assert_eq!(bring(&ledger, std::slice::from_ref(&row)).await, [Ok(true)]);
    for _ in 0..2 {
        let settled = take(&ledger, paid()).await.unwrap();
        assert!(!settled.moved() && !settled.new);
        assert_eq!(settled.payment.account(), Some(&account("bob")));
    }
    assert_eq!(bring(&ledger, std::slice::from_ref(&row)).await, [Ok(false)]);
    // In the other order, the sale has granted the credits first.
    take(&ledger, nth(2, &paid())).await.unwrap();
    let late = paid_row("old-2", "bob", "500", "pi_1_2");
    assert_eq!(bring(&ledger, &[late]).await, [Err(Refusal::PaymentKnown)]);
    // This refund names one payment under all its names. It is taken back once, from the account
    // that got the credits.
    take(&ledger, refunded("re_1", 3950, &["pi_1", "ch_1"])).await.unwrap();
    assert_eq!(ledger.has("bob").await, text(("250", "0")));
    assert_eq!(ledger.has("alice").await, text(("500", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert!(!take(&ledger, paid()).await.unwrap().moved());
    let known = ledger.read().payment("cs_1").await.unwrap().unwrap();
    assert_eq!(Some(known), ledger.read().payment("pi_1").await.unwrap());
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn what_was_refunded_before_an_import_is_taken_back_with_it(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let early = take(&ledger, refunded("re_1", 3950, &["pi_1"])).await.unwrap();
    assert!(!early.moved());
    let row = paid_row("old-1", "alice", "100", "pi_1");
    for new in [true, false] {
        assert_eq!(bring(&ledger, std::slice::from_ref(&row)).await, [Ok(new)]);
        assert_eq!(ledger.has("alice").await, text(("50", "0")));
        assert_eq!(ledger.entries("alice").await.len(), 2);
    }
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn an_import_that_does_not_fit_changes_nothing(fixture: TestLedger) {
    let ledger = fixture.open_with("1").await;
    let most = Credits::from_micros(farebox::credits::MAX_MICROS).unwrap().to_string();
    for last in [row("old-2", "alice", &most), paid_row("old-2", "alice", &most, "pi_1")] {
        let told = bring(&ledger, &[row("old-1", "bob", "1"), last]).await;
        assert_eq!(told, [Ok(true), Err(Refusal::OutOfRange)]);
        assert_eq!(ledger.balance(&account("bob")).await, Ok(None));
        assert_eq!(ledger.has("alice").await, text(("1", "0")));
        assert_eq!(ledger.read().payment("pi_1").await.unwrap(), None);
    }
    ledger.reconciles().await;
    ledger.stop().await;
}
