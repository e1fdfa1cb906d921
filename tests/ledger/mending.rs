//! A repair that ended before it was done.

use farebox::metrics::Metrics;
use farebox::store::repair_cluster;

use crate::test_ledger::{TestLedger, api_capture, api_hold, on_cluster_ledgers, text};

on_cluster_ledgers!("multi_thread":
    what_a_repair_let_go_of_and_did_not_bring_again_is_brought_by_the_next,
);

/// A gateway was killed, or Postgres was lost, in the middle of a repair. Without the next repair, no gateway would
/// watch the deadlines of the account's holds.
async fn what_a_repair_let_go_of_and_did_not_bring_again_is_brought_by_the_next(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("job", "3")).await;
    let redis = &fixture.cluster().redis;
    let account = redis.ask(&["KEYS", "{s00}:?:a:alice"]);
    let live = account.replace(":a:alice", ":live");
    let newest = redis.ask(&["HGET", "{s00}:meta", "seq"]);
    assert_eq!(redis.ask(&["HDEL", &live, "job"]), "1");
    assert_eq!(redis.ask(&["DEL", &account]), "1");
    assert_eq!(redis.ask(&["SET", &account.replace(":a:", ":w:a:"), &newest]), "OK");

    repair_cluster(&fixture.config("mender"), Metrics::new().unwrap()).await.unwrap();
    assert_eq!(redis.ask(&["HEXISTS", &live, "job"]), "1");
    assert_eq!(redis.ask(&["EXISTS", &account]), "1");
    assert_eq!(ledger.has("alice").await, text(("10", "3")));
    ledger.ask(api_capture("job", "3")).await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}
