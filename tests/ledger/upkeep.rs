//! The file and its upkeep: immutable entries, folding, reconciling, backup, the lock.

use farebox::ledger::{
    Backend as _, EntryKind, Ledger, LedgerError, NewHold, Operation, OperationId, Origin, Outcome,
};
use farebox::store::backup;
use sqlx::Executor as _;

use crate::test_ledger::{
    HOUR_MS, TestLedger, account, api_capture, api_hold, call_capture, credits, ended, eventually,
    grant, hold_id, hold_of, on_embedded_ledgers, on_every_ledger, posting, text,
};

on_every_ledger!("current_thread":
    the_database_itself_refuses_to_change_an_entry,
    folding_keeps_balances_ids_and_refunds,
    folding_keeps_what_is_newer,
    any_text_survives_the_disk,
);

mod file {
    use super::*;

    on_embedded_ledgers!("current_thread":
        a_read_has_the_calls_that_were_answered_before_it,
        folding_stops_at_what_is_newer_and_leaves_no_gap,
        folding_goes_in_slices_each_of_them_whole,
        folding_lets_others_in_between_its_slices,
        old_endings_are_forgotten_a_slice_at_a_time,
        reconcile_finds_what_is_wrong,
        a_backup_of_a_live_ledger_opens_and_reconciles,
        a_closed_ledger_is_one_file_though_it_was_read,
        the_lock_refuses_a_second_opener,
        the_lock_refuses_a_second_opener_by_another_name,
    );
}

/// The rows of calls are written a little after their answer.
async fn a_read_has_the_calls_that_were_answered_before_it(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    for round in 1..=30 {
        let held = ledger.ask(hold_of(Origin::Call, &format!("call-{round}"), "2", HOUR_MS)).await;
        assert!(matches!(held, Outcome::Held { .. }), "{held:?}");
        let captured = ledger.ask(call_capture(&format!("call-{round}"), "1")).await;
        assert!(matches!(captured, Outcome::Captured { .. }), "{captured:?}");
        let newest = ledger.read().entries(&account("alice"), None, 1).await.unwrap();
        assert_eq!(newest[0].balance_after.to_string(), (1000 - round).to_string());
        let view = ledger.read().account(&account("alice")).await.unwrap().unwrap();
        assert_eq!(view.balance.balance, newest[0].balance_after);
    }
    ledger.stop().await;
}

