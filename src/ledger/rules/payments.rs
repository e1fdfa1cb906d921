//! The rules by which payments move credits. Like the rest of the rules: checks first, nothing is
//! changed before the last of them has passed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};

use crate::ledger::inbox::{EventState, NewEvent, StripeEvent};
use crate::ledger::operation::{EntryKind, OperationId, Outcome, Posting, Refusal};
use crate::ledger::payment::{Payment, Settled, TakeFacts};
use crate::ledger::rules::facts::{Due, Facts};
use crate::ledger::rules::holds::Rules;
use crate::ledger::rules::state::{KeptCustomer, Undo};

/// A payment with facts joined to it.
struct Joined {
    /// The payments that were known of it before, in the order of their ids.
    before: Vec<Payment>,
    due: Due,
    settled: Settled,
}

impl Rules<'_> {
    pub fn keep_event(&mut self, new: &NewEvent) -> Result<Outcome, Refusal> {
        if let Some(event) = self.known.events.get(&new.id) {
            return Ok(Outcome::EventKept { state: event.state, new: false });
        }
        let NewEvent { id, kind, payload } = new.clone();
        let (state, received_at_ms) = (EventState::Received, self.now.wall_ms);
        self.set_event(StripeEvent { id, kind, payload, state, note: None, received_at_ms });
        Ok(Outcome::EventKept { state, new: true })
    }

    pub fn end_event(
        &mut self,
        id: &Arc<str>,
        state: EventState,
        note: Option<&Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        let event = self.known.events.get(id).ok_or(Refusal::UnknownEvent)?;
        self.set_event(StripeEvent { state, note: note.cloned(), ..event.clone() });
        Ok(Outcome::EventEnded)
    }

    /// Joins facts with what is known, works out what the payment comes to, and moves the
    /// difference to what was moved before.
    pub fn take_facts(&mut self, take: &TakeFacts) -> Result<Outcome, Refusal> {
        let TakeFacts { event, because, .. } = take;
        if event.as_ref().is_some_and(|event| !self.known.events.contains_key(event)) {
            return Err(Refusal::UnknownEvent);
        }
        let Joined { before, due, mut settled } = self.join(take)?;
        if let Some(account) = settled.payment.account().cloned() {
            self.move_credits(&account, &mut settled, because)?;
            self.freeze(&account, &settled.payment.facts, due.frozen_by);
        }
        // What says nothing of money gone back, about a payment that is not ours, is forgotten.
        let worth_keeping = settled.is_ours() || settled.payment.facts.speaks_of_money_back();
        if worth_keeping && before != [settled.payment.clone()] {
            for gone in before.iter().filter(|payment| payment.id != settled.payment.id) {
                self.known.payments.remove(&gone.id);
                self.changes.payments.remove(&gone.id);
                self.changes.payments_gone.insert(gone.id.clone());
            }
            self.set_payment(settled.payment.clone());
        }
        if let Some(event) = event {
            let state = if settled.is_ours() { EventState::Applied } else { EventState::Foreign };
            self.end_event(event, state, None)?;
        }
        Ok(Outcome::Settled(Box::new(settled)))
    }

    /// Grants what was bought in an earlier system, and remembers the payment with it, so that a
    /// payment is granted once, whichever way and however often it comes. What was refunded of it
    /// before is taken back at once.
    pub fn grant_imported_payment(
        &mut self,
        posting: &Posting,
        payment: &TakeFacts,
    ) -> Result<Outcome, Refusal> {
        let facts = &payment.facts;
        for known in self.known.payments.related(&facts.names) {
            let is_same =
                known.facts.sale == facts.sale && facts.names.is_subset(&known.facts.names);
            if known.facts.sale.is_some() && !is_same {
                return Err(Refusal::PaymentKnown);
            }
        }
        let again = self.posted_before(posting)?;
        // All of it fits, or nothing of it happens.
        let settled = self.join(payment)?.settled;
        let balance =
            self.state.account(&posting.account).map_or(SignedCredits::ZERO, |a| a.balance);
        let granted = if again.is_some() { SignedCredits::ZERO } else { posting.amount };
        let balance = balance.checked_add(granted).ok_or(Refusal::OutOfRange)?;
        let balance = balance.checked_add(settled.reinstated.signed());
        let balance = balance.ok_or(Refusal::OutOfRange)?;
        balance.checked_sub(settled.clawed_back.signed()).ok_or(Refusal::OutOfRange)?;
        let posted = self.grant_imported(posting)?;
        self.take_facts(payment)?;
        Ok(posted)
    }

    /// A payment with these facts joined to it, and the credits that it comes to. Changes
    /// nothing.
    fn join(&self, take: &TakeFacts) -> Result<Joined, Refusal> {
        let TakeFacts { facts, on_dispute, .. } = take;
        let before = self.known.payments.related(&facts.names);
        let mut payment = merge(before.clone(), facts, self.now.wall_ms)?;
        payment.facts.join(facts);
        // A payment belongs to one sale. What an import has granted is not sold a second time.
        if let (Some(known), Some(told)) = (&payment.facts.sale, &facts.sale)
            && known.session != told.session
            && !known.imported
        {
            return Err(Refusal::Conflict);
        }
        let due = payment.facts.due(*on_dispute);
        let mut settled = difference(payment, &due);
        settled.new = settled.is_ours() && before.iter().all(|known| known.facts.sale.is_none());
        Ok(Joined { before, due, settled })
    }

    pub fn keep_customer(
        &mut self,
        account: &AccountId,
        customer: &Arc<str>,
        instead_of: Option<&Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        match self.known.customers.get(account) {
            Some(kept) if Some(kept) != instead_of => Ok(Outcome::CustomerKept(kept.clone())),
            _ => {
                self.known.customers.insert(account.clone(), customer.clone());
                let kept = KeptCustomer { account: account.clone(), customer: customer.clone() };
                self.changes.customers.push(kept);
                Ok(Outcome::CustomerKept(customer.clone()))
            }
        }
    }

    /// Lifts what freezes an account. The disputes remember it, so that their next event does not
    /// freeze it again.
    pub fn thaw(&mut self, account: &AccountId) -> Result<Outcome, Refusal> {
        let disputes = self.state.freezes.get(account).cloned().unwrap_or_default();
        for id in &disputes {
            for mut payment in self.known.payments.related(&BTreeSet::from([id.clone()])) {
                if let Some(dispute) = payment.facts.disputes.get_mut(id) {
                    dispute.thawed = true;
                    self.set_payment(payment);
                }
            }
        }
        self.set_freezes(account, BTreeSet::new());
        Ok(Outcome::Thawed { disputes: disputes.len() })
    }

    fn move_credits(
        &mut self,
        account: &AccountId,
        settled: &mut Settled,
        because: &Arc<str>,
    ) -> Result<(), Refusal> {
        let Some(sale) = settled.payment.facts.sale.clone() else { return Ok(()) };
        let (granted, taken, given) = (settled.granted, settled.clawed_back, settled.reinstated);
        // All of it fits, or nothing of it happens.
        let balance = self.state.account(account).map_or(SignedCredits::ZERO, |a| a.balance);
        let sum = balance.checked_add(granted.signed()).ok_or(Refusal::OutOfRange)?;
        let sum = sum.checked_add(given.signed()).ok_or(Refusal::OutOfRange)?;
        sum.checked_sub(taken.signed()).ok_or(Refusal::OutOfRange)?;
        if !granted.is_zero() {
            let id = OperationId::payment(&sale.session, None);
            let pack = Some(sale.pack.clone());
            self.enter(account, id, EntryKind::Grant, granted.signed(), None, pack)?;
        }
        for (amount, kind) in
            [(-taken.signed(), EntryKind::Clawback), (given.signed(), EntryKind::Reinstatement)]
        {
            if amount != SignedCredits::ZERO {
                settled.payment.moves = settled.payment.moves.saturating_add(1);
                let id = OperationId::payment(&sale.session, Some(settled.payment.moves));
                self.enter(account, id, kind, amount, None, Some(because.clone()))?;
            }
        }
        Ok(())
    }

    /// Has exactly `frozen_by`, of the disputes in `facts`, freeze the account.
    fn freeze(&mut self, account: &AccountId, facts: &Facts, frozen_by: BTreeSet<Arc<str>>) {
        let mut freezes = self.state.freezes.get(account).cloned().unwrap_or_default();
        freezes.retain(|dispute| !facts.disputes.contains_key(dispute));
        freezes.extend(frozen_by);
        self.set_freezes(account, freezes);
    }

    fn set_freezes(&mut self, account: &AccountId, freezes: BTreeSet<Arc<str>>) {
        let before = self.state.freezes.get(account).cloned().unwrap_or_default();
        if freezes == before {
            return;
        }
        for gone in before.difference(&freezes) {
            self.changes.freezes.insert(gone.clone(), None);
        }
        for new in freezes.difference(&before) {
            self.changes.freezes.insert(new.clone(), Some(account.clone()));
        }
        self.state.set_freezes(account.clone(), freezes);
        self.changes.undo.push(Undo::Freezes(account.clone(), before));
    }

    fn set_payment(&mut self, payment: Payment) {
        self.known.payments.insert(payment.clone());
        self.changes.payments.insert(payment.id.clone(), payment);
    }

    fn set_event(&mut self, event: StripeEvent) {
        self.known.events.insert(event.id.clone(), event.clone());
        self.changes.events.insert(event.id.clone(), event);
    }
}

