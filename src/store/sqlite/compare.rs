//! Compares the balances and holds in memory with those in the file.

use std::collections::HashMap;

use crate::ledger::report::Difference;
use crate::ledger::rules::state::State;

/// Lists the differences between two states. While no operation waits to be written, there are none.
pub(crate) fn differences(memory: &State, disk: &State) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut differ = |account: &str, what: String| {
        differences.push(Difference { account: account.to_owned(), what });
    };
    let mut on_disk: HashMap<_, _> = disk.accounts().collect();
    for (id, memory) in memory.accounts() {
        match on_disk.remove(id) {
            Some(disk) if disk == memory => {}
            Some(disk) => differ(
                id.as_str(),
                format!(
                    "memory has balance {}, held {}, entry {}; disk has balance {}, held {}, \
                     entry {}",
                    memory.balance, memory.held, memory.seq, disk.balance, disk.held, disk.seq
                ),
            ),
            None => differ(id.as_str(), "the account is in memory and not on disk".into()),
        }
    }
    for id in on_disk.into_keys() {
        differ(id.as_str(), "the account is on disk and not in memory".into());
    }
    if memory.freezes != disk.freezes {
        differ("", "different accounts are frozen in memory and on disk".into());
    }
    let (in_memory, stored) = (memory.holds().count(), disk.holds().count());
    if in_memory != stored {
        differ("", format!("memory has {in_memory} live holds, disk {stored}"));
    }
    let claims = |state: &State| {
        let running = state.claims.running();
        running.map(|(id, claim)| (*id, claim.clone())).collect::<HashMap<_, _>>()
    };
    if claims(memory) != claims(disk) {
        differ("", "memory and disk have different claims of running calls".into());
    }
    differences
}
