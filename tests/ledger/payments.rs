//! Payments: what Stripe tells moves credits once, whatever the order, and outlives the process.

use std::sync::Arc;

use farebox::ledger::{
    Dispute, EntryKind, EventState, Facts, Ledger, Money, NewEvent, OnDispute, Operation, Outcome,
    PaymentChange, Progress, Refund, Refusal, Sale, Stage, TakeFacts,
};

use crate::test_ledger::{TestLedger, account, credits, on_every_ledger, text};

on_every_ledger!("current_thread":
    an_event_is_kept_once_with_what_became_of_it,
    a_payment_and_its_event_are_one_commit,
    money_back_that_was_heard_of_first_counts_after_a_restart,
    two_halves_of_one_payment_become_one,
    a_freeze_outlives_the_process_and_is_lifted_by_hand,
    an_account_keeps_its_first_customer,
    one_batch_decides_what_its_own_operations_changed,
    folding_keeps_what_payments_moved,
);

const PAID: u64 = 7900;

fn euros(amount: u64) -> Money {
    Money { amount, currency: "eur".into() }
}

fn named(names: &[&str]) -> Facts {
    Facts { names: names.iter().map(|name| Arc::from(*name)).collect(), ..Facts::default() }
}

/// Alice has paid for 500 credits.
pub fn paid() -> Facts {
    let sale = Sale {
        session: "cs_1".into(),
        account: account("alice"),
        pack: "pack-500".into(),
        credits: credits("500"),
        price: euros(PAID),
        imported: false,
    };
    let (progress, paid) = (Progress::Paid, Some(euros(PAID)));
    Facts { sale: Some(sale), progress, paid, ..named(&["cs_1", "pi_1"]) }
}

pub fn disputed(stage: Stage) -> Facts {
    let dispute = Dispute { money: euros(PAID), stage, returned: None, thawed: false };
    Facts { disputes: [("dp_1".into(), dispute)].into(), ..named(&["pi_1", "dp_1"]) }
}

pub fn refunded(id: &str, amount: u64, names: &[&str]) -> Facts {
    let refund = Refund { money: euros(amount), failed: false };
    Facts { refunds: [(id.into(), refund)].into(), ..named(names) }
}

/// These facts about another payment, the `n`th.
pub fn nth(n: usize, facts: &Facts) -> Facts {
    let named = |name: &Arc<str>| -> Arc<str> { format!("{name}_{n}").into() };
    let mut facts = facts.clone();
    facts.names = facts.names.iter().map(named).collect();
    facts.refunds = facts.refunds.iter().map(|(id, refund)| (named(id), refund.clone())).collect();
    facts.sale.iter_mut().for_each(|sale| sale.session = named(&sale.session));
    facts
}

pub fn event(id: &str) -> Operation {
    let (kind, payload) = ("a.kind".into(), "{\"some\":\"json\"}".into());
    Operation::RecordEvent(NewEvent { id: id.into(), kind, payload })
}

fn taking(event: Option<&str>, facts: Facts) -> Operation {
    let (event, because) = (event.map(Arc::from), "a test".into());
    let on_dispute = OnDispute::Freeze;
    Operation::TakeFacts(Box::new(TakeFacts { event, facts, on_dispute, because }))
}

pub async fn take(ledger: &Ledger, facts: Facts) -> Result<PaymentChange, Refusal> {
    changed(ledger.ask(taking(None, facts)).await)
}

fn changed(outcome: Outcome) -> Result<PaymentChange, Refusal> {
    match outcome {
        Outcome::PaymentChanged(change) => Ok(*change),
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

async fn an_event_is_kept_once_with_what_became_of_it(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let received = |new| Outcome::EventRecorded { state: EventState::Received, new };
    assert_eq!(ledger.ask(event("evt_1")).await, received(true));
    assert_eq!(ledger.ask(event("evt_1")).await, received(false));
    assert_eq!(ledger.ask(event("evt_2")).await, received(true));
    let end = |id: &str| Operation::EndEvent {
        id: id.into(),
        state: EventState::Failed,
        note: Some("a reason".into()),
    };
    assert_eq!(ledger.ask(end("evt_1")).await, Outcome::EventEnded);
    assert_eq!(ledger.ask(end("evt_3")).await, Outcome::Refused(Refusal::UnknownEvent));
    ledger.stop().await;

    let ledger = fixture.open().await;
    let failed = Outcome::EventRecorded { state: EventState::Failed, new: false };
    assert_eq!(ledger.ask(event("evt_1")).await, failed);
    let read = ledger.read().event("evt_1").await.unwrap().unwrap();
    assert_eq!((&*read.payload, read.note.as_deref()), ("{\"some\":\"json\"}", Some("a reason")));
    let waiting = ledger.read().events(Some(EventState::Received), None, 9).await.unwrap();
    assert_eq!(waiting.iter().map(|event| &*event.id).collect::<Vec<_>>(), ["evt_2"]);
    let all = ledger.read().events(None, None, 1).await.unwrap();
    let place = Some((all[0].received_at_ms, &*all[0].id));
    let rest = ledger.read().events(None, place, 9).await.unwrap();
    assert_eq!((all.len(), rest.len()), (1, 1), "page by page");
    ledger.stop().await;
}

async fn a_payment_and_its_event_are_one_commit(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let unknown = changed(ledger.ask(taking(Some("evt_1"), paid())).await);
    assert_eq!(unknown, Err(Refusal::UnknownEvent), "and nothing was granted");
    assert_eq!(ledger.balance(&account("alice")).await, Ok(None));
    ledger.ask(event("evt_1")).await;
    for granted in ["500", "0", "0"] {
        let taken = changed(ledger.ask(taking(Some("evt_1"), paid())).await).unwrap();
        assert_eq!(taken.granted, credits(granted));
    }
    let read = ledger.read().event("evt_1").await.unwrap().unwrap();
    assert_eq!(read.state, EventState::Applied);
    assert_eq!(ledger.has("alice").await, text(("500", "0")));
    assert_eq!(ledger.read().buyers().await.unwrap(), 1);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn money_back_that_was_heard_of_first_counts_after_a_restart(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let early = take(&ledger, refunded("re_1", 3950, &["pi_1", "ch_1"])).await.unwrap();
    assert!(!early.is_ours());
    ledger.stop().await;
    let ledger = fixture.open().await;
    take(&ledger, paid()).await.unwrap();
    take(&ledger, paid()).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("250", "0")));
    let kinds: Vec<_> = ledger.entries("alice").await.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Grant, EntryKind::Clawback]);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// A refund that names the charge alone, until an event names charge and payment intent together.
