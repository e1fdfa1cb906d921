//! The disk fails, for real: a process of its own sets itself a file size limit, so that every
//! write that makes a file longer fails as it does on a full disk.

use std::pin::pin;
use std::process::Command;

use bytes::Bytes;
use farebox::ledger::{
    Answers as _, Backend as _, CallId, Claim, ClaimId, ClaimState, HeldOrClaimed, HoldId, Kept,
    Ledger, Operation, Origin, Outcome, Refusal, Stage,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::Executor as _;

use crate::payments;
use crate::test_ledger::{
    HOUR_MS, TestLedger, account, api_hold, api_release, call_capture, credits, eventually, grant,
    hold_of, on_embedded_ledgers, poll_once,
};

on_embedded_ledgers!("current_thread":
    a_full_disk_refuses_holds_and_loses_nothing,
    a_grant_that_was_not_written_is_never_answered_as_done,
    a_freeze_that_was_not_written_freezes_nobody,
    a_stop_waits_for_the_disk,
    a_commit_in_doubt_is_settled_by_the_file,
    a_claim_that_was_not_written_is_free,
    an_answer_that_was_not_written_is_never_said_to_be_kept,
);

/// Set in the process that runs a test by itself.
const ALONE: &str = "FAREBOX_TEST_ALONE";

/// Returns true in the process that runs the test by itself. Otherwise runs the test in such a
/// process, and passes its failure on. The process ignores the signal for too large a file, so that
/// the write fails instead.
fn alone(fixture: &TestLedger, test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let run = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("faults::{}::{test}", fixture.kind.module()))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// From here on no file of this process grows.
fn fill_disk() {
    limit(Some(1));
}

/// From here on writing works again.
fn free_disk() {
    limit(None);
}

fn limit(current: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: current.or(maximum), maximum }).unwrap();
}

fn unavailable() -> Outcome {
    Outcome::Refused(Refusal::Unavailable)
}

async fn a_full_disk_refuses_holds_and_loses_nothing(fixture: TestLedger) {
    if !alone(&fixture, "a_full_disk_refuses_holds_and_loses_nothing") {
        return;
    }
    let ledger = fixture.open_with("100").await;
    let (charged, released) = (ledger.call("10").await.unwrap(), ledger.call("20").await.unwrap());
    let longer = ledger.call("30").await.unwrap();
    ledger.reconciles().await;

    fill_disk();
    charged.capture(credits("4"));
    released.release();
    // `relaxed` learns of the disk a moment later, and keeps what it granted until then.
    let mut granted = Vec::new();
    eventually("holds are refused", async || match ledger.call("1").await {
        Ok(hold) => {
            granted.push(hold);
            false
        }
        Err(refusal) => refusal == Refusal::Unavailable,
    })
    .await;
    if fixture.kind.is_strict() {
        assert!(granted.is_empty(), "no hold is granted that is not on disk");
        assert_eq!(ledger.read().entries(&account("alice"), None, 9).await.unwrap().len(), 1);
    }
    let more = granted.len();
    granted.into_iter().for_each(|hold| hold.capture(credits("1")));
    for _ in 0..3 {
        assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Unavailable);
        let grant = ledger.post(grant("more", "alice", "5")).await;
        assert_eq!(grant.unwrap_err(), Refusal::Unavailable);
    }
    longer.capture(credits("30"));

    free_disk();
    // Calls that were settled meanwhile are written without a further request.
    let left = (format!("{}", 100 - 34 - more), "0".to_owned());
    eventually("all is settled", async || {
        let mut sql = fixture.sql().await;
        let settled = "SELECT count(*) = 0 FROM holds";
        sqlx::query_scalar(settled).fetch_one(&mut sql).await.unwrap()
    })
    .await;
    assert_eq!(ledger.has("alice").await, left);
    ledger.call("1").await.unwrap().release();
    assert!(ledger.post(grant("more", "alice", "5")).await.unwrap().1);
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, (format!("{}", 105 - 34 - more), "0".to_owned()));
    assert_eq!(ledger.entries("alice").await.len(), 4 + more);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_freeze_that_was_not_written_freezes_nobody(fixture: TestLedger) {
    if !alone(&fixture, "a_freeze_that_was_not_written_freezes_nobody") {
        return;
    }
    let ledger = fixture.open_with("100").await;
    payments::take(&ledger, payments::paid()).await.unwrap();
    fill_disk();
    let dispute = payments::disputed(Stage::Standing);
    assert_eq!(payments::take(&ledger, dispute.clone()).await, Err(Refusal::Unavailable));
    let kept = ledger.ask(payments::event("evt_1")).await;
    assert_eq!(kept, Outcome::Refused(Refusal::Unavailable), "Stripe is to send it again");
    free_disk();
    eventually("calls are taken again", async || match ledger.call("1").await {
        Ok(hold) => {
            hold.release();
            true
        }
        Err(refusal) => {
            assert_eq!(refusal, Refusal::Unavailable, "not frozen");
            false
        }
    })
    .await;
    payments::take(&ledger, dispute).await.unwrap();
    assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Frozen);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_grant_that_was_not_written_is_never_answered_as_done(fixture: TestLedger) {
    if !alone(&fixture, "a_grant_that_was_not_written_is_never_answered_as_done") {
        return;
    }
    let mut backend = fixture.backend().await;
    let reader = backend.reader().await;
    backend.ask(Operation::Post(grant("first", "alice", "5"))).await;
    let gift = Operation::Post(grant("gift", "alice", "5"));
    fill_disk();
    let batch =
        [gift.clone(), Operation::Audit, gift.clone(), Operation::Audit, api_hold("h", "7")];
    let outcomes = backend.apply(&batch).await;
    assert_eq!(outcomes[0], unavailable());
    assert_eq!(outcomes[2], unavailable(), "it is not there, so it is not there already");
    assert_eq!(outcomes[4], unavailable());
    let balance = backend.ask(Operation::Balance { account: account("alice") }).await;
    let Outcome::Balance(Some(balance)) = balance else { panic!("{balance:?}") };
    assert_eq!(balance.available().to_string(), "5", "memory is as it was");
    free_disk();
    eventually_ticks(&mut backend).await;
    let given = backend.ask(gift.clone()).await;
    assert!(matches!(given, Outcome::Posted { new: true, .. }), "{given:?}");
    let given = backend.ask(gift).await;
    assert!(matches!(given, Outcome::Posted { new: false, .. }), "{given:?}");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(reader.reconcile().await.unwrap().is_clean());
    assert_eq!(reader.entries(&account("alice"), None, 10).await.unwrap().len(), 2);
    assert!(backend.close().await);
}

