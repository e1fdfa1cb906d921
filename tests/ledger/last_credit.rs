//! A thousand callers at once, with credits for exactly `k` of them.

use std::sync::Arc;

use farebox::ledger::{CallId, Ledger, Refusal};
use tokio::sync::Barrier;

use crate::test_ledger::{TestLedger, account, credits, on_every_ledger};

on_every_ledger!("multi_thread": last_credit_is_spent_once);

const CALLERS: u32 = 1000;

async fn last_credit_is_spent_once(fixture: TestLedger) {
    for k in [0, 1, 2, 99, 500, 999, 1000] {
        let fresh = TestLedger::new(fixture.kind);
        let running = fresh.open().await;
        running.open(&account("alice"), credits(&format!("{}", k * 5))).await.unwrap();
        let start = Arc::new(Barrier::new(CALLERS as usize));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (ledger, start) = (Ledger::clone(&running), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    let alice = account("alice");
                    ledger.hold(CallId::new(), alice, credits("5"), "/x".into()).await
                })
            })
            .collect();
        let mut granted = Vec::new();
        for caller in callers {
            match caller.await.unwrap() {
                Ok(hold) => granted.push(hold),
                Err(refusal) => assert!(matches!(refusal, Refusal::Insufficient { .. })),
            }
        }
        assert_eq!(granted.len() as u32, k, "credits for {k} calls");
        assert_eq!(running.has("alice").await, (format!("{}", k * 5), format!("{}", k * 5)));
        // Half are charged, half given back: what is given back can be spent, once.
        for (n, hold) in granted.into_iter().enumerate() {
            if n % 2 == 0 { hold.capture(credits("5")) } else { hold.release() }
        }
        let left = k / 2;
        assert_eq!(running.has("alice").await, (format!("{}", left * 5), "0".to_owned()));
        running.reconciles().await;
        running.stop().await;
    }
}