async fn the_database_itself_refuses_to_change_an_entry(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for change in [
        "UPDATE entries SET amount = 1",
        "UPDATE entries SET balance_after = 1 WHERE seq = 1",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE account = 'alice'",
    ] {
        let error = fixture.execute(change).await.expect_err(change).to_string();
        assert!(error.contains("immutable"), "{change}: {error}");
    }
    assert_eq!(ledger.entries("alice").await.len(), 1);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn folding_keeps_balances_ids_and_refunds(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for (job, amount) in [("a", "1"), ("b", "2"), ("c", "3")] {
        ledger.ask(api_hold(job, amount)).await;
        ledger.ask(api_capture(job, amount)).await;
    }
    ledger.post(grant("of-bob", "bob", "1")).await.unwrap();
    let nothing = ledger.fold(0).await.unwrap();
    assert_eq!((nothing.accounts, nothing.entries), (0, 0), "nothing is that old");
    let folded = ledger.fold(i64::MAX).await.unwrap();
    assert_eq!((folded.accounts, folded.entries), (2, 5));
    let again = ledger.fold(i64::MAX).await.unwrap();
    assert_eq!((again.accounts, again.entries), (0, 0), "an opening is not folded again");
    let entries = ledger.entries("alice").await;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].kind, entries[0].seq), (EntryKind::Opening, 4));
    assert_eq!(entries[0].balance_after.to_string(), "4");
    ledger.reconciles().await;
    let refund = ledger.ask(Operation::Refund { hold: hold_id("c"), reason: None }).await;
    assert!(matches!(refund, Outcome::Posted { new: true, .. }), "{refund:?}");
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    assert_eq!(ledger.ask(api_hold("a", "1")).await, ended());
    assert_eq!(ledger.fold(i64::MAX).await.unwrap().entries, 2);
    assert_eq!(ledger.entries("alice").await[0].seq, 5);
    assert!(fixture.execute("DELETE FROM entries").await.is_err(), "still immutable");
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("7", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn folding_keeps_what_is_newer(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("old", "1")).await;
    ledger.ask(api_capture("old", "1")).await;
    let last_old = ledger.entries("alice").await.last().unwrap().created_at_ms;
    let mut n = 0;
    eventually("the clock moved on", async || {
        n += 1;
        let posting = grant(&format!("new-{n}"), "alice", "1");
        ledger.post(posting).await.unwrap().0.created_at_ms > last_old
    })
    .await;
    let before = ledger.entries("alice").await;
    let newer = before.iter().filter(|entry| entry.created_at_ms > last_old).count();
    let folded = ledger.fold(last_old + 1).await.unwrap();
    assert_eq!((folded.accounts, folded.entries), (1, (before.len() - newer) as u64));
    let after = ledger.entries("alice").await;
    assert_eq!(after[1..], before[before.len() - newer..]);
    assert_eq!(after[0].kind, EntryKind::Opening);
    assert_eq!(after[0].balance_after, before[before.len() - newer - 1].balance_after);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// A clock that once went backwards wrote an old entry behind a newer one.
async fn folding_stops_at_what_is_newer_and_leaves_no_gap(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for id in ["a", "b", "c"] {
        ledger.post(grant(id, "alice", "1")).await.unwrap();
    }
    let mut sql = fixture.sql().await;
    sql.execute(
        "DROP TRIGGER entries_are_never_updated; \
         UPDATE entries SET created_at = CASE seq WHEN 3 THEN 2000 ELSE 1000 END; \
         CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries \
         BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END",
    )
    .await
    .unwrap();
    assert_eq!(ledger.fold(1500).await.unwrap().entries, 2);
    let entries = ledger.entries("alice").await;
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3, 4]);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Writes a ledger with more entries than fit in a slice: for one account, for many accounts, and
/// for an account whose entries are too new to be folded. Returns how many accounts and entries can
/// be folded before 1500.
async fn long(fixture: &TestLedger) -> (u64, u64) {
    fixture.open().await.stop().await;
    let mut sql = fixture.sql().await;
    sql.execute(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000) \
         INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, reason, \
         created_at) SELECT account, n, 'grant:' || account || n, 'grant', 1, n, NULL, \
         NULL, at FROM n JOIN (SELECT 'alice' AS account, 5000 AS count, 1000 AS at \
         UNION ALL SELECT 'account-' || n, 3, 1000 FROM n WHERE n <= 1000 \
         UNION ALL SELECT 'recent', 4500, 2000) WHERE n <= count; \
         INSERT INTO accounts SELECT account, sum(amount), max(seq), 1 FROM entries GROUP BY account",
    )
    .await
    .unwrap();
    (1 + 1000, 5000 + 3000)
}

async fn folding_goes_in_slices_each_of_them_whole(fixture: TestLedger) {
    let (accounts, entries) = long(&fixture).await;
    let mut backend = fixture.backend().await;
    let reader = backend.reader().await;
    let (mut folded, mut from, mut slices) = ((0, 0), None, 0);
    loop {
        let fold = Operation::Fold { before_ms: 1500, from };
        let outcome = backend.ask(fold).await;
        let Outcome::Folded { report, next } = outcome else { panic!("{outcome:?}") };
        assert!(report.entries <= 2000, "{report:?}");
        folded = (folded.0 + report.accounts, folded.1 + report.entries);
        slices += 1;
        // The ledger is now as a crash between two slices would leave it.
        assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
        let report = reader.reconcile().await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(folded, (accounts, entries));
    assert!((5..=9).contains(&slices), "{slices}");
    let entries = reader.entries(&account("alice"), None, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].seq, entries[0].kind), (5000, EntryKind::Opening));
    assert_eq!(reader.entries(&account("recent"), None, 9999).await.unwrap().len(), 4500);
    let again = backend.ask(Operation::Post(grant("alice4999", "alice", "0.000001"))).await;
    assert!(matches!(again, Outcome::Posted { new: false, .. }), "{again:?}");
    assert!(backend.close().await);
}

