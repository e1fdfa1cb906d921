//! Runs the checker over a variant.
use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use crate::properties::{ALWAYS, Protocol};
use crate::variant::Variant;

/// Explores every state. Each invariant must hold in all states, each property of `seen` must hold
/// in one, and there must be at least `at_least` states.
pub fn assert_clean(variant: Variant, at_least: usize, seen: &[&'static str]) {
    let checker = Protocol::new(variant).checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    eprintln!("{states} states, {} steps deep", checker.max_depth());
    for invariant in ALWAYS {
        checker.assert_no_discovery(invariant);
    }
    for event in seen {
        checker.assert_any_discovery(event);
    }
    assert!(checker.is_done(), "the exploration ended early");
    assert!(states >= at_least, "only {states} states: the model does less than it did");
}

/// Finds a way to break `invariant`, the shortest one.
pub fn assert_broken(variant: Variant, invariant: &'static str) {
    let until = HasDiscoveries::AllOf(BTreeSet::from([invariant]));
    let checker = Protocol::new(variant).checker().finish_when(until).spawn_bfs().join();
    let path = checker.assert_any_discovery(invariant);
    eprintln!("{} states until: {:?}", checker.unique_state_count(), path.into_actions());
}

/// Explores every state: `invariant` holds in all of them, even if other invariants do not.
pub fn assert_holds(variant: Variant, invariant: &'static str) {
    let checker = Protocol::new(variant).checker().spawn_bfs().join();
    eprintln!("{} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_no_discovery(invariant);
}
