//! The purpose of each rule: without it an answered hold is lost or something is written twice, with it nothing is.
//!
//! `FAREBOX_PROTOCOL_HOLDS=3` explores the clean variants with three holds; on one core that takes minutes.
use super::model::{Action, Batches};
use super::properties::*;
use super::state::State;
use super::variant::{Append, Faults, Variant};
use crate::check::{explore, find_broken, find_stuck};

const CHOSEN: Variant = Variant::CHOSEN;
const NONE: Faults = Faults::NONE;
const REDIS_FAILS_OVER: Faults = Faults { redis_failovers: 1, ..NONE };
const POSTGRES_FAILS_OVER: Faults = Faults { postgres_failovers: 1, ..NONE };
const REDIS_GOES_BACK: Faults = Faults { rewinds: 1, ..NONE };
/// The protocol with what the code still lacks against older data in a Redis whose process lives on.
const WATCHFUL: Variant =
    Variant { heeds_watermark: true, joins_with_watermark: true, compares_read: true, ..CHOSEN };

fn assert_clean(variant: Variant, at_least: usize, seen: &[&'static str]) {
    let named = std::env::var("FAREBOX_PROTOCOL_HOLDS").ok();
    let holds = named.map_or(variant.holds, |holds| holds.parse().expect("a number of holds"));
    explore(Batches::new(Variant { holds, ..variant }), &ALWAYS, at_least, seen);
}

fn assert_broken(variant: Variant, invariant: &'static str) {
    find_broken(Batches::new(variant), invariant);
}

/// Once nothing fails any more, a gateway can always have holds decided and appended again.
fn assert_never_stuck(variant: Variant) {
    let is_good = |state: &State| {
        let epoch = state.postgres.epoch;
        let serves = state.gateways.iter().any(|gateway| gateway.epoch == epoch);
        serves && state.postgres.is_open(epoch) && state.redis.accepts(epoch)
    };
    let stuck = find_stuck(&Batches::new(variant), Action::is_fault, is_good);
    assert!(stuck.is_empty(), "{} states, such as {:?}", stuck.len(), stuck[0]);
}

#[test]
fn strict_by_append_is_clean_without_a_failure() {
    let variant = Variant { holds: 3, faults: Faults { losses: 1, ..NONE }, ..CHOSEN };
    let seen = [FOLDED, APPENDED_OUT_OF_ORDER, NEVER_APPENDED, REPEATED];
    assert_clean(variant, 150_000, &seen);
}

#[test]
fn a_failover_of_redis_loses_no_answered_hold() {
    let faults = Faults { aborts: 1, losses: 1, ..REDIS_FAILS_OVER };
    assert_clean(Variant { faults, ..CHOSEN }, 160_000, &[FOLDED, REPLAYED, THIRD_EPOCH]);
}

#[test]
fn two_failovers_of_redis_and_a_gateway_that_starts_again_lose_no_answered_hold() {
    let faults = Faults { redis_failovers: 2, restarts: 1, ..NONE };
    assert_clean(
        Variant { syncers: 1, faults, ..CHOSEN },
        130_000,
        &[FOLDED, REPLAYED, THIRD_EPOCH],
    );
}

/// A snapshot that is older than the lock shows an epoch that has ended since.
#[test]
fn an_append_that_locks_and_looks_in_one_statement_comes_after_the_recovery() {
    let variant = Variant { append: Append::OneStatement, faults: REDIS_FAILS_OVER, ..CHOSEN };
    assert_broken(variant, RECOVERED);
}

#[test]
fn an_append_without_the_lock_comes_after_the_recovery() {
    let variant = Variant { append: Append::NoLock, faults: REDIS_FAILS_OVER, ..CHOSEN };
    assert_broken(variant, RECOVERED);
}

/// The batch that the recovery has waited for is not in the snapshot of the statement that waited.
#[test]
fn a_recovery_that_reads_the_appends_in_the_statement_that_waits_misses_one() {
    let variant = Variant { reads_after_lock: false, faults: REDIS_FAILS_OVER, ..CHOSEN };
    assert_broken(variant, RECOVERED);
}

/// Nobody has appended it, and a loss of Redis would lose it.
#[test]
fn a_repeated_operation_that_is_answered_at_once_is_not_on_disk() {
    let faults = Faults { losses: 1, ..NONE };
    assert_broken(Variant { awaits_repeated: false, faults, ..CHOSEN }, ON_DISK);
}

/// The place of the elected syncer has expired while it still writes.
#[test]
fn two_syncers_that_do_not_look_at_the_checkpoint_write_a_batch_twice() {
    assert_broken(Variant { continues_checkpoint: false, ..CHOSEN }, ONCE);
}

#[test]
fn a_failover_of_postgres_loses_no_answered_hold() {
    let faults = Faults { losses: 1, ..POSTGRES_FAILS_OVER };
    assert_clean(Variant { faults, ..CHOSEN }, 160_000, &[FOLDED, TAKEN_BACK]);
}

/// Neither another server nor an earlier checkpoint shows: the sync goes on from where this Postgres is.
#[test]
fn a_failover_of_postgres_that_nobody_notices_loses_no_answered_hold() {
    let variant = Variant { notices_failover: false, faults: POSTGRES_FAILS_OVER, ..CHOSEN };
    assert_clean(variant, 8_000, &[FOLDED, TAKEN_BACK]);
}

/// The standby may not even know the epoch that Redis is in.
#[test]
fn a_failover_of_postgres_to_an_earlier_epoch_loses_no_answered_hold() {
    let faults = Faults { recoveries: 1, ..POSTGRES_FAILS_OVER };
    assert_clean(
        Variant { syncers: 1, faults, ..CHOSEN },
        110_000,
        &[FOLDED, TAKEN_BACK, BEHIND, THIRD_EPOCH],
    );
}

#[test]
fn a_stream_that_is_trimmed_at_the_checkpoint_cannot_mend_a_failover_of_postgres() {
    let variant = Variant { keeps_stream: false, faults: POSTGRES_FAILS_OVER, ..CHOSEN };
    assert_broken(variant, KEPT);
}

#[test]
fn a_recovery_that_replays_one_epoch_alone_loses_those_that_postgres_does_not_know() {
    let faults = Faults { recoveries: 1, ..POSTGRES_FAILS_OVER };
    assert_broken(Variant { replays_later_epochs: false, faults, ..CHOSEN }, RECOVERED);
}

#[test]
fn an_epoch_that_is_counted_from_postgres_alone_finds_keys_of_its_number() {
    let faults = Faults { recoveries: 1, ..POSTGRES_FAILS_OVER };
    assert_broken(Variant { counts_from_redis: false, faults, ..CHOSEN }, NEW_NUMBER);
}

/// The declared double fault: the stream in Redis is what a failover of Postgres is mended from.
#[test]
fn failovers_of_redis_and_postgres_at_once_lose_an_answered_hold() {
    let faults = Faults { redis_failovers: 1, ..POSTGRES_FAILS_OVER };
    assert_broken(Variant { faults, ..CHOSEN }, KEPT);
}

/// Somebody restores a copy into the running server, or the machine is set back as a whole: scripts, replication id and
/// epoch are as they were.
#[test]
fn older_data_in_the_same_redis_lose_no_answered_hold() {
    let faults = Faults { restarts: 1, ..REDIS_GOES_BACK };
    assert_clean(Variant { faults, ..WATCHFUL }, 60_000, &[FOLDED]);
}

/// A gap that is known: Redis gives a number again that Postgres has, so the gateway takes the new batch for durable.
#[test]
fn older_data_in_the_same_redis_lose_a_hold_where_the_watermark_is_not_heeded() {
    let variant = Variant { heeds_watermark: false, faults: REDIS_GOES_BACK, ..WATCHFUL };
    assert_broken(variant, ON_DISK);
}

/// It would be told "folded" for a number that Postgres has of another batch.
#[test]
fn a_gateway_that_joins_without_the_watermark_has_a_hold_answered_that_is_nowhere() {
    let faults = Faults { restarts: 1, ..REDIS_GOES_BACK };
    assert_broken(Variant { joins_with_watermark: false, faults, ..WATCHFUL }, ON_DISK);
}

const YOUNG: Variant =
    Variant { holds: 3, faults: Faults { young_rewinds: 1, ..NONE }, ..WATCHFUL };

#[test]
fn two_texts_under_one_number_are_not_both_appended() {
    let variant = Variant { syncers: 0, ..YOUNG };
    explore(Batches::new(variant), &[ONE_TEXT, ON_DISK], 3_000, &[APPENDED_OUT_OF_ORDER]);
}

#[test]
fn appends_that_are_not_compared_have_two_texts_answered_under_one_number() {
    assert_broken(Variant { syncers: 0, compares_appends: false, ..YOUNG }, ONE_TEXT);
}

/// Even where the loss of Redis's newest data is too young to be noticed, nothing is written behind a batch that it was
/// not decided behind.
#[test]
fn a_fork_of_the_stream_is_not_written_on_from_another_branch() {
    let variant = Variant { append: Append::Never, ..YOUNG };
    explore(Batches::new(variant), &[ONE_CHAIN, ONCE, NO_GAP], 70_000, &[]);
}

#[test]
fn a_stream_that_is_not_compared_with_the_checkpoint_is_written_on_from_another_branch() {
    assert_broken(Variant { compares_stream: false, ..YOUNG }, ONE_CHAIN);
}

#[test]
fn a_syncer_that_does_not_compare_what_it_has_read_writes_on_from_another_branch() {
    assert_broken(Variant { compares_read: false, ..YOUNG }, ONE_CHAIN);
}

/// A gap that is known, and needs data that are lost within the lag of the sync (50 to 250 ms) while process,
/// scripts and replication id stay: the batch that was appended is folded under its number as another one.
#[test]
fn data_that_go_back_by_less_than_the_lag_of_the_sync_are_not_noticed() {
    assert_broken(YOUNG, ON_DISK);
}

#[test]
fn once_nothing_fails_any_more_holds_are_decided_again() {
    let aborts = Faults { aborts: 1, restarts: 1, ..REDIS_FAILS_OVER };
    let earlier = Faults { recoveries: 1, ..POSTGRES_FAILS_OVER };
    let back = Faults { restarts: 1, ..REDIS_GOES_BACK };
    for faults in [aborts, earlier, back] {
        assert_never_stuck(Variant { holds: 1, faults, ..WATCHFUL });
    }
}