/// Ticks until the backend can write again.
async fn eventually_ticks(backend: &mut crate::test_ledger::AnyBackend) {
    for round in 0.. {
        backend.tick(&|_| false).await;
        let probe =
            Operation::Open { account: account(&format!("probe-{round}")), signup: credits("0") };
        if backend.ask(probe).await == (Outcome::Opened { new: true }) {
            return;
        }
        assert!(round < 100, "it never wrote again");
        tokio::time::sleep(backend.tick_after()).await;
    }
}

async fn a_stop_waits_for_the_disk(fixture: TestLedger) {
    if !alone(&fixture, "a_stop_waits_for_the_disk") {
        return;
    }
    let ledger = fixture.open_with("100").await;
    let calls = [ledger.call("10").await.unwrap(), ledger.call("20").await.unwrap()];
    ledger.reconciles().await;
    fill_disk();
    calls.into_iter().for_each(|call| call.capture(credits("10")));
    eventually("holds are refused", async || {
        let held = ledger.call("1").await.map(drop);
        held == Err(Refusal::Unavailable)
    })
    .await;
    let (handle, pipeline) = ledger.apart();
    let mut stop = pin!(pipeline.stop());
    assert!(!poll_once(stop.as_mut()).await);
    eventually("it is stopping", async || {
        handle.balance(&account("alice")).await == Err(Refusal::Unavailable)
    })
    .await;
    free_disk();
    assert!(stop.await, "everything was written");
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, ("80".into(), "0".into()));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The disk says that a commit failed, and the ledger cannot read whether that is true. Later the ledger goes by the
/// file's content, and nothing is done twice or lost.
async fn a_commit_in_doubt_is_settled_by_the_file(fixture: TestLedger) {
    if !alone(&fixture, "a_commit_in_doubt_is_settled_by_the_file") {
        return;
    }
    for landed in [true, false] {
        let fixture = TestLedger::new(fixture.kind);
        let ledger = fixture.open_with("10").await;
        ledger.ask(hold_of(Origin::Call, "job", "5", HOUR_MS)).await;
        ledger.reconciles().await;
        let mut disk = fixture.sql().await;
        disk.execute("SELECT * FROM entries").await.unwrap();
        let call = ledger.call("2").await.unwrap();
        ledger.reconciles().await;

        let away = fixture.dir().with_file_name("away");
        std::fs::rename(fixture.dir(), &away).unwrap();
        fill_disk();
        let charged = ledger.ask(call_capture("job", "4")).await;
        if fixture.kind.is_strict() {
            assert_eq!(charged, unavailable());
        } else {
            assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
        }
        eventually("nothing is granted", async || {
            let refused = ledger.ask(api_hold("next", "1")).await == unavailable();
            if !refused {
                ledger.ask(api_release("next")).await;
            }
            refused
        })
        .await;
        // This call is settled while the doubt lasts.
        call.capture(credits("2"));
        free_disk();
        if landed {
            land_the_capture(&mut disk).await;
        }
        std::fs::rename(&away, fixture.dir()).unwrap();

        eventually("holds are granted", async || {
            matches!(ledger.ask(api_hold("after", "1")).await, Outcome::Held { .. })
        })
        .await;
        let again = ledger.ask(call_capture("job", "4")).await;
        assert!(matches!(again, Outcome::Captured { late: false, .. }), "{again:?}");
        assert!(ledger.post(grant("gift", "alice", "1")).await.unwrap().1);
        assert_eq!(ledger.has("alice").await, ("5".into(), "1".into()), "landed: {landed}");
        ledger.reconciles().await;
        assert_eq!(ledger.entries("alice").await.len(), 4);
        ledger.stop().await;
        let ledger = fixture.open().await;
        assert_eq!(ledger.has("alice").await, ("5".into(), "1".into()));
        ledger.reconciles().await;
        ledger.stop().await;
    }
}

