//! The rules of payments, of the inbox, and of accounts that disputes freeze.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::inbox::{EventState, NewEvent, StripeEvent};
use crate::ledger::operation::{EntryKind, OperationId, Outcome, Posting, Refusal};
use crate::ledger::payment::{Due, Facts, Payment, PaymentChange, TakeFacts};
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::state::{StripeCustomer, Undo};

/// A payment to which new facts are joined, before any state is changed.
struct Joined {
    /// The known payments that these facts belong to, in the order of their ids. Two known payments can
    /// turn out to be the same one.
    before: Vec<Payment>,
    due: Due,
    change: PaymentChange,
}

impl Rules<'_> {
    /// Stores an event in the inbox.
    pub(super) fn record_event(&mut self, new: &NewEvent) -> Result<Outcome, Refusal> {
        if let Some(event) = self.known.events.get(&new.id) {
            return Ok(Outcome::EventRecorded { state: event.state, new: false });
        }
        let NewEvent { id, kind, payload } = new.clone();
        let (state, received_at_ms) = (EventState::Received, self.now.wall_ms);
        self.set_event(StripeEvent { id, kind, payload, state, note: None, received_at_ms });
        Ok(Outcome::EventRecorded { state, new: true })
    }

    /// Records the final state of an event.
    pub(super) fn end_event(
        &mut self,
        id: &Arc<str>,
        state: EventState,
        note: Option<&Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        let event = self.known.events.get(id).ok_or(Refusal::UnknownEvent)?;
        self.set_event(StripeEvent { state, note: note.cloned(), ..event.clone() });
        Ok(Outcome::EventEnded)
    }

    /// Joins facts with the known ones, calculates the new totals, and moves the credits by which the new totals differ
    /// from the previous ones.
    pub(super) fn take_facts(&mut self, take: &TakeFacts) -> Result<Outcome, Refusal> {
        let TakeFacts { event, because, .. } = take;
        if event.as_ref().is_some_and(|event| !self.known.events.contains_key(event)) {
            return Err(Refusal::UnknownEvent);
        }
        let Joined { before, due, mut change } = self.join(take)?;
        if let Some(account) = change.payment.account().cloned() {
            self.move_credits(&account, &mut change, because)?;
            self.freeze(&account, &change.payment.facts, due.frozen_by);
        }
        // A payment without a known sale may be another seller's. It is stored only if money went
        // back, because then its sale may still be reported.
        let is_stored = change.is_ours() || change.payment.facts.has_money_back();
        if is_stored && before != [change.payment.clone()] {
            for gone in before.iter().filter(|payment| payment.id != change.payment.id) {
                self.known.payments.remove(&gone.id);
                self.changes.payments.remove(&gone.id);
                self.changes.payments_gone.insert(gone.id.clone());
            }
            self.set_payment(change.payment.clone());
        }
        if let Some(event) = event {
            let state = if change.is_ours() { EventState::Applied } else { EventState::Foreign };
            self.end_event(event, state, None)?;
        }
        Ok(Outcome::PaymentChanged(Box::new(change)))
    }

    /// Grants credits that were bought in an earlier system, and stores their payment, so that the credits are granted
    /// once, however often and in whichever way the payment is reported. If some of the money was refunded, the same
    /// part of the credits is taken back at once.
    pub(super) fn grant_imported_payment(
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
        // Every step is checked before the first change.
        let change = self.join(payment)?.change;
        let balance =
            self.state.account(&posting.account).map_or(SignedCredits::ZERO, |a| a.balance);
        let granted = if again.is_some() { SignedCredits::ZERO } else { posting.amount };
        let balance = balance.checked_add(granted).ok_or(Refusal::OutOfRange)?;
        let balance = balance.checked_add(change.reinstated.signed());
        let balance = balance.ok_or(Refusal::OutOfRange)?;
        balance.checked_sub(change.clawed_back.signed()).ok_or(Refusal::OutOfRange)?;
        let posted = self.grant_imported(posting)?;
        self.take_facts(payment)?;
        Ok(posted)
    }

    /// Joins the facts to their payment and calculates the credits to move. Changes nothing.
    fn join(&self, take: &TakeFacts) -> Result<Joined, Refusal> {
        let TakeFacts { facts, on_dispute, .. } = take;
        let before = self.known.payments.related(&facts.names);
        let mut payment = merge(before.clone(), facts, self.now.wall_ms)?;
        payment.facts.join(facts);
        // A payment belongs to one sale. If an import has granted the credits of that sale, no more
        // are granted.
        if let (Some(known), Some(new)) = (&payment.facts.sale, &facts.sale)
            && known.session != new.session
            && !known.imported
        {
            return Err(Refusal::Conflict);
        }
        let due = payment.facts.due(*on_dispute);
        let mut change = difference(payment, &due);
        change.new = change.is_ours() && before.iter().all(|known| known.facts.sale.is_none());
        Ok(Joined { before, due, change })
    }

    /// Records an account's customer at Stripe, unless a customer other than `instead_of` is recorded.
    pub(super) fn record_customer(
        &mut self,
        account: &AccountId,
        customer: &Arc<str>,
        instead_of: Option<&Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        match self.known.customers.get(account) {
            Some(known) if Some(known) != instead_of => {
                Ok(Outcome::CustomerRecorded(known.clone()))
            }
            _ => {
                self.known.customers.insert(account.clone(), customer.clone());
                let new = StripeCustomer { account: account.clone(), customer: customer.clone() };
                self.changes.customers.push(new);
                Ok(Outcome::CustomerRecorded(customer.clone()))
            }
        }
    }

    /// Unfreezes an account. The disputes are marked, so that later events about them do not freeze
    /// it again.
    pub(super) fn thaw(&mut self, account: &AccountId) -> Result<Outcome, Refusal> {
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
        change: &mut PaymentChange,
        because: &Arc<str>,
    ) -> Result<(), Refusal> {
        let Some(sale) = change.payment.facts.sale.clone() else { return Ok(()) };
        let (granted, taken, given) = (change.granted, change.clawed_back, change.reinstated);
        // Every step is checked before the first change.
        let balance = self.state.account(account).map_or(SignedCredits::ZERO, |a| a.balance);
        let sum = balance.checked_add(granted.signed()).ok_or(Refusal::OutOfRange)?;
        let sum = sum.checked_add(given.signed()).ok_or(Refusal::OutOfRange)?;
        sum.checked_sub(taken.signed()).ok_or(Refusal::OutOfRange)?;
        if !granted.is_zero() {
            let id = OperationId::payment(&sale.session, None);
            let pack = Some(sale.pack.clone());
            self.add_entry(account, id, EntryKind::Grant, granted.signed(), None, pack)?;
        }
        for (amount, kind) in
            [(-taken.signed(), EntryKind::Clawback), (given.signed(), EntryKind::Reinstatement)]
        {
            if amount != SignedCredits::ZERO {
                change.payment.moves = change.payment.moves.saturating_add(1);
                let id = OperationId::payment(&sale.session, Some(change.payment.moves));
                self.add_entry(account, id, kind, amount, None, Some(because.clone()))?;
            }
        }
        Ok(())
    }

    /// Makes the disputes in `frozen_by` freeze the account, and lifts the freezes of all other disputes in `facts`.
    /// Disputes of other payments stay as they are.
    fn freeze(&mut self, account: &AccountId, facts: &Facts, frozen_by: BTreeSet<Arc<str>>) {
        let mut freezes = self.state.freezes.get(account).cloned().unwrap_or_default();
        freezes.retain(|dispute| !facts.disputes.contains_key(dispute));
        freezes.extend(frozen_by);
        self.set_freezes(account, freezes);
    }

    /// Sets the disputes that freeze the account, and records the step that undoes the change.
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

