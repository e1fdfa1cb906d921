//! Stories that broke a draft of the protocol, or would break it without one of its rules.
use crate::check::{assert_broken, assert_clean};
use crate::properties::*;
use crate::variant::{Bounds, Durability, Faults, Fence, LeaseCheck, Variant};

const CHOSEN: Variant = Variant::CHOSEN;
const ONE_FAILOVER: Faults = Faults { failovers: 1, ..Faults::NONE };
const LONE_REDIS: Variant =
    Variant { faults: Faults { wipes: 1, postgres_cuts: 1, pauses: 1, ..Faults::NONE }, ..CHOSEN };

/// A replica, or an old dump, carries the current epoch among its data.
#[test]
fn an_epoch_in_the_data_alone_lets_a_lagging_replica_through() {
    let variant = Variant { fence: Fence::EpochInData, faults: ONE_FAILOVER, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

/// The process kept the script, and its data are those of the replica that lagged.
#[test]
fn a_script_alone_lets_a_master_through_that_was_demoted_and_promoted_back() {
    let faults = Faults { switchovers: 2, ..Faults::NONE };
    let variant = Variant { fence: Fence::Script, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn a_master_that_was_demoted_and_promoted_back_is_fenced_by_its_reign() {
    let faults = Faults { switchovers: 2, ..Faults::NONE };
    let variant = Variant { bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 39_000, &[CAPTURED, REFUSED, RECOVERED, TWO_RECOVERIES]);
}

/// A replayed operation is captured late and makes a debt.
#[test]
fn the_ring_of_a_stopped_process_that_continues_is_captured_late() {
    let faults = Faults { pauses: 1, ..ONE_FAILOVER };
    let bounds = Bounds { calls: 2, ..Bounds::COARSE };
    let variant = Variant { bounds, faults, ..CHOSEN };
    assert_clean(variant, 49_000, &[CAPTURED, REFUSED, RECOVERED, LATE, DEBT]);
}

#[test]
fn a_gateway_that_does_not_look_at_its_lease_spends_on_the_old_master_without_postgres() {
    let faults = Faults { splits: 1, postgres_cuts: 1, ..Faults::NONE };
    let variant =
        Variant { lease_check: LeaseCheck::Never, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn a_gateway_that_lost_postgres_stops_before_another_recovers() {
    let faults = Faults { splits: 1, postgres_cuts: 1, ..Faults::NONE };
    let variant = Variant { bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 130_000, &[CAPTURED, REFUSED, RECOVERED, LATE, DEBT]);
}

/// A gateway is stopped with the reply in its socket. Its hold expires, and another call spends the
/// credits. Then the gateway continues, renews its lease, and checks only the renewed lease.
#[test]
fn a_lease_renewed_since_the_hold_was_sent_is_not_good_enough() {
    let faults = Faults { pauses: 1, ..Faults::NONE };
    let variant =
        Variant { lease_check: LeaseCheck::AnyLease, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn a_stopped_gateway_does_not_forward_under_a_later_lease() {
    let faults = Faults { pauses: 1, ..Faults::NONE };
    let variant = Variant { bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 2_800, &[CAPTURED, REFUSED, LATE]);
}

#[test]
fn a_hold_that_comes_after_its_release_stays_for_ever_without_a_tombstone() {
    let faults = Faults { timeouts: 1, ..Faults::NONE };
    let variant = Variant { tombstones: false, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_broken(variant, NO_ORPHAN);
}

#[test]
fn a_hold_whose_caller_was_told_503_is_given_back_in_every_order() {
    let faults = Faults { timeouts: 2, ..Faults::NONE };
    let variant = Variant { bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 2_600, &[CAPTURED, REFUSED, TOMBSTONE]);
}

/// The grant commits after a hydration has read the account and before it ends. It finds the
/// account cold, and counts as delivered.
#[test]
fn a_grant_that_lets_a_hydration_finish_is_stranded() {
    let variant = Variant { delivery_ends_hydration: false, ..CHOSEN };
    assert_broken(variant, AGREEMENT);
}

/// A capture that only Redis and the ring have is lost with both, and its hold expires.
#[test]
fn strict_for_holds_alone_loses_a_capture_when_redis_and_its_gateway_are_lost_at_once() {
    let faults = Faults { crashes: 1, ..ONE_FAILOVER };
    let durability = Durability::StrictForHoldsOnly;
    assert_broken(Variant { durability, bounds: Bounds::COARSE, faults, ..CHOSEN }, NO_LOST_DEBIT);
}

/// Postgres refuses commits of an old epoch, so that the leases are a second line.
#[test]
fn strict_does_not_overspend_in_a_split_brain_that_waits_for_no_lease() {
    let faults = Faults { splits: 1, postgres_cuts: 1, ..Faults::NONE };
    let durability = Durability::Strict;
    let variant =
        Variant { durability, waits_for_leases: false, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 130_000, &[CAPTURED, REFUSED, RECOVERED]);
}

/// The reply lies in the socket while its gateway checks in, with a ring that does not have it.
#[test]
fn a_reply_from_before_the_check_in_overspends_where_it_is_believed() {
    let faults = ONE_FAILOVER;
    let variant = Variant { refuses_old_replies: false, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

/// One Redis without a replica: a gateway goes on without Postgres. If it is stopped with a reply
/// in its socket, it must not forward the call after another gateway has recovered.
#[test]
fn without_a_lease_on_a_lone_redis_a_late_reply_overspends() {
    let variant = Variant { lease_check: LeaseCheck::Never, bounds: Bounds::COARSE, ..LONE_REDIS };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn without_a_lease_on_a_lone_redis_the_age_of_a_reply_is_looked_at() {
    let variant =
        Variant { lease_check: LeaseCheck::ReplyAge, bounds: Bounds::COARSE, ..LONE_REDIS };
    assert_clean(variant, 210_000, &[CAPTURED, REFUSED, RECOVERED, LATE, DEBT]);
}
