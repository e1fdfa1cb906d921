//! The purpose of each rule: without it an account has another balance in Redis than in Postgres, with it it has not.
use super::model::{Action, Grants};
use super::properties::*;
use super::state::{Errand, GATEWAYS, State};
use super::variant::Variant;
use crate::check::{explore, find_broken, find_stuck};

const CHOSEN: Variant = Variant::CHOSEN;
/// A failover that shows neither in the server's identity nor in a counter.
const UNNOTICED: Variant = Variant { notices_failover: false, ..CHOSEN };

fn assert_broken(variant: Variant, invariant: &'static str) {
    find_broken(Grants::new(variant), invariant);
}

#[test]
fn each_grant_comes_into_redis_once_without_a_failure() {
    explore(Grants::new(Variant { failovers: 0, ..CHOSEN }), &ALWAYS, 1_800, &[]);
}

#[test]
fn a_grant_that_lets_a_warming_finish_is_stranded() {
    assert_broken(Variant { ends_warming: false, failovers: 0, ..CHOSEN }, AGREEMENT);
}

#[test]
fn a_failover_of_postgres_that_is_noticed_leaves_the_right_balance() {
    explore(Grants::new(CHOSEN), &ALWAYS, 36_000, &[NUMBER_AGAIN, SAME_AGAIN, LOST]);
}

#[test]
fn a_failover_of_postgres_that_nobody_notices_is_found_by_the_next_grant() {
    explore(Grants::new(UNNOTICED), &ALWAYS, 24_000, &[NUMBER_AGAIN, SAME_AGAIN, LOST, REPLACED]);
}

#[test]
fn without_digests_a_grant_with_the_number_of_a_lost_one_is_dropped() {
    let variant = Variant { compares_digest: false, compares_before: false, ..UNNOTICED };
    assert_broken(variant, AGREEMENT);
}

#[test]
fn a_digest_that_is_not_compared_under_its_own_number_drops_a_grant() {
    assert_broken(Variant { compares_digest: false, ..UNNOTICED }, AGREEMENT);
}

/// A grant was lost before the next one was delivered, so no two have had one number.
#[test]
fn a_digest_that_is_not_compared_with_the_one_before_adds_to_a_wrong_balance() {
    assert_broken(Variant { compares_before: false, ..UNNOTICED }, AGREEMENT);
}

#[test]
fn an_earlier_number_that_counts_as_applied_drops_a_grant() {
    assert_broken(Variant { looks_behind: false, ..UNNOTICED }, AGREEMENT);
}

/// A gap that is known: a gateway has delivered a grant, and is stopped (SIGSTOP) before it deletes the delivery. Postgres
/// fails over and gives the number again, and the gateway deletes the delivery of the other grant.
#[test]
fn a_gateway_that_stands_still_through_a_failover_deletes_the_delivery_of_another_grant() {
    assert_broken(Variant { stands_still: true, ..UNNOTICED }, AGREEMENT);
    assert_broken(Variant { stands_still: true, ..CHOSEN }, AGREEMENT);
}

/// Once no more grants are made, everything is delivered at some time.
#[test]
fn deliveries_never_wait_for_ever() {
    let is_fault = |action| {
        matches!(
            action,
            Action::Grant(_) | Action::CopyPostgres | Action::FailOver | Action::Retire
        )
    };
    let is_good = |state: &State| {
        state.errands == [Errand::None; GATEWAYS] && !state.postgres.queued.contains(&true)
    };
    let stuck = find_stuck(&Grants::new(UNNOTICED), is_fault, is_good);
    assert!(stuck.is_empty(), "{} states, such as {:?}", stuck.len(), stuck[0]);
}
