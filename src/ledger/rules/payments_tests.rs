//! The same facts give the same balance, in whatever order and however often they arrive.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::{
    EntryKind, HoldId, NewHold, Operation, OperationId, Origin, Outcome, Posting, Refusal,
};
use crate::ledger::payment::{
    Dispute, Facts, Money, OnDispute, Payment, PaymentChange, Progress, Refund, Sale, Stage,
    TakeFacts,
};
use crate::ledger::rules::decide;
use crate::ledger::rules::state::{Changes, Known, Now, State};

const PAID: u64 = 7900;

fn alice() -> AccountId {
    "alice".parse().unwrap()
}

fn whole(credits: u64) -> Credits {
    Credits::from_whole(credits).unwrap()
}

fn euros(amount: u64) -> Money {
    Money { amount, currency: "eur".into() }
}

fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn sold() -> Facts {
    let sale = Sale {
        session: "cs_1".into(),
        account: alice(),
        pack: "pack-500".into(),
        credits: whole(500),
        price: euros(PAID),
        imported: false,
    };
    Facts { names: names(&["cs_1"]), sale: Some(sale), ..Facts::default() }
}

fn completed(progress: Progress) -> Facts {
    let paid = (progress == Progress::Paid).then(|| euros(PAID));
    Facts { names: names(&["cs_1", "pi_1"]), progress, paid, ..sold() }
}

fn refund(id: &str, amount: u64, failed: bool) -> Facts {
    let refund = Refund { money: euros(amount), failed };
    let refunds = [(Arc::from(id), refund)].into();
    Facts { names: names(&["pi_1", "ch_1"]), refunds, ..Facts::default() }
}

/// The facts of an event that names only the charge, and reports the sum of its refunds.
fn charge(refunded: u64) -> Facts {
    Facts { names: names(&["ch_1"]), refunded, ..Facts::default() }
}

fn dispute(id: &str, amount: u64, stage: Stage) -> Facts {
    returned_dispute(id, amount, stage, None)
}

/// A dispute in which the bank has given `returned` back.
fn returned_dispute(id: &str, amount: u64, stage: Stage, returned: Option<u64>) -> Facts {
    let dispute = Dispute { money: euros(amount), stage, returned, thawed: false };
    let disputes = [(Arc::from(id), dispute)].into();
    Facts { names: names(&["pi_1", "ch_1", id]), disputes, ..Facts::default() }
}

/// A state, with the rows that a disk would store.
#[derive(Default)]
struct TestLedger {
    state: State,
    known: Known,
}

impl TestLedger {
    fn ask(&mut self, operation: &Operation) -> Outcome {
        let now = Now { wall_ms: 1, ledger_ms: 1, commit: 1 };
        decide(operation, &mut self.state, &mut self.known, &mut Changes::default(), now)
    }