async fn two_halves_of_one_payment_become_one(fixture: TestLedger) {
    let ledger = fixture.open().await;
    take(&ledger, refunded("re_1", 3950, &["ch_1"])).await.unwrap();
    take(&ledger, paid()).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("500", "0")), "nothing links them yet");
    ledger.stop().await;
    let ledger = fixture.open().await;
    take(&ledger, refunded("re_2", 1975, &["ch_1", "pi_1"])).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("125", "0")));
    let by_charge = ledger.read().payment("ch_1").await.unwrap().unwrap();
    assert_eq!(ledger.read().payment("cs_1").await.unwrap(), Some(by_charge));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_freeze_outlives_the_process_and_is_lifted_by_hand(fixture: TestLedger) {
    let ledger = fixture.open().await;
    take(&ledger, paid()).await.unwrap();
    take(&ledger, disputed(Stage::Standing)).await.unwrap();
    assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Frozen);
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Frozen);
    let view = ledger.read().account(&account("alice")).await.unwrap().unwrap();
    assert!(view.balance.frozen);
    let thaw = Operation::Thaw { account: account("alice") };
    assert_eq!(ledger.ask(thaw.clone()).await, Outcome::Thawed { disputes: 1 });
    assert_eq!(ledger.ask(thaw).await, Outcome::Thawed { disputes: 0 });
    ledger.call("1").await.unwrap().release();
    ledger.stop().await;
    let ledger = fixture.open().await;
    take(&ledger, disputed(Stage::Standing)).await.unwrap();
    ledger.call("1").await.unwrap().release();
    take(&ledger, disputed(Stage::Lost)).await.unwrap();
    assert_eq!(ledger.has("alice").await.0, "0");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn an_account_keeps_its_first_customer(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let keep = |customer: &str, instead_of: Option<&str>| Operation::RecordCustomer {
        account: account("alice"),
        customer: customer.into(),
        instead_of: instead_of.map(Arc::from),
    };
    let kept = |customer: &str| Outcome::CustomerRecorded(customer.into());
    assert_eq!(ledger.ask(keep("cus_1", None)).await, kept("cus_1"));
    assert_eq!(ledger.ask(keep("cus_2", None)).await, kept("cus_1"));
    assert_eq!(ledger.ask(keep("cus_3", Some("cus_1"))).await, kept("cus_3"));
    assert_eq!(ledger.ask(keep("cus_4", Some("cus_1"))).await, kept("cus_3"), "two at once");
    ledger.stop().await;
    let ledger = fixture.open().await;
    let read = ledger.read().customer(&account("alice")).await.unwrap();
    assert_eq!(read.as_deref(), Some("cus_3"));
    ledger.stop().await;
}

async fn one_batch_decides_what_its_own_operations_changed(fixture: TestLedger) {
    use farebox::ledger::Backend as _;
    let mut backend = fixture.backend().await;
    let batch = [
        event("evt_1"),
        taking(None, refunded("re_1", 3950, &["ch_1"])),
        taking(Some("evt_1"), paid()),
        event("evt_1"),
        taking(None, refunded("re_1", 3950, &["ch_1", "pi_1"])),
        taking(None, disputed(Stage::Standing)),
        Operation::Balance { account: account("alice") },
    ];
    let outcomes = backend.apply(&batch).await;
    let applied = Outcome::EventRecorded { state: EventState::Applied, new: false };
    assert_eq!(outcomes[3], applied);
    match &outcomes[6] {
        Outcome::Balance(Some(balance)) => {
            assert_eq!(balance.balance, credits("250").signed());
            assert!(balance.frozen);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    let reader = backend.reader().await;
    assert!(reader.reconcile().await.unwrap().is_clean());
    let payment = reader.payment("ch_1").await.unwrap().unwrap();
    assert_eq!(payment.account(), Some(&account("alice")));
    assert!(backend.close().await);
}

async fn folding_keeps_what_payments_moved(fixture: TestLedger) {
    let ledger = fixture.open().await;
    take(&ledger, paid()).await.unwrap();
    take(&ledger, refunded("re_1", 3950, &["pi_1"])).await.unwrap();
    assert_eq!(ledger.fold(i64::MAX).await.unwrap().entries, 2);
    ledger.reconciles().await;
    take(&ledger, paid()).await.unwrap();
    take(&ledger, refunded("re_2", 3950, &["pi_1"])).await.unwrap();
    assert_eq!(ledger.has("alice").await, text(("0", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}
