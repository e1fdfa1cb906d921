//! How the holds of calls lie on disk: all that one commit grants in one row, which goes when the
//! last of them has ended.
//!
//! A row a hold would cost an insertion and a deletion in a tree a call, some 5 µs of the 40 that
//! a call takes. Nothing ever needs one of them by itself: a crash releases them all, and which
//! of them have ended is told by the entries and by `ended_holds` (see the view `holds`).

use ahash::HashMap;

use crate::ledger::operation::Origin;
use crate::ledger::rules::state::{Changes, State};

/// How many holds live of those that each commit wrote.
#[derive(Debug, Default)]
pub(crate) struct CallHolds {
    live: HashMap<i64, usize>,
}

impl CallHolds {
    /// Counts what was read from the file.
    pub fn of(state: &State) -> Self {
        let mut live = HashMap::default();
        for (_, hold) in state.holds().filter(|(_, hold)| hold.origin == Origin::Call) {
            *live.entry(hold.commit).or_default() += 1;
        }
        Self { live }
    }

    /// The commits of whose holds none is left once `changes` are written.
    pub fn spent<'a>(&'a self, changes: &'a Changes) -> impl Iterator<Item = i64> + 'a {
        let gone = |(commit, ended): (&i64, &usize)| {
            (self.live.get(commit).copied().unwrap_or(0) <= *ended).then_some(*commit)
        };
        changes.calls_gone.iter().filter_map(gone)
    }

    /// Counts what commit number `commit` has written.
    pub fn count(&mut self, commit: i64, changes: &Changes) {
        for (written_by, ended) in &changes.calls_gone {
            if let Some(live) = self.live.get_mut(written_by) {
                *live = live.saturating_sub(*ended);
                if *live == 0 {
                    self.live.remove(written_by);
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