async fn folding_lets_others_in_between_its_slices(fixture: TestLedger) {
    long(&fixture).await;
    let ledger = fixture.open_with("0.01").await;
    let folder = farebox::ledger::Ledger::clone(&ledger);
    let mut folding = std::pin::pin!(folder.fold(1500));
    let mut calls = 0;
    while !crate::test_ledger::poll_once(folding.as_mut()).await {
        ledger.call("0.000001").await.unwrap().release();
        calls += 1;
    }
    assert!(calls >= 5, "{calls} calls were served meanwhile");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn old_endings_are_forgotten_a_slice_at_a_time(fixture: TestLedger) {
    fixture.open().await.stop().await;
    let mut sql = fixture.sql().await;
    sql.execute(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000) \
         INSERT INTO ended_holds SELECT 'call-' || n, 'alice', 1, 'call', 'released', n FROM n \
         UNION ALL SELECT 'api-' || n, 'alice', 1, 'api', 'released', n FROM n WHERE n <= 10",
    )
    .await
    .unwrap();
    let mut backend = fixture.backend().await;
    for left in [3000, 1000, 0, 0] {
        backend.tick(&|_| false).await;
        let count = "SELECT count(*) FROM ended_holds";
        let kept: i64 = sqlx::query_scalar(count).fetch_one(&mut sql).await.unwrap();
        assert_eq!(kept, left + 10, "the API's ids are kept for ever");
    }
    assert!(backend.close().await);
}

