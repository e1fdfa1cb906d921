//! Calls on one kept connection, one after the other, once everything is warm.

use stats_alloc::Region;

use crate::exchange::{Caller, request};
use crate::support::token;
use crate::{ALLOCATOR, Counted};

/// Calls before counting begins: caches, pools and buffers have their size then.
const WARM_UP: usize = 300;

/// Calls that are counted.
const CALLS: usize = 2000;

/// The most that one call may allocate. Three quarters of the bytes are Pingora's buffer for the body of an answer, of
/// 64 KiB.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// Allocations, and reallocations that grow or shrink one.
    times: usize,
    bytes: usize,
}

/// Makes calls of `path`, and expects that they keep to the budget on average: the ledger's batches and timers share
/// their allocations among many calls.
fn assert_within(budget: Budget, ledger: &str, path: &str) {
    let counted = Counted::start(ledger);
    let mut caller = warm_caller(&counted, path);
    let (times, bytes) = allocations(&mut caller, CALLS);
    println!("a call of {path} with {ledger:?}: {times:.1} allocations, {bytes:.0} bytes");
    assert!(times <= budget.times as f64, "{times:.1} allocations a call, above {budget:?}");
    assert!(bytes <= budget.bytes as f64, "{bytes:.0} bytes a call, above {budget:?}");
    counted.stop();
}

/// A caller of `path` that has made its first calls.
fn warm_caller(counted: &Counted, path: &str) -> Caller {
    let public = counted.gateway.public();
    let mut caller = Caller::new(public, request(public, path, &token("alice")));
    for _ in 0..WARM_UP {
        caller.call();
    }
    caller
}

/// The average number of allocations of a call, and of allocated bytes, over this number of calls.
fn allocations(caller: &mut Caller, calls: usize) -> (f64, f64) {
    let region = Region::new(ALLOCATOR);
    for _ in 0..calls {
        caller.call();
    }
    let change = region.change();
    let times = (change.allocations + change.reallocations) as f64 / calls as f64;
    (times, change.bytes_allocated as f64 / calls as f64)
}

#[test]
fn a_free_call_keeps_to_its_budget_of_allocations() {
    assert_within(Budget { times: 70, bytes: 88_000 }, "", "/free");
}

#[test]
fn a_paid_call_in_relaxed_keeps_to_its_budget_of_allocations() {
    let relaxed = r#"durability = "relaxed""#;
    // 91 on a quiet machine. The ledger writes every 25 ms, so on a busy one fewer calls share the allocations of a
    // write.
    assert_within(Budget { times: 110, bytes: 94_000 }, relaxed, "/api/ai/generate");
}

#[test]
fn a_paid_call_in_strict_keeps_to_its_budget_of_allocations() {
    let strict = r#"durability = "strict""#;
    assert_within(Budget { times: 150, bytes: 100_000 }, strict, "/api/ai/generate");
}

/// The ledger's writes, every 25 ms, allocate too. So the least of many short rounds is compared.
#[test]
fn a_call_without_a_key_allocates_nothing_for_keys() {
    let least = |tables: &str| {
        let counted = Counted::start_with(r#"durability = "relaxed""#, tables);
        let mut caller = warm_caller(&counted, "/api/ai/generate");
        let rounds = (0..200).map(|_| allocations(&mut caller, 10));
        let least = rounds.fold(f64::MAX, |least, (times, _)| least.min(times));
        counted.stop();
        least
    };
    let (on, off) = (least(""), least("[idempotency]\nenabled = false"));
    println!("a call without a key: {on:.1} allocations, and {off:.1} where keys are turned off");
    assert!(on <= off + 0.5, "{on:.1} allocations, and {off:.1} where keys are turned off");
}