/// Merges the payments in `related`, which turned out to be one payment. If there are none, makes a
/// new payment.
fn merge(related: Vec<Payment>, facts: &Facts, now_ms: i64) -> Result<Payment, Refusal> {
    let mut related = related.into_iter();
    let Some(mut payment) = related.next() else {
        let session = facts.sale.as_ref().map(|sale| &sale.session);
        let id = session.or(facts.names.first()).ok_or(Refusal::Conflict)?;
        return Ok(Payment::new(id.clone(), now_ms));
    };
    if related.all(|other| payment.absorb(other)) { Ok(payment) } else { Err(Refusal::Conflict) }
}

/// The change that moves a payment's credits to the totals in `due`.
fn difference(mut payment: Payment, due: &Due) -> PaymentChange {
    let less = |whole: Credits, part: Credits| whole.checked_sub(part).unwrap_or_default();
    let granted = less(due.granted, payment.granted);
    let clawed_back = less(due.taken, payment.taken);
    let reinstated = less(payment.taken, due.taken);
    payment.granted = payment.granted.max(due.granted);
    payment.taken = due.taken;
    let imported = payment.facts.sale.as_ref().is_some_and(|sale| sale.imported);
    let granted = if imported { Credits::ZERO } else { granted };
    PaymentChange { payment, new: false, granted, clawed_back, reinstated }
}
