//! The rules of accounts, postings and refunds.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::operation::{
    Entry, EntryKind, HoldId, OperationId, Origin, Outcome, Posting, Refusal,
};
use crate::ledger::rules::context::Rules;
use crate::ledger::rules::state::Account;

impl Rules<'_> {
    /// Makes an account exist, with a sign-up grant if it is new.
    pub(super) fn open(&mut self, id: &AccountId, signup: Credits) -> Result<Outcome, Refusal> {
        let new = !self.state.accounts.contains_key(id);
        if new {
            self.set_account(id, Account::default());
            if !signup.is_zero() {
                let operation = OperationId::signup(id);
                self.add_entry(id, operation, EntryKind::Grant, signup.signed(), None, None)?;
            }
        }
        Ok(Outcome::Opened { new })
    }

    /// Moves a balance.
    pub(super) fn post(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        if let Some(again) = self.posted_before(posting)? {
            return Ok(again);
        }
        if posting.amount == SignedCredits::ZERO {
            return Err(Refusal::Zero);
        }
        self.post_new(posting)
    }

    /// Grants an account the balance that it had in an earlier system. Even a zero balance makes an
    /// entry, so that the account exists and the id is used.
    pub(super) fn grant_imported(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        match self.posted_before(posting)? {
            Some(again) => Ok(again),
            None => self.post_new(posting),
        }
    }

    /// The outcome of a posting that took effect before; `None` for a new posting.
    pub(super) fn posted_before(&self, posting: &Posting) -> Result<Option<Outcome>, Refusal> {
        let Some(entry) = self.known.entries.get(&posting.id) else { return Ok(None) };
        let same = entry.account == posting.account
            && entry.kind == posting.kind
            && entry.amount == posting.amount;
        match same {
            true => Ok(Some(Outcome::Posted { entry: entry.clone(), new: false })),
            false => Err(Refusal::Conflict),
        }
    }

    fn post_new(&mut self, posting: &Posting) -> Result<Outcome, Refusal> {
        if !posting.kind.may_post(posting.amount) {
            return Err(Refusal::WrongWay);
        }
        let Posting { id, account, kind, amount, reason } = posting;
        let entry = self.add_entry(account, id.clone(), *kind, *amount, None, reason.clone())?;
        Ok(Outcome::Posted { entry, new: true })
    }

    /// Refunds a capture: a `part` of it under an id of its own, or everything that has not been
    /// refunded yet.
    pub(super) fn refund(
        &mut self,
        hold: &HoldId,
        part: Option<(&OperationId, Credits)>,
        reason: Option<Arc<str>>,
    ) -> Result<Outcome, Refusal> {
        let operation = part.map_or_else(|| OperationId::refund(hold), |(id, _)| id.clone());
        if let Some(entry) = self.known.entries.get(&operation) {
            let same = part.is_none_or(|(_, amount)| entry.amount == amount.signed());
            let entry = entry.clone();
            return if same {
                Ok(Outcome::Posted { entry, new: false })
            } else {
                Err(Refusal::Conflict)
            };
        }
        let Some(capture) = self.known.capture_of(hold).cloned() else {
            let live = self.state.holds.get(hold);
            let runs = live.is_some_and(|live| live.origin == Origin::Call);
            return Err(if runs { Refusal::Unsettled } else { Refusal::UnknownCapture });
        };
        let left = self.left_of(hold, &capture);
        let amount = part.map_or(left, |(_, amount)| amount);
        if part.is_some() && amount.is_zero() {
            return Err(Refusal::Zero);
        }
        if amount.is_zero() || amount > left {
            return Err(Refusal::AboveCapture { left });
        }
        let (kind, amount) = (EntryKind::Refund, amount.signed());
        let entry =
            self.add_entry(&capture.account, operation, kind, amount, capture.route, reason)?;
        Ok(Outcome::Posted { entry, new: true })
    }

    /// The part of a capture that has not been refunded.
    pub(super) fn left_of(&self, hold: &HoldId, capture: &Entry) -> Credits {
        let is_refund = |entry: &&Entry| {
            entry.kind == EntryKind::Refund && entry.operation.hold() == Some(hold.as_str())
        };
        let refunds = self.known.entries.values().filter(is_refund);
        let left = refunds.fold(-capture.amount, |left, refund| {
            left.checked_sub(refund.amount).unwrap_or(SignedCredits::ZERO)
        });
        left.spendable()
    }
}