async fn reconcile_finds_what_is_wrong(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for operation in [api_hold("charged", "2"), api_capture("charged", "2"), api_hold("live", "1")]
    {
        ledger.ask(operation).await;
    }
    ledger.post(grant("second", "alice", "3")).await.unwrap();
    ledger.reconciles().await;
    let changed = "DROP TRIGGER entries_are_never_updated; UPDATE entries ";
    let deleted = "DROP TRIGGER entries_are_never_deleted; DELETE FROM entries ";
    for (harm, found) in [
        ("UPDATE accounts SET balance = balance + 1".to_owned(), "the balance is"),
        ("UPDATE accounts SET seq = seq + 1".to_owned(), "the newest of them"),
        (format!("{changed} SET amount = amount + 1 WHERE seq = 2"), "should leave"),
        (format!("{changed} SET balance_after = 0 WHERE seq = 3"), "should leave"),
        (format!("{deleted} WHERE seq = 1"), "are missing"),
        (format!("{deleted} WHERE seq = 2"), "are missing"),
        (format!("{deleted} WHERE seq = 3"), "the newest of them"),
        ("DELETE FROM accounts".to_owned(), "does not exist"),
        (
            "INSERT INTO ended_holds SELECT id, account, amount, origin, 'expired', 1 FROM holds"
                .to_owned(),
            "live and ended",
        ),
        (
            "INSERT INTO api_holds (id, account, amount, route, expires_at) \
             VALUES ('charged', 'alice', 1, '/', 1)"
                .to_owned(),
            "live and ended",
        ),
        (
            "INSERT INTO ended_holds VALUES ('charged', 'alice', 1, 'api', 'released', 1)"
                .to_owned(),
            "released and captured",
        ),
    ] {
        let harmed = fixture.crashed();
        let mut sql = harmed.sql().await;
        sql.execute(sqlx::AssertSqlSafe(harm.clone())).await.unwrap();
        let reader = farebox::store::SqliteReader::new(&harmed.path());
        let report = farebox::ledger::Reader::reconcile(&reader).await.unwrap();
        let differences = report.differences;
        assert!(differences.iter().any(|d| d.what.contains(found)), "{harm}: {differences:#?}");
    }
    // These rows agree with each other on disk, but differ from what the running ledger knows.
    let mut sql = fixture.sql().await;
    sql.execute("UPDATE api_holds SET amount = amount + 1").await.unwrap();
    let differences = ledger.reconcile().await.unwrap().differences;
    assert!(differences.iter().any(|d| d.what.contains("memory has")), "{differences:#?}");
    sql.execute("UPDATE api_holds SET amount = amount - 1").await.unwrap();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_backup_of_a_live_ledger_opens_and_reconciles(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    ledger.reconciles().await;
    let copy = TestLedger::new(fixture.kind);
    std::fs::create_dir_all(copy.dir()).unwrap();
    let calls = async {
        for _ in 0..100 {
            ledger.call("1").await.unwrap().capture(credits("1"));
        }
    };
    let (source, target) = (fixture.path(), copy.path());
    let ((), backed_up) = tokio::join!(calls, backup(&source, &target));
    backed_up.unwrap();
    let again = backup(&fixture.path(), &target).await;
    assert!(matches!(again, Err(LedgerError::Exists { .. })), "{again:?}");
    assert_eq!(ledger.has("alice").await, text(("900", "0")));
    let restored = copy.open().await;
    restored.reconciles().await;
    let entries = restored.entries("alice").await;
    let (balance, held) = restored.has("alice").await;
    assert_eq!(entries.last().unwrap().balance_after.to_string(), balance);
    assert_eq!(held, "0", "calls do not outlive their gateway");
    let first = ledger.entries("alice").await;
    assert_eq!(entries, first[..entries.len()], "one moment of the ledger, whole");
    restored.stop().await;
    ledger.stop().await;
}

async fn a_closed_ledger_is_one_file_though_it_was_read(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    assert_eq!(ledger.entries("alice").await.len(), 1, "by another connection than wrote it");
    let still_held = Ledger::clone(&ledger);
    ledger.stop().await;
    let files = std::fs::read_dir(fixture.dir()).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ledger.db", "ledger.db.lock"]);
    still_held.read().entries(&account("alice"), None, 1).await.expect_err("it is closed");
}

async fn the_lock_refuses_a_second_opener(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for _ in 0..2 {
        let second = fixture.embedded().await;
        assert!(matches!(second, Err(LedgerError::Locked { .. })), "{second:?}");
    }
    // The refused start changes nothing, above all no hold of a live call.
    let call = ledger.call("4").await.unwrap();
    assert!(fixture.embedded().await.is_err());
    assert_eq!(ledger.has("alice").await, text(("10", "4")));
    ledger.reconciles().await;
    drop(call);
    ledger.stop().await;
    fixture.open().await.stop().await;
}

async fn the_lock_refuses_a_second_opener_by_another_name(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let other = TestLedger::new(fixture.kind);
    std::fs::create_dir_all(other.dir()).unwrap();
    std::os::unix::fs::symlink(fixture.path(), other.path()).unwrap();
    let second = other.embedded().await;
    assert!(matches!(second, Err(LedgerError::Locked { .. })), "{second:?}");
    ledger.stop().await;
    let ledger = other.open().await;
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn any_text_survives_the_disk(fixture: TestLedger) {
    let ledger = fixture.open().await;
    let whose = r#"a"b\c:%'{}[],/<é>"#.replace('é', "e");
    let reason = "\"quoted\" \\ back\tslash\n\u{1}\u{7f}é 漢字 \u{1F600} \u{2028} 'x'; --";
    for (id, who) in [("123", whose.as_str()), ("null", "123"), ("1e3", "null")] {
        let posting = farebox::ledger::Posting {
            reason: Some(reason.into()),
            ..posting(EntryKind::Adjustment, id, who, "1.5")
        };
        assert!(ledger.post(posting.clone()).await.unwrap().1);
        assert!(!ledger.post(posting).await.unwrap().1, "{id} is found again");
        let hold = NewHold {
            id: hold_id(&format!(r#"{id}"\"#)),
            account: account(who),
            amount: credits("1"),
            route: reason.into(),
            origin: Origin::Api,
            ttl_ms: u64::MAX,
            claim: None,
        };
        let held = ledger.ask(Operation::Hold(hold.clone())).await;
        assert!(matches!(held, Outcome::Held { .. }), "{held:?}");
    }
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    for (id, who) in [("123", whose.as_str()), ("null", "123"), ("1e3", "null")] {
        assert_eq!(ledger.has(who).await, text(("1.5", "1")));
        let capture = api_capture(&format!(r#"{id}"\"#), "1");
        assert!(matches!(ledger.ask(capture).await, Outcome::Captured { late: false, .. }));
        let entries = ledger.read().entries(&account(who), None, 10).await;
        let entries = entries.unwrap();
        let adjustment = entries.last().unwrap();
        assert_eq!(adjustment.reason.as_deref(), Some(reason));
        assert_eq!(adjustment.operation, OperationId::posting(EntryKind::Adjustment, id).unwrap());
    }
    ledger.reconciles().await;
    ledger.stop().await;
}
