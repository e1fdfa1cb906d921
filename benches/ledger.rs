//! The embedded ledger alone: holds and their captures, by the size of the batch.
//!
//! `cargo bench --bench ledger`; an element is one operation.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use farebox::account::AccountId;
use farebox::credits::Credits;
use farebox::ledger::{
    Backend as _, Durability, EntryKind, HoldId, NewHold, Operation, OperationId, Origin, Outcome,
    Posting,
};
use farebox::metrics::Metrics;
use farebox::store::SqliteLedger;

/// Among how many accounts the calls are spread.
const ACCOUNTS: usize = 100;

fn accounts() -> Vec<AccountId> {
    (0..ACCOUNTS).map(|n| format!("account-{n}").parse().unwrap()).collect()
}

async fn funded(dir: &std::path::Path, durability: Durability) -> SqliteLedger {
    let metrics = Metrics::new().unwrap();
    let mut ledger = SqliteLedger::open(&dir.join("ledger.db"), durability, metrics).await.unwrap();
    let grants: Vec<_> = accounts()
        .into_iter()
        .map(|account| {
            Operation::Post(Posting {
                id: OperationId::posting(EntryKind::Grant, account.as_str()).unwrap(),
                account,
                kind: EntryKind::Grant,
                amount: Credits::from_whole(1_000_000_000).unwrap().signed(),
                reason: None,
            })
        })
        .collect();
    granted(&ledger.apply(&grants).await);
    ledger
}

fn granted(outcomes: &[Outcome]) {
    assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))));
}

/// A batch of holds, and the batch of their captures.
fn calls(accounts: &[AccountId], size: usize) -> (Vec<Operation>, Vec<Operation>) {
    let amount = Credits::from_micros(1).unwrap();
    (0..size)
        .map(|n| {
            let (hold, account) = (HoldId::for_call(), accounts[n % accounts.len()].clone());
            let (route, origin) = (std::sync::Arc::from("/v1/chat/completions"), Origin::Call);
            let capture = Operation::Capture {
                hold: hold.clone(),
                account: Some(account.clone()),
                amount,
                route: std::sync::Arc::clone(&route),
                origin,
                may_overrun: true,
                usage: None,
                claim: None,
            };
            let new =
                NewHold { id: hold, account, amount, route, origin, ttl_ms: 60_000, claim: None };
            (Operation::Hold(new), capture)
        })
        .unzip()
}

fn hold_and_capture(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let accounts = accounts();
    for (name, durability) in [("strict", Durability::Strict), ("relaxed", Durability::Relaxed)] {
        let mut group = criterion.benchmark_group(name);
        for size in [1, 16, 128, 1024] {
            let dir = tempfile::tempdir().unwrap();
            let mut ledger = runtime.block_on(funded(dir.path(), durability));
            group.throughput(Throughput::Elements(2 * size as u64));
            group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, size| {
                bencher.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds {
                        let (holds, captures) = calls(&accounts, *size);
                        let started = Instant::now();
                        runtime.block_on(async {
                            granted(&ledger.apply(&holds).await);
                            granted(&ledger.apply(&captures).await);
                        });
                        spent += started.elapsed();
                    }
                    spent
                });
            });
            assert!(runtime.block_on(ledger.close()));
        }
        group.finish();
    }
}

criterion_group! {
    name = ledger;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = hold_and_capture
}
criterion_main!(ledger);
