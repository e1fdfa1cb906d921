//! Runs the checker over a model.
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

use crate::properties::{ALWAYS, Protocol};
use crate::variant::Variant;

/// [`explore`] for a variant of the protocol of holds.
pub fn assert_clean(variant: Variant, at_least: usize, seen: &[&'static str]) {
    explore(Protocol::new(variant), &ALWAYS, at_least, seen);
}

/// [`find_broken`] for a variant of the protocol of holds.
pub fn assert_broken(variant: Variant, invariant: &'static str) {
    find_broken(Protocol::new(variant), invariant);
}

/// Explores every state: `invariant` holds in all of them, even if other invariants do not.
pub fn assert_holds(variant: Variant, invariant: &'static str) {
    explore(Protocol::new(variant), &[invariant], 0, &[]);
}

/// Explores every state. Each of the invariants must hold in all states, each property of `seen` must hold in one, and
/// there must be at least `at_least` states.
pub fn explore<M>(model: M, invariants: &[&'static str], at_least: usize, seen: &[&'static str])
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let checker = model.checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    eprintln!("{states} states, {} steps deep", checker.max_depth());
    for invariant in invariants {
        checker.assert_no_discovery(invariant);
    }
    for event in seen {
        checker.assert_any_discovery(event);
    }
    assert!(checker.is_done(), "the exploration ended early");
    assert!(states >= at_least, "only {states} states: the model does less than it did");
}

/// Finds a way to break `invariant`, the shortest one.
pub fn find_broken<M>(model: M, invariant: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let until = HasDiscoveries::AllOf(BTreeSet::from([invariant]));
    let checker = model.checker().finish_when(until).spawn_bfs().join();
    let path = checker.assert_any_discovery(invariant);
    eprintln!("{} states until: {:?}", checker.unique_state_count(), path.into_actions());
}

/// The states from which no good state can be reached any more without a fault; empty if the protocol always gets out
/// of its troubles once the faults are over.
///
/// The checker's own properties of the kind "eventually" do not see circles, so this looks at the graph backwards.
pub fn find_stuck<M>(
    model: &M,
    is_fault: impl Fn(M::Action) -> bool,
    is_good: impl Fn(&M::State) -> bool,
) -> Vec<M::State>
where
    M: Model,
    M::State: Clone + Eq + Hash,
    M::Action: Copy,
{
    let mut states: Vec<M::State> = Vec::new();
    let mut numbers: HashMap<M::State, usize> = HashMap::new();
    // For each state, the states that lead to it without a fault.
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut number_of = |state: M::State, states: &mut Vec<M::State>| match numbers.entry(state) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(new) => {
            states.push(new.key().clone());
            *new.insert(states.len() - 1)
        }
    };
    for state in model.init_states() {
        number_of(state, &mut states);
    }
    let mut next = 0;
    while let Some(state) = states.get(next).cloned() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        for action in actions {
            let after = model.next_state(&state, action);
            let Some(after) = after.filter(|after| model.within_boundary(after)) else { continue };
            let after = number_of(after, &mut states);
            before.resize_with(states.len(), Vec::new);
            if !is_fault(action) {
                before[after].push(next);
            }
        }
        next += 1;
    }
    before.resize_with(states.len(), Vec::new);
    let mut gets_there: Vec<bool> = states.iter().map(is_good).collect();
    let mut left: Vec<usize> = (0..states.len()).filter(|number| gets_there[*number]).collect();
    assert!(!left.is_empty(), "no state is good");
    while let Some(number) = left.pop() {
        for earlier in std::mem::take(&mut before[number]) {
            if !gets_there[earlier] {
                gets_there[earlier] = true;
                left.push(earlier);
            }
        }
    }
    eprintln!("{} states were looked at backwards", states.len());
    let stuck = states.into_iter().zip(gets_there).filter(|(_, gets_there)| !gets_there);
    stuck.map(|(state, _)| state).collect()
}
