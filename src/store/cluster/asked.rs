//! Operations of a group that is decided beside the pipeline, each with the caller who waits for its outcome.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ledger::operation::{Operation, Outcome, Refusal};
use crate::store::cluster::beside::Guard;
use crate::store::cluster::names::{Name, names};

/// Operations that are not decided yet. Each outcome is passed on as soon as it is known. An operation that is dropped
/// without an outcome is refused as unavailable.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    operations: Vec<Operation>,
    /// For each operation, the channel of its outcome; `None` once the operation is answered or taken out.
    replies: Vec<Option<oneshot::Sender<Outcome>>>,
    /// For each operation, the guards of the names that are free for later operations once Redis has decided.
    until_decided: Vec<Option<Arc<Guard>>>,
}

/// The outcome of one operation.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<Outcome>);

impl Answer {
    /// Waits for the outcome.
    pub async fn outcome(self) -> Outcome {
        self.0.await.unwrap_or(Outcome::Refused(Refusal::Unavailable))
    }
}

impl Asked {
    /// Creates the list of these operations, and the answer of each.
    pub fn new(operations: Vec<Operation>) -> (Self, Vec<Answer>) {
        let channels = operations.iter().map(|_| oneshot::channel());
        let (replies, answers) =
            channels.map(|(reply, answer)| (Some(reply), Answer(answer))).unzip();
        let until_decided = operations.iter().map(|_| None).collect();
        (Self { operations, replies, until_decided }, answers)
    }

    /// Sets the guard that is dropped once Redis has decided the operation at this place.
    pub fn guard(&mut self, place: usize, guard: Arc<Guard>) {
        if let Some(until_decided) = self.until_decided.get_mut(place) {
            *until_decided = Some(guard);
        }
    }

    /// All operations, also those that are answered or taken out.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Passes on the outcome of the operation at this place, unless it was taken out.
    pub fn answer(&mut self, place: usize, outcome: Outcome) {
        if let Some(reply) = self.replies.get_mut(place).and_then(Option::take) {
            // If the caller is gone, its guard has queued the operation that undoes this one.
            drop(reply.send(outcome));
        }
    }

    /// Passes on the outcomes of all operations, in order.
    pub fn answer_all(&mut self, outcomes: Vec<Outcome>) {
        for (place, outcome) in outcomes.into_iter().enumerate() {
            self.answer(place, outcome);
        }
    }

    /// Notes that Redis has decided all operations that are left: later operations that name the same account need not
    /// wait any longer.
    pub fn note_decided(&mut self) {
        self.until_decided.fill(None);
    }

    /// Takes out the operations at these places.
    pub fn take(&mut self, places: &[usize]) -> Self {
        let mut taken = Self::default();
        for place in places {
            taken.operations.push(self.operations[*place].clone());
            taken.replies.push(self.replies.get_mut(*place).and_then(Option::take));
            taken.until_decided.push(self.until_decided.get_mut(*place).and_then(Option::take));
        }
        taken
    }

    /// Takes out the operations from this place on, and forgets them.
    pub fn split_off(&mut self, at: usize) -> Self {
        Self {
            operations: self.operations.split_off(at),
            replies: self.replies.split_off(at),
            until_decided: self.until_decided.split_off(at),
        }
    }

    /// Splits the operations into those for which `is_so`, and all others, in order.
    pub fn partition(mut self, mut is_so: impl FnMut(&Operation) -> bool) -> (Self, Self) {
        let all = 0..self.operations.len();
        let (these, others): (Vec<_>, Vec<_>) =
            all.partition(|place| is_so(&self.operations[*place]));
        (self.take(&these), self.take(&others))
    }

    /// Adds operations at the end.
    pub fn append(&mut self, mut other: Self) {
        self.operations.append(&mut other.operations);
        self.replies.append(&mut other.replies);
        self.until_decided.append(&mut other.until_decided);
    }
}

/// Operations that wait for rows that other transactions keep locked.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    pub asked: Asked,
    names: HashSet<Name>,
}

impl Stuck {
    /// Adds operations.
    pub fn add(&mut self, asked: Asked) {
        self.names.extend(asked.operations().iter().flat_map(names));
        self.asked.append(asked);
    }

    /// Adds the operations that have to be decided after these, or after others among themselves that have to. Returns
    /// the rest.
    pub fn add_later(&mut self, asked: Asked) -> Asked {
        let (later, rest) = asked.partition(|operation| {
            let is_later = self.precedes(operation);
            if is_later {
                self.names.extend(names(operation));
            }
            is_later
        });
        self.asked.append(later);
        rest
    }

    /// Whether the operation has to be decided after one of these.
    pub fn precedes(&self, operation: &Operation) -> bool {
        !self.names.is_empty() && names(operation).iter().any(|name| self.names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credits::Credits;
    use crate::ledger::imports::{Import, ImportRow};
    use crate::ledger::operation::{EntryKind, OperationId, Posting};

    fn posting(id: &str, account: &str) -> Posting {
        Posting {
            id: OperationId::posting(EntryKind::Grant, id).unwrap(),
            account: account.parse().unwrap(),
            kind: EntryKind::Grant,
            amount: Credits::from_micros(1).unwrap().signed(),
            reason: None,
        }
    }

    #[test]
    fn an_operation_is_decided_after_those_that_wait_themselves() {
        let row = |account| ImportRow::Grant { posting: posting(account, account), payment: None };
        let both = Import { rows: vec![row("alice"), row("bob")], dry_run: false };
        let asked = [
            Operation::Import(Box::new(both)),
            Operation::Post(posting("g", "bob")),
            Operation::Post(posting("h", "carol")),
        ];
        let mut stuck = Stuck::default();
        let first = Operation::Post(posting("i", "alice"));
        stuck.add(Asked::new(vec![first.clone()]).0);
        let rest = stuck.add_later(Asked::new(asked.to_vec()).0);
        assert_eq!(rest.operations(), &asked[2..]);
        assert_eq!(stuck.asked.operations()[0], first);
        assert_eq!(stuck.asked.operations()[1..], asked[..2]);
    }
}
