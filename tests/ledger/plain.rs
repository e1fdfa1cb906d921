//! The ledger's rules, as plainly as they can be written: no batches, no disk, no undoing. It
//! shares no code with the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farebox::account::AccountId;
use farebox::credits::{Credits, MAX_MICROS, SignedCredits};
use farebox::ledger::{
    Balance, Entry, EntryKind, NewHold, Operation, Origin, Outcome, Posting, Reader, Refusal,
};
use farebox::usage::UsageRecord;

use crate::plain_claims::Claims;
use crate::plain_holds::{Fate, State};
use crate::test_ledger::Kind;

/// A line of the ledger, as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub account: AccountId,
    seq: u64,
    operation: String,
    kind: EntryKind,
    pub amount: i64,
    after: i64,
    usage: Option<Arc<UsageRecord>>,
}

impl Line {
    fn of(entry: &Entry) -> Self {
        Self {
            account: entry.account.clone(),
            seq: entry.seq,
            operation: entry.operation.as_str().to_owned(),
            kind: entry.kind,
            amount: entry.amount.micros(),
            after: entry.balance_after.micros(),
            usage: entry.usage.clone(),
        }
    }
}

/// The route of every hold of the model's operations.
pub const ROUTE: &str = "/r";

#[derive(Default)]
pub struct Model {
    pub accounts: BTreeMap<AccountId, Vec<Line>>,
    /// Every id that took effect, folded away or not.
    pub done: BTreeMap<String, Line>,
    folded: BTreeSet<String>,
    /// The captures whose usage is written down.
    used: BTreeSet<String>,
    pub holds: BTreeMap<String, Fate>,
    pub claims: Claims,
    pub batch: usize,
}

/// The outcome that the model expects; a posting without the entry's time.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    Outcome(Outcome),
    Posted(Line, bool),
}

impl Model {
    pub fn of(kind: Kind) -> Self {
        Self { claims: Claims::of(kind), ..Self::default() }
    }

    pub fn total(&self, who: &AccountId) -> i64 {
        self.accounts.get(who).and_then(|lines| lines.last()).map_or(0, |line| line.after)
    }

    pub fn held(&self, who: &AccountId) -> i64 {
        let live = self.holds.values().filter(|h| h.state == State::Live && h.account == *who);
        live.map(|hold| hold.amount).sum()
    }

    pub fn after(&self, who: &AccountId) -> Balance {
        Balance {
            balance: SignedCredits::from_micros(self.total(who)).unwrap(),
            held: Credits::from_micros(self.held(who) as u64).unwrap(),
            frozen: false,
        }
    }

    pub fn line(
        &mut self,
        who: &AccountId,
        operation: String,
        kind: EntryKind,
        amount: i64,
    ) -> Result<Line, Refusal> {
        let after = self.total(who) + amount;
        if after.unsigned_abs() > MAX_MICROS {
            return Err(Refusal::OutOfRange);
        }
        let lines = self.accounts.entry(who.clone()).or_default();
        let seq = lines.last().map_or(0, |line| line.seq) + 1;
        let (account, usage) = (who.clone(), None);
        let line = Line { account, seq, operation: operation.clone(), kind, amount, after, usage };
        lines.push(line.clone());
        self.done.insert(operation, line.clone());
        Ok(line)
    }

    /// Whether the operation can come. A call's id is made for that call, so it is never the id of
    /// an earlier hold that has ended. (Within a batch, and after a release that overtook its hold,
    /// the id may come again.)
    pub fn can_come(&self, operation: &Operation, in_batch: bool) -> bool {
        let Operation::Hold(NewHold { id, origin: Origin::Call, .. }) = operation else {
            return true;
        };
        self.holds.get(id.as_str()).is_none_or(|fate| {
            let now = in_batch && fate.ended_in == self.batch;
            fate.state == State::Live || fate.overtaken || now
        })
    }

