//! Turns: they order the groups of operations that name the same account, hold, claim or id.

use std::collections::{HashMap, HashSet};

use tokio::sync::watch;

use crate::account::AccountId;
use crate::ledger::claim::ClaimId;
use crate::ledger::imports::ImportRow;
use crate::ledger::operation::{HoldId, Operation, OperationId};
use crate::store::cluster::redis::request::BatchItem;

/// The newest turn for each key that has one.
#[derive(Debug, Default)]
pub(crate) struct Turns(HashMap<Key, watch::Receiver<()>>);

/// A group's turn to be decided, which comes once all turns before it have ended. A turn ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    before: Vec<watch::Receiver<()>>,
    /// Dropping this sender tells the later turns that this turn has ended.
    _ends: watch::Sender<()>,
}

/// A thing that an operation names: an account, hold, claim or id. Operations with the same key are decided in the
/// order in which they were requested.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Account(AccountId),
    Hold(HoldId),
    Claim(ClaimId),
    Posting(OperationId),
}

impl Turns {
    /// Takes a turn after all turns with one of the same keys. Later turns with these keys come after it.
    pub fn take(&mut self, operations: &[Operation]) -> Turn {
        let (ends, ended) = watch::channel(());
        let keys: HashSet<_> = operations.iter().flat_map(keys).collect();
        let before = keys.into_iter().filter_map(|key| self.0.insert(key, ended.clone()));
        Turn { before: before.collect(), _ends: ends }
    }

    /// Whether there is a turn with one of these keys.
    pub fn has_any(&self, keys: &[Key]) -> bool {
        keys.iter().any(|key| self.0.contains_key(key))
    }

    /// Whether there is no turn at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the turns that have ended.
    pub fn forget_ended(&mut self) {
        if !self.0.is_empty() {
            self.0.retain(|_, turn| turn.has_changed().is_ok());
        }
    }
}

impl Turn {
    /// Waits until all turns before this one have ended.
    pub async fn comes(&mut self) {
        for turn in &mut self.before {
            // No value is ever sent: this waits until the sender is dropped.
            let _ = turn.changed().await;
        }
    }
}

/// The keys of the things that the operation names.
pub(crate) fn keys(operation: &Operation) -> Vec<Key> {
    let item = BatchItem::Operation(operation);
    let mut keys: Vec<_> = item.account().cloned().map(Key::Account).into_iter().collect();
    keys.extend(item.hold().cloned().map(Key::Hold));
    keys.extend(item.claim().map(Key::Claim));
    match operation {
        Operation::Open { account, .. }
        | Operation::RecordCustomer { account, .. }
        | Operation::Thaw { account } => keys.push(Key::Account(account.clone())),
        Operation::Post(posting) => {
            keys.push(Key::Account(posting.account.clone()));
            keys.push(Key::Posting(posting.id.clone()));
        }
        Operation::PutKeys(new) => {
            keys.extend(new.iter().map(|key| Key::Account(key.account.clone())));
        }
        Operation::Import(import) => keys.extend(import.rows.iter().map(|row| match row {
            ImportRow::Grant { posting, .. } => Key::Account(posting.account.clone()),
            ImportRow::Key(key) => Key::Account(key.account.clone()),
        })),
        Operation::TakeFacts(take) => {
            keys.extend(take.facts.sale.iter().map(|sale| Key::Account(sale.account.clone())));
        }
        Operation::Refund { hold, .. } | Operation::RefundPart { hold, .. } => {
            keys.push(Key::Hold(hold.clone()));
        }
        _ => {}
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn about(account: &str) -> Operation {
        Operation::Balance { account: account.parse().unwrap() }
    }

    async fn has_come(turn: &mut Turn) -> bool {
        tokio::time::timeout(Duration::from_millis(5), turn.comes()).await.is_ok()
    }

    #[tokio::test]
    async fn a_turn_waits_for_those_of_its_own_accounts() {
        let mut turns = Turns::default();
        let mut first = turns.take(&[about("alice"), about("bob")]);
        let mut other = turns.take(&[about("carol")]);
        let mut second = turns.take(&[about("bob"), about("carol"), about("bob")]);
        let mut third = turns.take(&[about("bob")]);
        assert!(has_come(&mut first).await && has_come(&mut other).await);
        assert!(!has_come(&mut second).await && !has_come(&mut third).await);
        drop(first);
        assert!(!has_come(&mut second).await, "carol's is not over");
        drop(other);
        assert!(has_come(&mut second).await && !has_come(&mut third).await);
        turns.forget_ended();
        let has = |turns: &Turns, account: &str| turns.has_any(&keys(&about(account)));
        assert!(!has(&turns, "alice") && has(&turns, "carol"));
        drop(second);
        assert!(has_come(&mut third).await);
        drop(third);
        turns.forget_ended();
        assert!(turns.is_empty());
    }
}
