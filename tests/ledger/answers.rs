//! The answers that the embedded ledger keeps for retries.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use farebox::ledger::{Answers as _, HoldId, Kept, LedgerError, Reader as _};
use farebox::store::{SqliteAnswers, SqliteLedger, backup, backup_answers};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use crate::test_ledger::{Kind, TestLedger, eventually};

const HOUR_MS: i64 = 3_600_000;

const MAX_TOTAL: u64 = 1 << 20;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn fixture() -> TestLedger {
    TestLedger::new(Kind::EmbeddedStrict)
}

/// The ledger, which must be open, and its answers.
async fn opened(fixture: &TestLedger, max_total: u64) -> (SqliteLedger, SqliteAnswers) {
    let ledger = fixture.embedded().await.unwrap();
    let answers = ledger.answers(max_total).await.unwrap();
    (ledger, answers)
}

fn file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-answers");
    name.into()
}

/// Waits until the file is closed: the last connection deletes the WAL.
async fn closed(fixture: &TestLedger) {
    let wal = file(&fixture.path()).with_extension("db-answers-wal");
    eventually("the answers are closed", async || !wal.exists()).await;
}

/// A connection to the file, which is made if it does not exist.
async fn on_answers(fixture: &TestLedger) -> SqliteConnection {
    let options =
        SqliteConnectOptions::new().filename(file(&fixture.path())).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// Ends the time of an answer, once the file is closed.
async fn age(fixture: &TestLedger, id: &HoldId) {
    closed(fixture).await;
    let mut connection = on_answers(fixture).await;
    let aged = sqlx::query("UPDATE answers SET until = 0 WHERE call = ?").bind(id.as_str());
    assert_eq!(aged.execute(&mut connection).await.unwrap().rows_affected(), 1);
    connection.close().await.unwrap();
}

fn sealed(fill: u8, bytes: usize) -> Bytes {
    Bytes::from(vec![fill; bytes])
}

#[tokio::test]
async fn an_answer_is_read_as_it_was_kept_until_its_time_is_up() {
    let fixture = fixture();
    let (ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    let [first, second, never] = [(); 3].map(|()| HoldId::for_call());
    let until = now_ms() + HOUR_MS;
    assert_eq!(answers.keep(&first, sealed(1, 70_000), until).await.unwrap(), Kept::Yes);
    assert_eq!(answers.keep(&first, sealed(2, 5), until).await.unwrap(), Kept::Yes);
    assert_eq!(answers.keep(&second, sealed(3, 0), now_ms()).await.unwrap(), Kept::Yes);
    for _ in 0..2 {
        assert_eq!(
            answers.read(&first).await.unwrap(),
            Some(sealed(1, 70_000)),
            "the first counts"
        );
        assert_eq!(answers.read(&second).await.unwrap(), None, "its time is up");
        assert_eq!(answers.read(&never).await.unwrap(), None);
    }
    drop((answers, ledger));
    closed(&fixture).await;
    let (_ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    assert_eq!(answers.read(&first).await.unwrap(), Some(sealed(1, 70_000)));
}

/// A copy of the files at the moment at which `keep` returned has the answer.
#[tokio::test]
async fn a_kept_answer_outlives_a_crash() {
    let fixture = fixture();
    let (ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    let ids: Vec<_> = (0..20).map(|_| HoldId::for_call()).collect();
    let until = now_ms() + HOUR_MS;
    let keep = ids.iter().map(|id| answers.keep(id, sealed(9, 3000), until));
    for kept in futures_util::future::join_all(keep).await {
        assert_eq!(kept.unwrap(), Kept::Yes);
    }
    let copy = fixture.crashed();
    for ending in ["", "-wal"] {
        let from = PathBuf::from(format!("{}{ending}", file(&fixture.path()).display()));
        std::fs::copy(from, format!("{}{ending}", file(&copy.path()).display())).unwrap();
    }
    let (_copied, again) = opened(&copy, MAX_TOTAL).await;
    for id in &ids {
        assert_eq!(again.read(id).await.unwrap(), Some(sealed(9, 3000)));
    }
    assert_eq!(again.secret(), answers.secret(), "the ledger's secret is in the ledger");
    drop(ledger);
}

#[tokio::test]
async fn all_answers_together_have_a_bound_and_old_ones_make_room() {
    let fixture = fixture();
    let (ledger, answers) = opened(&fixture, 100_000).await;
    let ids: Vec<_> = (0..12).map(|_| HoldId::for_call()).collect();
    let until = now_ms() + HOUR_MS;
    for id in &ids[..9] {
        assert_eq!(answers.keep(id, sealed(1, 10_000), until).await.unwrap(), Kept::Yes);
    }
    for _ in 0..3 {
        let kept = answers.keep(&ids[9], sealed(1, 10_000), until).await.unwrap();
        assert_eq!(kept, Kept::NoRoom);
        let again = answers.keep(&ids[0], sealed(1, 10_000), until).await.unwrap();
        assert_eq!(again, Kept::Yes, "it is kept already");
    }
    assert_eq!(answers.read(&ids[9]).await.unwrap(), None);
    // The bound counts what an earlier start kept.
    drop((answers, ledger));
    closed(&fixture).await;
    let (ledger, answers) = opened(&fixture, 100_000).await;
    assert_eq!(answers.keep(&ids[9], sealed(1, 10_000), until).await.unwrap(), Kept::NoRoom);
    drop((answers, ledger));
    age(&fixture, &ids[0]).await;
    let (ledger, answers) = opened(&fixture, 100_000).await;
    assert_eq!(answers.keep(&ids[9], sealed(1, 10_000), now_ms()).await.unwrap(), Kept::Yes);
    assert_eq!(answers.keep(&ids[10], sealed(1, 10_000), until).await.unwrap(), Kept::Yes);
    drop((answers, ledger));
    // The limit is on the disk: the file does not grow with answers that were deleted again.
    age(&fixture, &ids[10]).await;
    let (_ledger, answers) = opened(&fixture, 100_000).await;
    for _ in 0..100 {
        let id = HoldId::for_call();
        assert_eq!(answers.keep(&id, sealed(1, 10_000), now_ms()).await.unwrap(), Kept::Yes);
    }
    let size = std::fs::metadata(file(&fixture.path())).unwrap().len();
    assert!(size < 200_000, "{size}");
}

#[tokio::test]
async fn only_their_owner_reads_the_answers_and_each_ledger_has_a_secret_of_its_own() {
    let (fixture, other) = (fixture(), fixture());
    let (ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    answers.keep(&HoldId::for_call(), sealed(1, 10), now_ms() + HOUR_MS).await.unwrap();
    for ending in ["", "-wal", "-shm"] {
        let path = format!("{}{ending}", file(&fixture.path()).display());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{path}");
    }
    let secret = *answers.secret();
    assert_ne!(secret, [0; 32]);
    assert!(!format!("{answers:?} {ledger:?}").contains(&format!("{:?}", &secret[..4])[1..10]));
    drop((ledger, answers));
    closed(&fixture).await;
    let (_ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    assert_eq!(*answers.secret(), secret, "made once");
    let (_other, elsewhere) = opened(&other, MAX_TOTAL).await;
    assert_ne!(*elsewhere.secret(), secret);
}

#[tokio::test]
async fn answers_are_in_a_backup_only_where_they_are_asked_for() {
    let (fixture, copy) = (fixture(), fixture());
    std::fs::create_dir_all(copy.dir()).unwrap();
    fixture.embedded().await.unwrap();
    let (from, to) = (fixture.path(), copy.path());
    assert_eq!(backup_answers(&from, &to).await.unwrap(), None, "none were ever kept");
    let (_ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    let id = HoldId::for_call();
    answers.keep(&id, sealed(7, 5000), now_ms() + HOUR_MS).await.unwrap();
    backup(&from, &to).await.unwrap();
    assert!(!file(&to).exists());
    assert_eq!(backup_answers(&from, &to).await.unwrap(), Some(file(&to)));
    let again = backup_answers(&from, &to).await;
    assert!(matches!(again, Err(LedgerError::Exists { .. })), "{again:?}");
    let (_ledger, restored) = opened(&copy, MAX_TOTAL).await;
    assert_eq!(restored.read(&id).await.unwrap(), Some(sealed(7, 5000)));
    assert_eq!(restored.secret(), answers.secret());
}

#[tokio::test]
async fn replays_are_counted_beside_the_answers_and_read_with_the_entries() {
    let fixture = fixture();
    let (ledger, answers) = opened(&fixture, MAX_TOTAL).await;
    let [first, second, never] = [(); 3].map(|()| HoldId::for_call());
    let all = [first.clone(), second.clone(), never.clone()];
    let read = async |ledger: &SqliteLedger| ledger.reader().replays(&all).await.unwrap();
    assert_eq!(read(&ledger).await, HashMap::new());
    let before = now_ms();
    (0..1000).for_each(|_| answers.count_replay(&first));
    answers.count_replay(&second);
    eventually("the replays are written", async || read(&ledger).await.len() == 2).await;
    eventually("all of them", async || read(&ledger).await[&first].times == 1000).await;
    assert!((before..=now_ms()).contains(&read(&ledger).await[&second].last_ms));
    // A stop writes the rest.
    answers.count_replay(&second);
    drop((answers, ledger));
    let ledger = fixture.embedded().await.unwrap();
    eventually("the rest is written", async || read(&ledger).await[&second].times == 2).await;
    let replays = read(&ledger).await;
    assert_eq!((replays.len(), replays[&first].times), (2, 1000), "and none for {never:?}");
    drop(ledger);
    // After more than a year they are deleted.
    let mut connection = on_answers(&fixture).await;
    let year_ms = 401 * 24 * HOUR_MS;
    let aged = sqlx::query("UPDATE replays SET last = last - ? WHERE call = ?");
    aged.bind(year_ms).bind(first.as_str()).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let (ledger, _answers) = opened(&fixture, MAX_TOTAL).await;
    let replays = read(&ledger).await;
    assert_eq!((replays.len(), replays[&second].times), (1, 2));
}

#[tokio::test]
async fn a_ledger_that_keeps_no_answers_has_no_replays() {
    let fixture = fixture();
    let ledger = fixture.embedded().await.unwrap();
    let ids = [HoldId::for_call()];
    assert_eq!(ledger.reader().replays(&ids).await.unwrap(), HashMap::new());
    assert!(!file(&fixture.path()).exists(), "reading makes no file");
    // A file of the version before has no such table.
    let mut connection = on_answers(&fixture).await;
    sqlx::raw_sql("CREATE TABLE answers (call TEXT)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    assert_eq!(ledger.reader().replays(&ids).await.unwrap(), HashMap::new());
}
