//! The purpose of each part of the protocol: without it something is lost, with it nothing is.
use crate::check::{assert_broken, assert_clean, assert_holds};
use crate::properties::*;
use crate::variant::{
    Append, Bounds, Durability, Extension, Faults, Fence, Hydration, LeaseCheck, Retirement,
    Variant,
};

const CHOSEN: Variant = Variant::CHOSEN;
const ONE_FAILOVER: Faults = Faults { failovers: 1, ..Faults::NONE };
const TWO_FAILURES: Faults = Faults { failovers: 1, wipes: 1, ..Faults::NONE };
const ONE_SPLIT: Faults = Faults { splits: 1, pauses: 1, ..Faults::NONE };

#[test]
fn set_if_absent_and_a_time_to_live_overspend_without_a_failure() {
    let variant =
        Variant { hydration: Hydration::SetIfAbsent, retirement: Retirement::TimeToLive, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn a_nonce_and_safe_retirement_are_clean_without_a_failure() {
    let faults = Faults { upstream_failures: 1, ..Faults::NONE };
    assert_clean(Variant { faults, ..CHOSEN }, 110_000, &[CAPTURED, REFUSED]);
}

#[test]
fn one_failover_without_a_fence_overspends() {
    let variant = Variant { fence: Fence::None, faults: ONE_FAILOVER, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn a_fence_without_redo_rings_loses_a_debit() {
    let variant = Variant { redo_ring: false, faults: ONE_FAILOVER, ..CHOSEN };
    assert_broken(variant, NO_LOST_DEBIT);
}

#[test]
fn a_fence_and_redo_rings_are_clean_through_a_failover() {
    let variant = Variant { bounds: Bounds::FINE, faults: ONE_FAILOVER, ..CHOSEN };
    assert_clean(variant, 37_000, &[CAPTURED, REFUSED, RECOVERED]);
}

#[test]
fn a_fence_and_redo_rings_are_clean_through_two_failures() {
    let variant = Variant { bounds: Bounds::FINE, faults: TWO_FAILURES, ..CHOSEN };
    assert_clean(variant, 370_000, &[CAPTURED, REFUSED, RECOVERED, TWO_RECOVERIES]);
}

#[test]
fn three_calls_of_which_one_fails_upstream_are_clean_through_two_failures() {
    let faults = Faults { upstream_failures: 1, ..TWO_FAILURES };
    let variant = Variant { bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 190_000, &[CAPTURED, REFUSED, RECOVERED, TWO_RECOVERIES]);
}

#[test]
fn four_calls_are_clean_through_a_failover() {
    let bounds = Bounds { calls: 4, first_grant: 2, ..Bounds::COARSE };
    let variant = Variant { bounds, faults: ONE_FAILOVER, ..CHOSEN };
    assert_clean(variant, 330_000, &[CAPTURED, REFUSED, RECOVERED]);
}

#[test]
fn a_split_brain_overspends_where_nobody_waits_for_leases() {
    let faults = Faults { splits: 1, ..Faults::NONE };
    let variant = Variant { waits_for_leases: false, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn a_split_brain_is_clean_where_leases_are_waited_for() {
    let variant = Variant { bounds: Bounds::COARSE, faults: ONE_SPLIT, ..CHOSEN };
    assert_clean(variant, 360_000, &[CAPTURED, REFUSED, RECOVERED, LATE, DEBT]);
}

/// The declared double fault: Redis and a gateway at once lose what Postgres did not have yet.
#[test]
fn redis_and_a_gateway_lost_at_once_lose_a_debit() {
    let variant = Variant { faults: Faults { crashes: 1, ..ONE_FAILOVER }, ..CHOSEN };
    assert_broken(variant, NO_LOST_DEBIT);
}

#[test]
fn a_gateway_lost_alone_loses_nothing() {
    let variant = Variant { faults: Faults { crashes: 1, ..Faults::NONE }, ..CHOSEN };
    assert_clean(variant, 89_000, &[CAPTURED, REFUSED, CRASHED]);
}

#[test]
fn strict_is_clean_when_redis_and_a_gateway_are_lost_at_once() {
    let faults = Faults { crashes: 1, ..ONE_FAILOVER };
    let variant =
        Variant { durability: Durability::Strict, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 36_000, &[CAPTURED, REFUSED, RECOVERED, CRASHED]);
}

#[test]
fn strict_is_clean_in_a_split_brain() {
    let durability = Durability::Strict;
    let variant = Variant { durability, bounds: Bounds::COARSE, faults: ONE_SPLIT, ..CHOSEN };
    assert_clean(variant, 260_000, &[CAPTURED, REFUSED, RECOVERED]);
}

#[test]
fn strict_is_clean_when_a_gateway_dies_in_a_split_brain() {
    let faults = Faults { splits: 1, crashes: 1, ..Faults::NONE };
    let durability = Durability::Strict;
    let variant = Variant { durability, bounds: Bounds::COARSE, faults, ..CHOSEN };
    assert_clean(variant, 49_000, &[CAPTURED, REFUSED, RECOVERED, CRASHED]);
}

const APPENDING: Variant = Variant {
    durability: Durability::Strict,
    append: Append::Fenced,
    bounds: Bounds { calls: 2, ..Bounds::COARSE },
    ..CHOSEN
};

#[test]
fn strict_by_append_is_clean_when_redis_and_a_gateway_are_lost_at_once() {
    let faults = Faults { crashes: 1, ..ONE_FAILOVER };
    let variant = Variant { faults, ..APPENDING };
    assert_clean(variant, 42_000, &[CAPTURED, REFUSED, RECOVERED, CRASHED, APPENDED_AFTER]);
}

#[test]
fn strict_by_append_is_clean_when_a_gateway_is_stopped_in_a_split_brain() {
    let variant = Variant { faults: ONE_SPLIT, ..APPENDING };
    assert_clean(variant, 340_000, &[CAPTURED, REFUSED, RECOVERED, APPENDED_AFTER]);
}

/// The lock alone keeps the promise, whatever a gateway thinks of its lease.
#[test]
fn a_recovery_that_waits_for_appends_misses_none() {
    let faults = Faults { pauses: 1, ..ONE_FAILOVER };
    let variant = Variant { lease_check: LeaseCheck::Never, faults, ..APPENDING };
    assert_holds(variant, ON_DISK);
}

#[test]
fn a_recovery_that_does_not_wait_for_appends_misses_one() {
    let faults = Faults { pauses: 1, ..ONE_FAILOVER };
    let (append, lease_check) = (Append::Unfenced, LeaseCheck::Never);
    assert_broken(Variant { append, lease_check, faults, ..APPENDING }, ON_DISK);
}

/// Two calls and two credits: the first takes both if it is quick.
const EXTENDING: Variant = Variant {
    extension: Extension::AsAHold,
    bounds: Bounds { first_grant: 2, ..Bounds::FINE },
    ..CHOSEN
};

#[test]
fn a_hold_that_is_extended_is_clean_without_a_failure() {
    let faults = Faults { upstream_failures: 1, timeouts: 1, ..Faults::NONE };
    assert_clean(Variant { faults, ..EXTENDING }, 14_000, &[CAPTURED, EXTENDED, REFUSED]);
}

#[test]
fn an_extension_is_clean_through_a_failover() {
    let variant = Variant { faults: ONE_FAILOVER, ..EXTENDING };
    assert_clean(variant, 250_000, &[EXTENDED, EXTENDED_AFTER, REFUSED, RECOVERED]);
}

#[test]
fn an_extension_is_clean_in_a_split_brain() {
    let bounds = Bounds { first_grant: 2, ..Bounds::COARSE };
    let faults = Faults { splits: 1, ..Faults::NONE };
    let variant = Variant { bounds, faults, ..EXTENDING };
    assert_clean(variant, 77_000, &[EXTENDED, EXTENDED_AFTER, REFUSED]);
}

/// A stopped gateway remembers the whole amount of an extended hold, and captures it late.
#[test]
fn an_extension_of_a_gateway_that_was_stopped_is_captured_late() {
    let faults = Faults { pauses: 1, ..ONE_FAILOVER };
    let bounds = Bounds { calls: 2, first_grant: 2, ..Bounds::COARSE };
    let variant = Variant { bounds, faults, ..EXTENDING };
    assert_clean(variant, 100_000, &[EXTENDED, EXTENDED_AFTER, REFUSED, LATE, DEBT]);
}

#[test]
fn an_extension_that_no_redo_ring_has_overspends() {
    let variant = Variant { extension: Extension::NotInRing, faults: ONE_FAILOVER, ..EXTENDING };
    assert_broken(variant, NO_OVERSPENDING);
}

#[test]
fn in_strict_an_extension_is_clean_when_redis_and_a_gateway_are_lost_at_once() {
    let faults = Faults { crashes: 1, ..ONE_FAILOVER };
    let bounds = Bounds { first_grant: 2, ..Bounds::COARSE };
    let variant = Variant { durability: Durability::Strict, bounds, faults, ..EXTENDING };
    assert_clean(variant, 290_000, &[EXTENDED, EXTENDED_AFTER, REFUSED, CRASHED]);
}

#[test]
fn in_strict_an_extension_that_is_not_awaited_is_not_on_disk() {
    let extension = Extension::NotAwaited;
    let variant = Variant { durability: Durability::Strict, extension, ..EXTENDING };
    assert_broken(variant, ON_DISK);
}