/// The one payment that `related` turn out to be; a new one where there is none.
fn merge(related: Vec<Payment>, facts: &Facts, now_ms: i64) -> Result<Payment, Refusal> {
    let mut related = related.into_iter();
    let Some(mut payment) = related.next() else {
        let session = facts.sale.as_ref().map(|sale| &sale.session);
        let id = session.or(facts.names.first()).ok_or(Refusal::Conflict)?;
        return Ok(Payment::new(id.clone(), now_ms));
    };
    if related.all(|other| payment.absorb(other)) { Ok(payment) } else { Err(Refusal::Conflict) }
}

/// What is still to be done for a payment to come to `due`.
fn difference(mut payment: Payment, due: &Due) -> Settled {
    let less = |whole: Credits, part: Credits| whole.checked_sub(part).unwrap_or_default();
    let granted = less(due.granted, payment.granted);
    let clawed_back = less(due.taken, payment.taken);
    let reinstated = less(payment.taken, due.taken);
    payment.granted = payment.granted.max(due.granted);
    payment.taken = due.taken;
    let imported = payment.facts.sale.as_ref().is_some_and(|sale| sale.imported);
    let granted = if imported { Credits::ZERO } else { granted };
    Settled { payment, new: false, granted, clawed_back, reinstated }
}
