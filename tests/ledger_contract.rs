//! What every ledger must do, whatever it is built on.

use farebox::account::AccountId;
use farebox::credits::Credits;
use farebox::ledger::{
    Durability, EntryKind, HoldId, Ledger, OperationId, Pipeline, Posting, Reader, Refusal,
    SqliteLedger,
};
use farebox::metrics::Metrics;

async fn embedded(dir: &std::path::Path, durability: Durability) -> (Ledger, Pipeline) {
    let metrics = Metrics::new().unwrap();
    let backend =
        SqliteLedger::open(&dir.join("ledger.db"), durability, metrics.clone()).await.unwrap();
    let reader = backend.reader().await.unwrap();
    Ledger::start(backend, reader, metrics)
}

fn credits(text: &str) -> Credits {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_call_is_held_captured_and_survives_a_restart() {
    for durability in [Durability::Strict, Durability::Relaxed] {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, pipeline) = embedded(dir.path(), durability).await;
        let alice: AccountId = "alice".parse().unwrap();
        let grant = Posting {
            id: OperationId::posting(EntryKind::Grant, "gift-7").unwrap(),
            account: alice.clone(),
            kind: EntryKind::Grant,
            amount: credits("10").signed(),
            reason: None,
        };
        assert!(ledger.post(grant.clone()).await.unwrap().1);
        assert!(!ledger.post(grant).await.unwrap().1);
        let hold =
            |n: &str| ledger.hold(HoldId::for_call(), alice.clone(), credits(n), "/x".into());
        let first = hold("5").await.unwrap();
        let second = hold("5").await.unwrap();
        assert_eq!(
            hold("0.000001").await.unwrap_err(),
            Refusal::Insufficient { available: Credits::ZERO.signed() }
        );
        first.capture(credits("4"));
        drop(second);
        let balance = ledger.balance(&alice).await.unwrap().unwrap();
        assert_eq!(balance.balance, credits("6").signed());
        assert_eq!(balance.held, Credits::ZERO);
        assert!(pipeline.stop().await);

        let (ledger, pipeline) = embedded(dir.path(), durability).await;
        assert_eq!(ledger.balance(&alice).await.unwrap().unwrap(), balance);
        let entries = ledger.read().entries(&alice, None, 10).await.unwrap();
        assert_eq!(entries.len(), 2);
        assert!(ledger.reconcile().await.unwrap().is_clean());
        assert!(pipeline.stop().await);
    }
}
