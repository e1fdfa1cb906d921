//! The limit on the memory for request bodies that are read before their call is forwarded.

use std::sync::{Arc, Mutex, PoisonError};

use ahash::HashMap;

use crate::account::AccountId;

/// One account may use at most 1 / `SHARE` of the memory.
const SHARE: usize = 4;

/// The memory for bodies, shared by all calls.
#[derive(Debug)]
pub(super) struct BodyMemory {
    /// The limit for all calls together, in bytes.
    most: usize,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    by_account: HashMap<Option<AccountId>, usize>,
}

/// Memory that is reserved for one body. Dropping the reservation gives the memory back.
#[derive(Debug)]
pub(super) struct Reserved {
    memory: Arc<BodyMemory>,
    account: Option<AccountId>,
    bytes: usize,
}

impl BodyMemory {
    /// Creates a limit of `most` bytes.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: Mutex::default() })
    }

    /// Begins an empty reservation for an account. Calls of Farebox's own routes pass `None`, and
    /// share the memory of one account.
    pub fn begin(self: &Arc<Self>, account: impl Into<Option<AccountId>>) -> Reserved {
        Reserved { memory: self.clone(), account: account.into(), bytes: 0 }
    }
}

impl Reserved {
    /// Reserves `bytes` more bytes. False if there is no room for them; nothing is reserved then.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let most = self.memory.most;
        let mut used = self.memory.used.lock().unwrap_or_else(PoisonError::into_inner);
        let all = used.bytes.saturating_add(bytes);
        let mine = used.by_account.get(&self.account).copied().unwrap_or_default();
        let mine = mine.saturating_add(bytes);
        if all > most || mine > most / SHARE {
            return false;
        }
        used.bytes = all;
        used.by_account.insert(self.account.clone(), mine);
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }
}

impl Reserved {
    /// The number of reserved bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives all reserved memory back. The reservation can grow again afterwards.
    pub fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes == 0 {
            return;
        }
        let mut used = self.memory.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.bytes = used.bytes.saturating_sub(bytes);
        let mine = used.by_account.get(&self.account).copied().unwrap_or_default();
        match mine.saturating_sub(bytes) {
            0 => drop(used.by_account.remove(&self.account)),
            left => drop(used.by_account.insert(self.account.clone(), left)),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_a_quarter_and_all_have_no_more_than_there_is() {
        let memory = BodyMemory::new(400);
        let account = |name: &str| name.parse::<AccountId>().unwrap();
        let mut alice = memory.begin(account("alice"));
        assert!(alice.grow(60));
        let mut again = memory.begin(account("alice"));
        assert!(!again.grow(41), "a second call of the account shares its quarter");
        assert!(again.grow(40));
        let others: Vec<_> = ["bob", "carol", "dave"]
            .map(|name| {
                let mut reserved = memory.begin(account(name));
                assert!(reserved.grow(100), "{name}");
                reserved
            })
            .into();
        let mut last = memory.begin(account("erin"));
        assert!(!last.grow(1), "everything is taken");
        drop(again);
        assert!(last.grow(40));
        drop((alice, others, last));
        let used = memory.used.lock().unwrap();
        assert_eq!((used.bytes, used.by_account.len()), (0, 0));
    }
}
