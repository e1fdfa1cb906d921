//! Many clients that retry at once.

use std::collections::HashMap;
use std::time::Duration;

use super::{Counting, gateway, keyed};
use crate::support::http::Answer;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_with_ten_keys_are_ten_calls() {
    const CLIENTS: usize = 1000;
    const KEYS: usize = 10;
    let counting = Counting::slow().await;
    let gateway = gateway(&counting, "").await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let key = format!("key-{}", client % KEYS);
            let request = keyed(&gateway, &key, key.clone());
            // A third of the clients say that they retry, and wait.
            let request = match client % 3 {
                0 => request.header("x-stainless-retry-count", "1"),
                _ => request,
            };
            tokio::spawn(async move {
                loop {
                    let answer = Answer::of(request.try_clone().unwrap()).await;
                    if answer.status == 200 {
                        return (key, answer);
                    }
                    answer.problem(409, "IDEMPOTENCY_IN_PROGRESS");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    counting.permits.add_permits(KEYS);
    let (mut texts, mut first) = (HashMap::<String, String>::new(), 0);
    for client in clients {
        let (key, answer) = client.await.unwrap();
        first += usize::from(!answer.headers.contains_key("idempotent-replayed"));
        let text = texts.entry(key).or_insert_with(|| answer.text.clone());
        assert_eq!(*text, answer.text);
    }
    assert_eq!((counting.calls(), first, texts.len()), (KEYS, KEYS, KEYS));
    assert_eq!(gateway.settled_balance("alice").await, 50);
    gateway.assert_reconciled().await;
}