    pub fn decide(&mut self, operation: &Operation) -> Expected {
        let posted = |result: Result<(Line, bool), Refusal>| match result {
            Ok((line, new)) => Expected::Posted(line, new),
            Err(refusal) => Expected::Outcome(Outcome::Refused(refusal)),
        };
        let outcome = match operation {
            Operation::Open { account, signup } => {
                let new = !self.accounts.contains_key(account);
                if new {
                    self.accounts.insert(account.clone(), Vec::new());
                    if !signup.is_zero() {
                        let amount = signup.micros() as i64;
                        let id = format!("signup:{account}");
                        self.line(account, id, EntryKind::Grant, amount).unwrap();
                    }
                }
                Ok(Outcome::Opened { new })
            }
            Operation::Post(posting) => return posted(self.post(posting)),
            Operation::Refund { hold, .. } => return posted(self.refund(hold.as_str(), None)),
            Operation::RefundPart { hold, id, amount, .. } => {
                let part = (id.as_str(), amount.micros() as i64);
                return posted(self.refund(hold.as_str(), Some(part)));
            }
            Operation::Hold(hold) => self.hold(hold),
            Operation::Extend { hold, account, amount } => {
                self.extend(hold.as_str(), account, amount.micros() as i64)
            }
            Operation::Renew { hold, .. } => match self.holds.get(hold.as_str()) {
                Some(Fate { state: State::Live, .. }) => Ok(Outcome::Renewed),
                _ => Err(Refusal::UnknownHold),
            },
            Operation::Capture {
                hold, account, amount, origin, may_overrun, usage, claim, ..
            } => {
                let amount = amount.micros() as i64;
                let captured =
                    self.capture(hold.as_str(), account.as_ref(), amount, *origin, *may_overrun);
                if let Ok(Outcome::Captured { .. }) = captured {
                    self.note_usage(hold.as_str(), usage);
                }
                match captured {
                    Ok(Outcome::Captured { late, .. }) if *origin == Origin::Call => {
                        self.claims.charge(hold, *claim, late);
                    }
                    Ok(Outcome::Released { .. }) if *origin == Origin::Call => {
                        self.claims.release(hold.as_str());
                    }
                    _ => {}
                }
                captured
            }
            Operation::Release { hold, account, origin, .. } => {
                let released = self.release(hold.as_str(), account.as_ref(), *origin);
                if released.is_ok() && *origin == Origin::Call {
                    self.claims.release(hold.as_str());
                }
                released
            }
            Operation::MarkClaim { claim, hold, mark } => {
                self.claims.mark(claim, hold, *mark);
                Ok(Outcome::ClaimMarked)
            }
            Operation::Leave { id, hold, account } => {
                let live = self.holds.get(hold.as_str()).filter(|fate| fate.state == State::Live);
                let runs = live
                    .is_some_and(|fate| (fate.origin, &fate.account) == (Origin::Call, account));
                let capture = self.done.get(&format!("capture:{hold}"));
                let charged = capture.is_some_and(|line| line.account == *account);
                if runs || charged {
                    self.claims.leave(*id, hold, charged);
                }
                Ok(Outcome::Left)
            }
            Operation::Balance { account } => {
                let known = self.accounts.contains_key(account);
                Ok(Outcome::Balance(known.then(|| self.after(account))))
            }
            other => unreachable!("{other:?} is not generated"),
        };
        Expected::Outcome(outcome.unwrap_or_else(Outcome::Refused))
    }

    fn post(&mut self, posting: &Posting) -> Result<(Line, bool), Refusal> {
        let amount = posting.amount.micros();
        if let Some(line) = self.done.get(posting.id.as_str()) {
            let same = (&line.account, line.amount) == (&posting.account, amount);
            return if same { Ok((line.clone(), false)) } else { Err(Refusal::Conflict) };
        }
        if amount == 0 {
            return Err(Refusal::Zero);
        }
        let gives = posting.amount.micros() > 0;
        let right_way = match posting.kind {
            EntryKind::Grant | EntryKind::Reinstatement => gives,
            EntryKind::Clawback => !gives,
            kind => kind == EntryKind::Adjustment,
        };
        if !right_way {
            return Err(Refusal::WrongWay);
        }
        let id = posting.id.as_str().to_owned();
        Ok((self.line(&posting.account, id, posting.kind, amount)?, true))
    }

