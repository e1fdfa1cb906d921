//! Kills (kill -9) a process that hammers a ledger. The process reports each operation only after
//! the ledger has acknowledged it; the tests then look for the reported operations in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farebox::ledger::{Claim, ClaimId, HoldId, Ledger, NewHold, Operation, Origin, Outcome};
use farebox::metrics::Metrics;
use farebox::store::SqliteLedger;

use crate::test_ledger::{
    HOUR_MS, Kind, TestLedger, account, credits, grant, hold_id, on_embedded_ledgers, seed,
};

on_embedded_ledgers!("current_thread": a_kill_loses_nothing_but_what_was_not_promised);

/// Set in the process that will be killed: the directory of its ledger.
const VICTIM: &str = "FAREBOX_TEST_VICTIM";

/// The number of kills in a test.
const ROUNDS: usize = 5;

/// The time before a crash whose writes `relaxed` may lose.
const PROMISE: Duration = Duration::from_millis(50);

/// How much later the promised write may run on a machine that is busy with other tests.
const BUSY: Duration = Duration::from_millis(450);

/// One line of what the victim said.
#[derive(Clone, Debug)]
struct Told {
    /// `hold`, `capture` or `grant`.
    what: String,
    id: String,
    /// Since 1970.
    asked_us: u64,
    answered_us: u64,
}

