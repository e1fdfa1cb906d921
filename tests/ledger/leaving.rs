//! Callers who do not wait for their answers, and what they leave to others.

use std::sync::Arc;
use std::time::Duration;

use farebox::ledger::{Backend as _, LedgerConfig, Reader as _};
use farebox::metrics::Metrics;
use farebox::store::ClusterLedger;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::test_ledger::{TestLedger, account, credits, on_cluster_ledgers};

on_cluster_ledgers!("multi_thread":
    a_reader_who_leaves_in_the_middle_of_a_statement_spoils_no_connection,
);

async fn a_reader_who_leaves_in_the_middle_of_a_statement_spoils_no_connection(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("1000").await;
    // So few connections that each is used again at once.
    let few = LedgerConfig { postgres_connections: 5, ..fixture.config("other") };
    let mut other = ClusterLedger::open(&few, Metrics::new().unwrap()).await.unwrap();
    let reader = Arc::new(other.reader());
    let alice = account("alice");
    for round in 0..300 {
        // The readers write these charges into Postgres.
        for _ in 0..3 {
            ledger.call("0.001").await.unwrap().capture(credits("0.001"));
        }
        ledger.balance(&alice).await.unwrap();
        let mut leaving = JoinSet::new();
        for nth in 0..3 {
            let (reader, alice) = (reader.clone(), alice.clone());
            let limit = Duration::from_micros((67 * round + 7000 * nth) % 20_000);
            leaving.spawn(timeout(limit, async move {
                reader.catch_up().await?;
                reader.account(&alice).await
            }));
        }
        for stayed in leaving.join_all().await.into_iter().flatten() {
            assert_eq!(stayed.unwrap().unwrap().account, alice);
        }
        for _ in 0..3 {
            assert_eq!(reader.account(&alice).await.unwrap().unwrap().account, alice);
        }
    }
    assert!(other.close().await);
    ledger.reconciles().await;
    ledger.stop().await;
}