    fn take(&mut self, facts: &Facts, on_dispute: OnDispute) -> PaymentChange {
        let because = "test".into();
        let take = TakeFacts { event: None, facts: facts.clone(), on_dispute, because };
        match self.ask(&Operation::TakeFacts(Box::new(take))) {
            Outcome::PaymentChanged(change) => *change,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&mut self, id: &str, credits: u64) -> Outcome {
        self.ask(&Operation::Hold(NewHold {
            id: id.parse::<HoldId>().unwrap(),
            account: alice(),
            amount: whole(credits),
            route: "/x".into(),
            origin: Origin::Api,
            ttl_ms: 1000,
            claim: None,
        }))
    }

    fn grant(&mut self, id: &str, credits: u64) {
        let posting = Posting {
            id: OperationId::posting(EntryKind::Grant, id).unwrap(),
            account: alice(),
            kind: EntryKind::Grant,
            amount: whole(credits).signed(),
            reason: None,
        };
        assert!(matches!(self.ask(&Operation::Post(posting)), Outcome::Posted { .. }));
    }

    fn balance(&self) -> SignedCredits {
        self.state.balance(&alice()).unwrap_or_default().balance
    }

    fn frozen(&self) -> bool {
        self.state.is_frozen(&alice())
    }
}

fn signed(credits: i64) -> SignedCredits {
    SignedCredits::from_micros(credits * 1_000_000).unwrap()
}

fn any_facts() -> impl Strategy<Value = Vec<Facts>> {
    let stage =
        prop::sample::select(vec![Stage::Inquiry, Stage::Standing, Stage::Lost, Stage::Won]);
    let one = prop_oneof![
        Just(sold()),
        Just(completed(Progress::Pending)),
        Just(completed(Progress::Paid)),
        Just(completed(Progress::Failed)),
        (0..3_u8, 1..=PAID, any::<bool>()).prop_map(|(n, amount, failed)| refund(
            &format!("re_{n}"),
            amount,
            failed
        )),
        (0..=PAID).prop_map(charge),
        (0..2_u8, 1..=2 * PAID, stage, prop::option::of(0..=2 * PAID)).prop_map(
            |(n, amount, stage, returned)| {
                returned_dispute(&format!("dp_{n}"), amount, stage, returned)
            }
        ),
        in_dollars(),
    ];
    prop::collection::vec(one, 0..10)
}

/// Facts about money that goes back in another currency than the currency of the payment.
fn in_dollars() -> impl Strategy<Value = Facts> {
    (any_money_back(), 1..=PAID).prop_map(|(mut facts, amount)| {
        let dollars = Money { amount, currency: "usd".into() };
        facts.refunds.values_mut().for_each(|refund| refund.money = dollars.clone());
        facts.disputes.values_mut().for_each(|dispute| dispute.money = dollars.clone());
        if facts.refunded > 0 {
            facts.charged_in = Some("usd".into());
        }
        facts
    })
}

fn any_money_back() -> impl Strategy<Value = Facts> {
    prop_oneof![
        any::<bool>().prop_map(|failed| refund("re_9", PAID, failed)),
        (1..=PAID).prop_map(charge),
        prop::option::of(0..=PAID).prop_map(|returned| returned_dispute(
            "dp_9",
            PAID,
            Stage::Lost,
            returned
        )),
    ]
}

fn policies() -> impl Strategy<Value = OnDispute> {
    prop::sample::select(vec![OnDispute::ClawBack, OnDispute::Freeze])
}

proptest! {
    #[test]
    fn every_order_and_repetition_of_the_facts_gives_one_balance(
        facts in any_facts(),
        swaps in prop::collection::vec((any::<Index>(), any::<Index>()), 0..30),
        again in prop::collection::vec(any::<Index>(), 0..20),
        on_dispute in policies(),
    ) {
        let mut other = facts.clone();
        if !facts.is_empty() {
            other.extend(again.iter().map(|index| index.get(&facts).clone()));
            for (a, b) in &swaps {
                let (a, b) = (a.index(other.len()), b.index(other.len()));
                other.swap(a, b);
            }
        }
        let mut ledgers = [TestLedger::default(), TestLedger::default()];
        for (ledger, facts) in ledgers.iter_mut().zip([&facts, &other]) {
            for fact in facts {
                let change = ledger.take(fact, on_dispute);
                prop_assert!(change.payment.taken <= change.payment.granted);
                let left = change.payment.granted.checked_sub(change.payment.taken).unwrap();
                if change.is_ours() {
                    prop_assert_eq!(ledger.balance(), left.signed());
                }
            }
        }
        prop_assert_eq!(ledgers[0].balance(), ledgers[1].balance());
        prop_assert_eq!(ledgers[0].frozen(), ledgers[1].frozen());
    }

    #[test]
    fn joining_is_idempotent_commutative_and_associative(all in any_facts()) {
        let join = |facts: &mut dyn Iterator<Item = &Facts>| {
            facts.fold(Facts::default(), |mut sum, next| { sum.join(next); sum })
        };
        let forwards = join(&mut all.iter());
        prop_assert_eq!(&join(&mut all.iter().rev()), &forwards);
        prop_assert_eq!(&join(&mut all.iter().chain(&all)), &forwards);
        let (left, right) = all.split_at(all.len() / 2);
        let halves = [join(&mut left.iter()), join(&mut right.iter())];
        prop_assert_eq!(&join(&mut halves.iter()), &forwards);
    }

    #[test]
    fn small_refunds_take_back_what_one_large_one_does(parts in prop::collection::vec(1..500_u64, 1..10)) {
        let mut ledger = TestLedger::default();
        ledger.take(&completed(Progress::Paid), OnDispute::ClawBack);
        for (n, part) in parts.iter().enumerate() {
            ledger.take(&refund(&format!("re_{n}"), *part, false), OnDispute::ClawBack);
        }
        let mut at_once = TestLedger::default();
        at_once.take(&completed(Progress::Paid), OnDispute::ClawBack);
        at_once.take(&refund("re_1", parts.iter().sum(), false), OnDispute::ClawBack);
        prop_assert_eq!(ledger.balance(), at_once.balance());
    }
}

#[test]
fn a_partial_refund_takes_back_its_part() {
    let mut ledger = TestLedger::default();
    ledger.take(&completed(Progress::Paid), OnDispute::ClawBack);
    ledger.take(&refund("re_1", 3950, false), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(250));
    ledger.take(&charge(3950), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(250), "the same refund, as its charge reports it");
    ledger.take(&refund("re_1", 3950, true), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(500), "a refund that failed took nothing back");
}

#[test]
fn a_third_of_the_money_takes_back_a_third_rounded_for_the_buyer() {
    let mut facts = completed(Progress::Paid);
    facts.paid = Some(euros(3));
    facts.join(&refund("re_1", 1, false));
    assert_eq!(facts.due(OnDispute::ClawBack).taken.micros(), 166_666_666);
    facts.join(&refund("re_2", 2, false));
    assert_eq!(facts.due(OnDispute::ClawBack).taken, whole(500));
}

#[test]
fn a_refund_and_a_lost_dispute_take_back_no_more_than_was_granted() {
    let mut ledger = TestLedger::default();
    ledger.take(&completed(Progress::Paid), OnDispute::ClawBack);
    ledger.take(&refund("re_1", PAID, false), OnDispute::ClawBack);
    ledger.take(&dispute("dp_1", PAID, Stage::Lost), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(0));
    ledger.take(&dispute("dp_1", PAID, Stage::Won), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(0), "the refund still stands");
}

#[test]
fn a_dispute_that_is_partly_won_gives_back_its_part() {
    for on_dispute in [OnDispute::ClawBack, OnDispute::Freeze] {
        let mut ledger = TestLedger::default();
        ledger.take(&completed(Progress::Paid), on_dispute);
        ledger.take(&dispute("dp_1", PAID, Stage::Standing), on_dispute);
        ledger.take(&dispute("dp_1", PAID, Stage::Lost), on_dispute);
        assert_eq!(ledger.balance(), signed(0));
        ledger.take(&returned_dispute("dp_1", PAID, Stage::Lost, Some(3950)), on_dispute);
        assert_eq!(ledger.balance(), signed(250));
        ledger.take(&dispute("dp_1", PAID, Stage::Lost), on_dispute);
        assert_eq!(ledger.balance(), signed(250), "its closing, reported again");
        // The bank changes its mind: the rest comes back as well.
        ledger.take(&returned_dispute("dp_1", PAID, Stage::Won, Some(PAID)), on_dispute);
        assert_eq!(ledger.balance(), signed(500));
        assert!(!ledger.frozen());
    }
}

#[test]
fn what_was_refunded_before_the_bank_took_all_comes_back_without_credits() {
    let mut ledger = TestLedger::default();
    ledger.take(&completed(Progress::Paid), OnDispute::ClawBack);
    ledger.take(&refund("re_1", 3950, false), OnDispute::ClawBack);
    ledger.take(&dispute("dp_1", PAID, Stage::Standing), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(0));
    ledger.take(&returned_dispute("dp_1", PAID, Stage::Lost, Some(3950)), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(0), "half was refunded, half was lost");
    ledger.take(&returned_dispute("dp_1", PAID, Stage::Won, Some(PAID)), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(250), "the refund still stands");
}

#[test]
fn money_back_in_another_currency_counts_as_all_that_was_paid() {
    let dollars = |amount: u64| Money { amount, currency: "usd".into() };
    let taken = |back: Facts| {
        let mut facts = completed(Progress::Paid);
        facts.join(&back);
        facts.due(OnDispute::ClawBack).taken
    };
    let mut back = refund("re_1", 1, false);
    back.refunds.values_mut().for_each(|refund| refund.money = dollars(1));
    assert_eq!(taken(back.clone()), whole(500));
    back.refunds.values_mut().for_each(|refund| refund.failed = true);
    assert_eq!(taken(back), whole(0), "it failed");

    assert_eq!(taken(Facts { charged_in: Some("usd".into()), ..charge(100) }), whole(500));
    assert_eq!(taken(Facts { charged_in: Some("usd".into()), ..charge(0) }), whole(0));
    assert_eq!(taken(Facts { charged_in: Some("eur".into()), ..charge(3950) }), whole(250));

    let mut back = dispute("dp_1", 9000, Stage::Lost);
    back.disputes.values_mut().for_each(|dispute| dispute.money = dollars(9000));
    assert_eq!(taken(back.clone()), whole(500));
    back.disputes.values_mut().for_each(|dispute| dispute.returned = Some(4500));
    assert_eq!(taken(back), whole(250), "half of it came back");
}

#[test]
fn a_dispute_freezes_until_it_is_over() {
    let mut ledger = TestLedger::default();
    ledger.take(&completed(Progress::Paid), OnDispute::Freeze);
    ledger.take(&dispute("dp_1", PAID, Stage::Inquiry), OnDispute::Freeze);
    assert!(!ledger.frozen(), "a bank only asks");
    ledger.take(&dispute("dp_1", PAID, Stage::Standing), OnDispute::Freeze);
    assert!(ledger.frozen());
    assert_eq!(ledger.balance(), signed(500));
    assert_eq!(ledger.hold("a", 5), Outcome::Refused(Refusal::Frozen));
    ledger.take(&dispute("dp_1", PAID, Stage::Lost), OnDispute::Freeze);
    assert!(!ledger.frozen());
    assert_eq!(ledger.balance(), signed(0));
    ledger.take(&dispute("dp_1", PAID, Stage::Won), OnDispute::Freeze);
    assert_eq!(ledger.balance(), signed(500));
}

#[test]
fn an_operator_s_thaw_lasts_until_the_dispute_is_lost() {
    let mut ledger = TestLedger::default();
    ledger.take(&completed(Progress::Paid), OnDispute::Freeze);
    ledger.take(&dispute("dp_1", PAID, Stage::Standing), OnDispute::Freeze);
    assert_eq!(ledger.ask(&Operation::Thaw { account: alice() }), Outcome::Thawed { disputes: 1 });
    assert!(!ledger.frozen());
    ledger.take(&dispute("dp_1", PAID, Stage::Standing), OnDispute::Freeze);
    assert!(!ledger.frozen(), "the same dispute again");
    ledger.take(&dispute("dp_2", PAID, Stage::Standing), OnDispute::Freeze);
    assert!(ledger.frozen(), "another one");
    ledger.take(&dispute("dp_1", PAID, Stage::Lost), OnDispute::Freeze);
    assert_eq!(ledger.balance(), signed(0));
}

#[test]
fn a_clawback_above_the_balance_leaves_a_debt_that_the_next_grant_pays_first() {
    let mut ledger = TestLedger::default();
    ledger.take(&completed(Progress::Paid), OnDispute::ClawBack);
    assert!(matches!(ledger.hold("a", 400), Outcome::Held { .. }));
    let capture = Operation::Capture {
        hold: "a".parse().unwrap(),
        account: None,
        amount: whole(400),
        route: "/x".into(),
        origin: Origin::Api,
        may_overrun: false,
        usage: None,
        claim: None,
    };
    assert!(matches!(ledger.ask(&capture), Outcome::Captured { .. }));
    ledger.take(&refund("re_1", PAID, false), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(-400));
    let refused = Refusal::Insufficient { available: signed(-400) };
    assert_eq!(ledger.hold("b", 1), Outcome::Refused(refused));
    ledger.grant("more", 500);
    assert_eq!(ledger.balance(), signed(100));
    assert!(matches!(ledger.hold("c", 100), Outcome::Held { .. }));
}

#[test]
fn money_back_for_a_payment_not_yet_known_counts_once_it_is() {
    let mut ledger = TestLedger::default();
    let early = ledger.take(&refund("re_1", 3950, false), OnDispute::ClawBack);
    assert!(!early.is_ours() && !early.moved());
    ledger.take(&completed(Progress::Paid), OnDispute::ClawBack);
    assert_eq!(ledger.balance(), signed(250));
}

#[test]
fn what_others_sell_leaves_no_trace() {
    let mut ledger = TestLedger::default();
    let foreign = Facts { sale: None, ..completed(Progress::Paid) };
    assert!(!ledger.take(&foreign, OnDispute::ClawBack).is_ours());
    assert!(ledger.known.payments.is_empty());
    assert!(ledger.state.balance(&alice()).is_none());
}

#[test]
fn a_payment_reads_back_as_it_was_stored() {
    let mut ledger = TestLedger::default();
    ledger.take(&refund("re_1", 3950, false), OnDispute::Freeze);
    ledger.take(&dispute("dp_1", PAID, Stage::Standing), OnDispute::Freeze);
    let change = ledger.take(&completed(Progress::Paid), OnDispute::Freeze);
    let text = serde_json::to_string(&change.payment).unwrap();
    assert_eq!(serde_json::from_str::<Payment>(&text).unwrap(), change.payment);
}