    fn refund(&mut self, hold: &str, part: Option<(&str, i64)>) -> Result<(Line, bool), Refusal> {
        let whole = format!("refund:{hold}");
        let id = part.map_or(whole.clone(), |(id, _)| id.to_owned());
        if let Some(line) = self.done.get(&id) {
            let same = part.is_none_or(|(_, amount)| line.amount == amount);
            return if same { Ok((line.clone(), false)) } else { Err(Refusal::Conflict) };
        }
        let capture = self.done.get(&format!("capture:{hold}")).cloned();
        let fate = self.holds.get(hold);
        let runs =
            fate.is_some_and(|fate| fate.state == State::Live && fate.origin == Origin::Call);
        let unknown = if runs { Refusal::Unsettled } else { Refusal::UnknownCapture };
        let capture = capture.ok_or(unknown)?;
        let is_its = |id: &str| id == whole || id.starts_with(&format!("{whole} "));
        let given = self.done.values().filter(|line| is_its(&line.operation));
        let left = -capture.amount - given.map(|line| line.amount).sum::<i64>();
        let amount = part.map_or(left, |(_, amount)| amount);
        if part.is_some() && amount == 0 {
            return Err(Refusal::Zero);
        }
        if amount == 0 || amount > left {
            let left = Credits::from_micros(left as u64).unwrap();
            return Err(Refusal::AboveCapture { left });
        }
        Ok((self.line(&capture.account, id, EntryKind::Refund, amount)?, true))
    }

    /// Writes down what a new capture used. One that took effect before keeps its own.
    fn note_usage(&mut self, id: &str, usage: &Option<Arc<UsageRecord>>) {
        let operation = format!("capture:{id}");
        if !self.used.insert(operation.clone()) {
            return;
        }
        let lines = self.accounts.values_mut().flatten();
        for line in lines.chain(self.done.get_mut(&operation)) {
            if line.operation == operation {
                line.usage.clone_from(usage);
            }
        }
    }

    /// The next start. Returns the holds that expire with it, as the backend says on its first tick.
    pub fn start(&mut self, kind: Kind) -> BTreeSet<String> {
        let mut expired = BTreeSet::new();
        // On a shared ledger what was stopped may run on, and its calls may still capture.
        let end = if kind.is_embedded() { State::Released } else { State::Expired };
        for (id, fate) in &mut self.holds {
            fate.overtaken = false;
            if fate.state == State::Live && fate.origin == Origin::Call {
                fate.state = end;
                self.claims.expire(id);
                expired.extend((end == State::Expired).then(|| id.clone()));
            }
        }
        self.batch += 1;
        expired
    }

    /// Folds everything. Returns how many accounts and entries were folded.
    pub fn fold(&mut self) -> (u64, u64) {
        let (mut accounts, mut entries) = (0, 0);
        for (who, lines) in &mut self.accounts {
            let Some(last) = lines.last().cloned() else { continue };
            if lines.len() == 1 && last.kind == EntryKind::Opening {
                continue;
            }
            accounts += 1;
            entries += lines.len() as u64;
            self.folded.extend(lines.drain(..).map(|line| line.operation));
            lines.push(Line {
                kind: EntryKind::Opening,
                operation: format!("opening:{who}:{}", last.seq),
                amount: last.after,
                usage: None,
                ..last
            });
        }
        (accounts, entries)
    }

    pub fn agrees(&self, operation: &Operation, expected: &Expected, outcome: &Outcome) {
        let same = match (expected, outcome) {
            (Expected::Posted(line, new), Outcome::Posted { entry, new: really }) => {
                let mut got = Line::of(entry);
                if self.folded.contains(&line.operation) {
                    got.after = line.after; // Gone with its entry.
                }
                *line == got && new == really
            }
            (Expected::Outcome(expected), outcome) => expected == outcome,
            _ => false,
        };
        assert!(same, "{operation:?}\n  gave     {outcome:?}\n  expected {expected:?}");
    }

    /// Compares what readers see with the model.
    pub async fn agrees_with(&self, reader: &dyn Reader) {
        let report = reader.reconcile().await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
        let live = self.holds.values().filter(|hold| hold.state == State::Live).count() as u64;
        assert_eq!((report.accounts, report.live_holds), (self.accounts.len() as u64, live));
        for (who, lines) in &self.accounts {
            let entries = reader.entries(who, None, 10_000).await.unwrap();
            let stored: Vec<_> = entries.iter().rev().map(Line::of).collect();
            assert_eq!(&stored, lines);
            let mut sum = 0;
            for line in &stored {
                sum += line.amount;
                assert_eq!(sum, line.after, "{line:?}");
            }
            let view = reader.account(who).await.unwrap().unwrap();
            assert_eq!(view.balance, self.after(who));
            assert_eq!(view.balance.balance.micros(), sum);
        }
        let kept: i64 = self.done.values().map(|line| line.amount).sum();
        let balances: i64 = self.accounts.keys().map(|who| self.total(who)).sum();
        assert_eq!(kept, balances, "every id took effect once");
    }
}
