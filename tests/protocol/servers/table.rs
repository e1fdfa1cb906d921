//! The purpose of each rule: without it two servers decide, or recoveries follow each other without need; with it they
//! do not.
use super::model::{Action, Servers};
use super::properties::*;
use super::state::{GATEWAYS, State};
use super::variant::{Faults, Variant};
use crate::check::{explore, find_broken, find_stuck};

const CHOSEN: Variant = Variant::CHOSEN;
const NONE: Faults = Faults::NONE;
const FAILOVER: Variant =
    Variant { faults: Faults { promotions: 1, demotions: 1, pauses: 1, ..NONE }, ..CHOSEN };
const TWO_ADDRESSES: Variant =
    Variant { two_addresses: true, faults: Faults { pauses: 1, ..NONE }, ..CHOSEN };

fn assert_clean(variant: Variant, at_least: usize, seen: &[&'static str]) {
    explore(Servers::new(variant), &ALWAYS, at_least, seen);
}

fn assert_broken(variant: Variant, invariant: &'static str) {
    find_broken(Servers::new(variant), invariant);
}

/// The states from which no gateway can answer any more, whatever happens.
fn stuck(variant: Variant) -> Vec<State> {
    let is_good = |state: &State| (0..GATEWAYS).any(|gateway| state.may_answer(gateway));
    find_stuck(&Servers::new(variant), Action::is_fault, is_good)
}

#[test]
fn a_failover_and_a_demoted_master_leave_one_epoch() {
    assert_clean(FAILOVER, 4_500, &[BOTH_SERVE, ONE_IS_ELSEWHERE]);
}

#[test]
fn a_master_that_is_demoted_and_promoted_back_is_followed() {
    let faults = Faults { promotions: 2, demotions: 1, ..NONE };
    assert_clean(Variant { faults, ..CHOSEN }, 1_800, &[BOTH_SERVE, SECOND_RECOVERY]);
}

#[test]
fn a_redis_that_is_emptied_and_starts_again_is_recovered() {
    let faults = Faults { wipes: 1, restarts: 1, pauses: 1, ..NONE };
    assert_clean(Variant { faults, ..CHOSEN }, 5_000, &[BOTH_SERVE, SECOND_RECOVERY]);
}

/// In a rolling change of the config, each of two gateways may have an address of its own.
#[test]
fn two_addresses_take_the_ledger_from_each_other_once_at_most() {
    assert_clean(TWO_ADDRESSES, 50, &[ONE_IS_ELSEWHERE]);
}

#[test]
fn two_addresses_of_which_one_is_emptied_begin_the_next_epoch_where_it_was() {
    let faults = Faults { wipes: 1, pauses: 1, ..NONE };
    assert_clean(Variant { faults, ..TWO_ADDRESSES }, 200, &[ONE_IS_ELSEWHERE, SECOND_RECOVERY]);
}

#[test]
fn gateways_that_end_an_epoch_that_others_reach_recover_without_end() {
    let variant = Variant { asks_who_reaches: false, ..TWO_ADDRESSES };
    assert_broken(variant, NEEDED);
    assert_broken(variant, ENOUGH);
}

#[test]
fn a_gateway_that_takes_a_replica_for_a_loss_ends_an_epoch_without_need() {
    assert_broken(
        Variant { keeps_epoch_on_replica: false, asks_who_reaches: false, ..FAILOVER },
        NEEDED,
    );
}

/// A batch went to the other server, and the connection has led back since.
#[test]
fn a_loss_that_is_not_looked_at_again_ends_an_epoch_without_need() {
    let faults = Faults { flaps: 2, ..NONE };
    let variant = Variant { faults, ..CHOSEN };
    assert_broken(variant, NEEDED);
    assert_clean(Variant { looks_again: true, ..variant }, 190, &[]);
}

/// It was stopped, or cut off from Postgres, while the others recovered. Its lease is new, and the old master still runs
/// the scripts of the epoch that has ended.
#[test]
fn a_gateway_that_goes_on_with_an_ended_epoch_decides_beside_the_others() {
    assert_broken(Variant { leaves_ended_epoch: false, ..FAILOVER }, NO_SPLIT_BRAIN);
    assert_broken(Variant { leaves_ended_epoch: false, ..TWO_ADDRESSES }, NO_SPLIT_BRAIN);
}

#[test]
fn a_recovery_that_waits_for_no_lease_has_two_servers_decide() {
    assert_broken(Variant { waits_for_leases: false, ..FAILOVER }, NO_SPLIT_BRAIN);
}

#[test]
fn a_recovery_that_is_led_from_another_redis_moves_the_ledger() {
    let faults = Faults { wipes: 1, ..NONE };
    assert_broken(Variant { stays: false, faults, ..TWO_ADDRESSES }, STAYS);
}

#[test]
fn once_nothing_fails_any_more_a_gateway_answers() {
    let killed = Faults { kills: 1, promotions: 1, ..NONE };
    let two = Faults { kills: 1, pauses: 1, ..NONE };
    let wiped = Faults { wipes: 1, restarts: 1, ..NONE };
    let variants = [
        FAILOVER,
        TWO_ADDRESSES,
        Variant { faults: two, ..TWO_ADDRESSES },
        Variant { faults: wiped, ..CHOSEN },
    ];
    for variant in variants {
        let stuck = stuck(variant);
        assert!(stuck.is_empty(), "{} states, such as {:?}", stuck.len(), stuck[0]);
    }
    // A master that was killed and has no successor yet answers nothing; only then may nobody answer.
    let stuck = stuck(Variant { faults: killed, ..CHOSEN });
    assert!(stuck.iter().all(|state| state.faults.promotions == 1));
}

/// A gateway whose only server is gone keeps its lease, and its row goes on naming that server.
#[test]
fn a_redis_that_counts_as_reached_for_ever_keeps_the_others_from_recovering() {
    let faults = Faults { kills: 1, ..NONE };
    let variant = Variant { forgets_who_reached: false, faults, ..TWO_ADDRESSES };
    assert!(!stuck(variant).is_empty(), "it recovers all the same");
}