/// Writes what the ledger's failed commit would have written.
async fn land_the_capture(disk: &mut sqlx::sqlite::SqliteConnection) {
    disk.execute(
        "BEGIN IMMEDIATE; \
         DELETE FROM api_holds WHERE id = 'job'; \
         INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, \
         created_at) VALUES ('alice', 2, 'capture:job', 'capture', -4000000, 6000000, '/jobs', 1); \
         UPDATE accounts SET balance = 6000000, seq = 2 WHERE id = 'alice'; \
         UPDATE ledger SET commits = commits + 1; \
         COMMIT",
    )
    .await
    .unwrap();
}

/// A call of alice's under a key.
async fn ask(ledger: &Ledger, key: u8) -> Result<HeldOrClaimed, Refusal> {
    let claim = Claim::Key { id: ClaimId::new([key; 32]), mark: None, keep_ms: HOUR_MS };
    let (alice, route) = (account("alice"), "/x".into());
    ledger.hold_claiming(CallId::new(), alice, credits("1"), route, Some(claim)).await
}

async fn a_claim_that_was_not_written_is_free(fixture: TestLedger) {
    if !alone(&fixture, "a_claim_that_was_not_written_is_free") {
        return;
    }
    let ledger = fixture.open_with("200").await;
    let Ok(HeldOrClaimed::Held(charged)) = ask(&ledger, 0).await else { panic!("it is free") };
    let id = charged.id().clone();
    ledger.reconciles().await;

    fill_disk();
    // `relaxed` learns of the disk a moment later, and keeps what it granted until then.
    let (mut granted, mut key) = (Vec::new(), 0);
    eventually("holds are refused", async || {
        key += 1;
        match ask(&ledger, key).await {
            Ok(HeldOrClaimed::Held(hold)) => granted.push((key, hold)),
            Ok(HeldOrClaimed::Claimed(claimed, _)) => panic!("{claimed:?}"),
            Err(refusal) => return refusal == Refusal::Unavailable,
        }
        false
    })
    .await;
    assert!(granted.is_empty() || !fixture.kind.is_strict());
    charged.capture(credits("1"));

    free_disk();
    eventually("the refused call's key is free", async || match ask(&ledger, key).await {
        Ok(HeldOrClaimed::Held(hold)) => {
            hold.release();
            true
        }
        Ok(HeldOrClaimed::Claimed(claimed, _)) => panic!("{claimed:?}"),
        Err(_) => false,
    })
    .await;
    for (key, hold) in &granted {
        let Ok(HeldOrClaimed::Claimed(claimed, _)) = ask(&ledger, *key).await else {
            panic!("taken")
        };
        assert_eq!((&claimed.hold, claimed.state), (hold.id(), ClaimState::Running));
    }
    drop(granted);
    ledger.reconciles().await;
    ledger.stop().await;
    let ledger = fixture.open().await;
    let Ok(HeldOrClaimed::Claimed(claimed, _)) = ask(&ledger, 0).await else { panic!("charged") };
    assert_eq!((&claimed.hold, claimed.state), (&id, ClaimState::Charged));
    for key in 1..=key {
        let Ok(HeldOrClaimed::Held(_)) = ask(&ledger, key).await else { panic!("{key} is free") };
    }
    ledger.stop().await;
}

async fn an_answer_that_was_not_written_is_never_said_to_be_kept(fixture: TestLedger) {
    if !alone(&fixture, "an_answer_that_was_not_written_is_never_said_to_be_kept") {
        return;
    }
    let ledger = fixture.embedded().await.unwrap();
    let answers = ledger.answers(1 << 30).await.unwrap();
    let [before, meanwhile, after] = [(); 3].map(|()| HoldId::for_call());
    let sealed = |fill| Bytes::from(vec![fill; 9000]);
    assert_eq!(answers.keep(&before, sealed(1), i64::MAX).await.unwrap(), Kept::Yes);
    fill_disk();
    for _ in 0..3 {
        answers.keep(&meanwhile, sealed(2), i64::MAX).await.unwrap_err();
    }
    assert_eq!(answers.read(&before).await.unwrap(), Some(sealed(1)));
    free_disk();
    assert_eq!(answers.keep(&after, sealed(3), i64::MAX).await.unwrap(), Kept::Yes);
    let read = [&before, &meanwhile, &after].map(|id| answers.read(id));
    let read = futures_util::future::join_all(read).await;
    let read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
    assert_eq!(read, [Some(sealed(1)), None, Some(sealed(3))]);
}