impl Told {
    fn read(line: &str) -> Option<Self> {
        // A line cut off by the kill has no end mark.
        let line = line.strip_prefix("told ")?.strip_suffix(" .")?;
        let mut words = line.split(' ');
        let mut next = || words.next();
        Some(Self {
            what: next()?.into(),
            id: next()?.into(),
            asked_us: next()?.parse().ok()?,
            answered_us: next()?.parse().ok()?,
        })
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

async fn a_kill_loses_nothing_but_what_was_not_promised(fixture: TestLedger) {
    if let Some(dir) = std::env::var_os(VICTIM) {
        return hammer(dir.into(), fixture.kind).await;
    }
    let seed = seed();
    let mut worst = Duration::ZERO;
    let mut told = 0;
    let mut seen = Seen::default();
    for round in 0..ROUNDS {
        // Any spread of moments will do.
        let mixed = seed.rotate_left(round as u32 * 11).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (lines, killed_us) = run_and_kill(&fixture, 20 + mixed % 400);
        assert!(!lines.is_empty(), "the victim got to work");
        told += lines.len();
        let on_disk = OnDisk::read(&fixture).await;
        let lost: Vec<_> = lines.iter().filter(|line| !on_disk.has(line)).collect();
        for line in &lost {
            assert!(!fixture.kind.is_strict(), "acknowledged, and not on disk: {line:?}");
            assert_ne!(line.what, "grant", "grants are never lost: {line:?}");
            let age = Duration::from_micros(killed_us.saturating_sub(line.answered_us));
            worst = worst.max(age);
            assert!(age < PROMISE + BUSY, "lost {age:?} after its acknowledgement: {line:?}");
        }
        // Only the end of the sequence is missing: every operation that was asked after a lost one is lost too. A
        // grant waits for all operations before it, so none of those is lost once it is acknowledged.
        if let Some(first) = lost.iter().map(|line| line.answered_us).min() {
            for line in lines.iter().filter(|line| line.asked_us > first) {
                assert!(!on_disk.has(line), "{line:?} outlived what was acknowledged before it");
            }
        }
        seen.grows_into(&on_disk);
        // A start puts the ledger in order: no hold is left, and everything adds up.
        let ledger = fixture.open().await;
        ledger.reconciles().await;
        let (balance, held) = ledger.has("alice").await;
        assert_eq!(held, "0", "the holds of killed calls are released");
        let total: i64 = on_disk.entries.values().sum();
        assert_eq!(credits(&balance).micros() as i64, total);
        ledger.stop().await;
        claims_are_their_calls(&fixture).await;
        seen = Seen(OnDisk::read(&fixture).await.entries);
    }
    println!("{told} operations told of in {ROUNDS} rounds; the oldest lost was {worst:?} old");
}

/// Checks the claims. Every call of the victim had a claim of its own: the claim is charged if the call was charged,
/// and gone if the call was released. So no key is both the first call's and free.
async fn claims_are_their_calls(fixture: &TestLedger) {
    let mut sql = fixture.sql().await;
    let differ: Vec<String> = sqlx::query_scalar(
        "SELECT operation FROM entries WHERE kind = 'capture' AND operation NOT IN \
         (SELECT 'capture:' || hold FROM claims WHERE charged = 1) UNION ALL \
         SELECT 'claim of ' || hold FROM claims WHERE 'capture:' || hold NOT IN \
         (SELECT operation FROM entries)",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    assert_eq!(differ, [""; 0]);
}

/// The entries of an earlier round, which never change again.
#[derive(Default)]
struct Seen(BTreeMap<String, i64>);

impl Seen {
    fn grows_into(&self, now: &OnDisk) {
        for (operation, amount) in &self.0 {
            assert_eq!(now.entries.get(operation), Some(amount), "{operation} was on disk");
        }
    }
}

struct OnDisk {
    entries: BTreeMap<String, i64>,
    /// The ids of all holds, live or ended.
    holds: BTreeSet<String>,
}

impl OnDisk {
    async fn read(fixture: &TestLedger) -> Self {
        let mut sql = fixture.sql().await;
        let entries: Vec<(String, i64)> = sqlx::query_as("SELECT operation, amount FROM entries")
            .fetch_all(&mut sql)
            .await
            .unwrap();
        let holds: Vec<String> =
            sqlx::query_scalar("SELECT id FROM holds UNION ALL SELECT id FROM ended_holds")
                .fetch_all(&mut sql)
                .await
                .unwrap();
        let total = holds.len();
        let holds: BTreeSet<_> = holds.into_iter().collect();
        assert_eq!(holds.len(), total, "no hold is both live and ended");
        let logged: Vec<String> =
            sqlx::query_scalar("SELECT batch FROM batch_log").fetch_all(&mut sql).await.unwrap();
        let mut on_disk = Self { entries: entries.into_iter().collect(), holds };
        logged.iter().for_each(|batch| on_disk.add_logged(batch));
        on_disk
    }

    /// Adds the rows of a batch that `strict` has in its log, and not yet in the tables.
    fn add_logged(&mut self, batch: &str) {
        let lists: Vec<Vec<Vec<serde_json::Value>>> = serde_json::from_str(batch).unwrap();
        let [holds, entries, _, ended, ..] = &lists[..] else { panic!("{batch}") };
        for row in holds.iter().chain(ended) {
            self.holds.insert(row[0].as_str().unwrap().to_owned());
        }
        for row in entries {
            let known =
                self.entries.insert(row[2].as_str().unwrap().into(), row[4].as_i64().unwrap());
            assert_eq!(known, None, "an entry is in the log or in the table");
        }
    }

    fn has(&self, line: &Told) -> bool {
        let captured = self.entries.contains_key(&format!("capture:{}", line.id));
        match line.what.as_str() {
            "hold" => captured || self.holds.contains(&line.id),
            "capture" => captured,
            "grant" => self.entries.contains_key(&format!("grant:{}", line.id)),
            other => panic!("{other}"),
        }
    }
}

/// Starts a victim, lets it work for a while after its first report, and kills it. Returns its
/// reports, and the time of the kill.
fn run_and_kill(fixture: &TestLedger, work_ms: u64) -> (Vec<Told>, u64) {
    let test =
        format!("crash::{}::a_kill_loses_nothing_but_what_was_not_promised", fixture.kind.module());
    std::fs::create_dir_all(fixture.dir()).unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture"])
        .env(VICTIM, fixture.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(victim.stdout.take().unwrap());
    let mut told = Vec::new();
    let mut line = String::new();
    while told.is_empty() && said.read_line(&mut line).unwrap() > 0 {
        told.extend(Told::read(line.trim_end()));
        line.clear();
    }
    let listener = std::thread::spawn(move || {
        told.extend(said.lines().map_while(Result::ok).filter_map(|line| Told::read(&line)));
        told
    });
    let until = Instant::now() + Duration::from_millis(work_ms);
    std::thread::sleep(until - Instant::now());
    victim.kill().unwrap();
    let killed_us = now_us();
    victim.wait().unwrap();
    (listener.join().unwrap(), killed_us)
}

/// The victim: calls, one after the other in several tasks, and grants between them, for ever.
async fn hammer(dir: PathBuf, kind: Kind) {
    let metrics = Metrics::new().unwrap();
    let path = dir.join("ledger.db");
    let backend = SqliteLedger::open(&path, kind.durability(), metrics.clone()).await.unwrap();
    let reader = backend.reader();
    let (ledger, _pipeline) = Ledger::start(backend, reader, metrics);
    let start = HoldId::for_call();
    ledger.post(grant(&format!("start-{start}"), "alice", "1000000")).await.unwrap();
    let mut tasks = Vec::new();
    for task in 0..8 {
        let ledger = ledger.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0.. {
                call(&ledger).await;
                // Grants are rare, because a grant brings everything before it to disk, which would
                // hide a loss.
                if round % 400 == 50 * task {
                    let id = HoldId::for_call();
                    let asked_us = now_us();
                    ledger.post(grant(id.as_str(), "alice", "10")).await.unwrap();
                    tell("grant", id.as_str(), asked_us);
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn call(ledger: &Ledger) {
    let id = HoldId::for_call();
    let asked_us = now_us();
    let alice = account("alice");
    let claim = ClaimId::new(id.as_str().as_bytes()[4..].try_into().unwrap());
    let hold = Operation::Hold(NewHold {
        id: id.clone(),
        account: alice.clone(),
        amount: credits("0.5"),
        route: "/x".into(),
        origin: Origin::Call,
        ttl_ms: HOUR_MS,
        claim: Some(Claim::Key { id: claim, mark: None, keep_ms: HOUR_MS }),
    });
    let held = ledger.ask(hold).await;
    assert!(matches!(held, Outcome::Held { .. }), "{held:?}");
    tell("hold", id.as_str(), asked_us);
    let asked_us = now_us();
    let capture = Operation::Capture {
        hold: hold_id(id.as_str()),
        account: Some(alice),
        amount: credits("0.25"),
        route: "/x".into(),
        origin: Origin::Call,
        may_overrun: true,
        usage: None,
        claim: Some(claim),
    };
    let captured = ledger.ask(capture).await;
    assert!(matches!(captured, Outcome::Captured { late: false, .. }), "{captured:?}");
    tell("capture", id.as_str(), asked_us);
}

fn tell(what: &str, id: &str, asked_us: u64) {
    let line = format!("told {what} {id} {asked_us} {} .\n", now_us());
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}
