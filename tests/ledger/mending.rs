//! A repair that ended before it was done, and a ledger that somebody changed.

use farebox::metrics::Metrics;
use farebox::store::repair_cluster;

use crate::test_ledger::{TestLedger, api_capture, api_hold, grant, on_cluster_ledgers, text};

on_cluster_ledgers!("multi_thread":
    what_a_repair_let_go_of_and_did_not_bring_again_is_brought_by_the_next,
    reconcile_adds_up_the_entries_of_an_account_whose_entries_were_changed,
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

/// Somebody who may do anything in the database changed entries. The balance after each entry is what the entry says; the
/// sum is that of the amounts.
async fn reconcile_adds_up_the_entries_of_an_account_whose_entries_were_changed(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("10").await;
    for (id, account, amount) in [("b", "alice", "3"), ("c", "alice", "1"), ("d", "bob", "2")] {
        ledger.post(grant(id, account, amount)).await.unwrap();
    }
    ledger.reconciles().await;
    let second = "entry 2 should leave 18 but records 13";
    let third = "entry 3 should leave 14 but records 19";
    let sum = "the balance is 14, the entries add up to 19";
    for (change, expected) in [
        ("SET amount = amount + 5000000 WHERE account = 'alice' AND seq = 2", &[second, sum][..]),
        (
            "SET balance_after = balance_after + 5000000 WHERE account = 'alice' AND seq = 3",
            &[second, third, sum],
        ),
        ("SET amount = amount - 5000000 WHERE account = 'alice' AND seq = 2", &[third]),
    ] {
        // Usually the database refuses this.
        let sql = format!("SET session_replication_role = replica; UPDATE entries {change}");
        fixture.execute(&sql).await.unwrap();
        let differences = ledger.reconcile().await.unwrap().differences;
        let of_alice = differences.iter().filter(|found| found.account == "alice");
        let mut said: Vec<_> = of_alice.map(|found| &*found.what).collect();
        said.retain(|what| !what.contains("operation id"));
        said.sort();
        assert_eq!(said, expected, "{change}: {differences:#?}");
        assert!(differences.iter().all(|found| found.account == "alice"), "{differences:#?}");
    }
    ledger.stop().await;
}
