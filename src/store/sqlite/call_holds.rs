//! Stores the holds of calls. All holds that one commit grants are one row, which is deleted when
//! the last of them has ended.
//!
//! A row for each hold would cost each call an insertion and a deletion in a tree, some 5 µs of the 40 that a call
//! takes. No query needs a single one of these holds. A start after a crash ends all of them, and the entries and
//! `ended_holds` show which have already ended (see the view `holds`).

use ahash::HashMap;

use crate::ledger::operation::Origin;
use crate::ledger::rules::state::{Changes, State};

/// The number of live holds of each commit.
#[derive(Debug, Default)]
pub(crate) struct CallHolds {
    live: HashMap<i64, usize>,
}

impl CallHolds {
    /// Counts the holds of a state that was read from the file.
    pub fn of(state: &State) -> Self {
        let mut live = HashMap::default();
        for (_, hold) in state.holds().filter(|(_, hold)| hold.origin == Origin::Call) {
            *live.entry(hold.commit).or_default() += 1;
        }
        Self { live }
    }

    /// The commits whose last live hold ends with `changes`.
    pub fn spent(&self, changes: &Changes) -> Vec<i64> {
        let gone = |(commit, ended): (i64, usize)| {
            (self.live.get(&commit).copied().unwrap_or(0) <= ended).then_some(commit)
        };
        gone_by_commit(changes).into_iter().filter_map(gone).collect()
    }

    /// Updates the counts after `changes` were written as commit number `commit`.
    pub fn count(&mut self, commit: i64, changes: &Changes) {
        for (written_by, ended) in gone_by_commit(changes) {
            if let Some(live) = self.live.get_mut(&written_by) {
                *live = live.saturating_sub(ended);
                if *live == 0 {
                    self.live.remove(&written_by);
                }
            }
        }
        let added = changes.holds_added.values().filter(|hold| hold.origin == Origin::Call);
        let added = added.count();
        if added > 0 {
            self.live.insert(commit, added);
        }
    }
}

/// The number of holds that end with `changes`, for each commit that wrote them.
fn gone_by_commit(changes: &Changes) -> HashMap<i64, usize> {
    let mut gone = HashMap::default();
    for (_, commit) in &changes.calls_gone {
        *gone.entry(*commit).or_default() += 1;
    }
    gone
}
