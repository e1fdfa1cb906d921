//! Trouble with one account delays no other account. While an account's row is locked, while its look-up takes long,
//! and during a grant, a purchase or a repair (`rare_repairs`), the calls of other accounts wait no longer than before.
//!
//! Each test prints how long calls waited. For a measurement, `FAREBOX_TROUBLE_SECONDS` makes the trouble longer, and
//! `FAREBOX_ROWS` is the number of accounts of the large ledger.

use std::pin::pin;
use std::time::Duration;

use farebox::ledger::{CallId, Ledger, Operation, Outcome, Refusal};
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::payments::{nth, paid, take};
use crate::servers::Flow;
use crate::stops::with_a_line_to_redis;
use crate::test_ledger::{
    Running, TestLedger, account, api_capture, api_hold, credits, eventually, grant,
    on_cluster_ledgers, text,
};

on_cluster_ledgers!("multi_thread":
    a_locked_row_delays_no_call_of_another_account,
    a_locked_row_delays_no_call_of_an_account_that_buys,
    a_slow_look_up_delays_no_call_of_another_account,
    a_call_that_leaves_while_its_account_is_looked_up_leaves_no_hold,
    a_stop_waits_for_what_is_decided_beside_the_pipeline,
    operations_that_wait_are_decided_together,
    an_operation_that_waits_too_long_is_refused_and_leaves_nothing,
    a_newcomer_that_another_gateway_opened_has_its_credits_at_once,
);

/// The time between the beginnings of two of bob's calls.
pub const EVERY: Duration = Duration::from_millis(5);

/// How long the trouble lasts: two seconds, or what `FAREBOX_TROUBLE_SECONDS` says.
pub fn trouble_lasts() -> Duration {
    let seconds = std::env::var("FAREBOX_TROUBLE_SECONDS");
    Duration::from_secs(seconds.map_or(2, |seconds| seconds.parse().unwrap()))
}

/// The longest wait that a busy machine may cause. A transaction that waits for a row takes three times as long.
pub const BUSY: Duration = Duration::from_millis(500);

/// The longest wait that counts as no delay. `usual` is how long the same took just before, without the trouble.
pub fn undelayed(usual: Duration) -> Duration {
    BUSY.max(usual * 2)
}

/// How long bob's calls waited for their holds while `trouble` lasted, the shortest wait first. A call begins every
/// few milliseconds, even if the one before has no answer yet, so a stall delays all calls that would have begun
/// meanwhile.
pub async fn waits_during<T>(
    ledger: &Ledger,
    trouble: impl Future<Output = T>,
) -> (Vec<Duration>, T) {
    let (mut calls, mut every) = (JoinSet::new(), tokio::time::interval(EVERY));
    let mut trouble = pin!(trouble);
    let ended = loop {
        tokio::select! {
            ended = &mut trouble => break ended,
            begun = every.tick() => {
                let ledger = ledger.clone();
                calls.spawn(async move {
                    let (id, bob) = (CallId::new(), account("bob"));
                    let hold = ledger.hold(id, bob, credits("1"), "/x".into()).await.unwrap();
                    let waited = begun.elapsed();
                    hold.capture(credits("1"));
                    waited
                });
            }
        }
    };
    let mut waits = calls.join_all().await;
    waits.sort();
    (waits, ended)
}

/// Prints how long the calls waited. Returns the wait that 99 of 100 calls do not exceed.
fn p99(when: &str, waits: &[Duration]) -> Duration {
    let of_100 = |n| waits[waits.len() * n / 100];
    let (half, longest) = (of_100(50), waits[waits.len() - 1]);
    println!(
        "{when}: p50 {half:?}, p99 {:?}, longest {longest:?}, {} calls",
        of_100(99),
        waits.len()
    );
    of_100(99)
}

/// Opens a ledger in which alice and bob have credits and are loaded. Also returns how long bob's calls wait while
/// nothing else happens.
pub async fn quiet(fixture: &TestLedger) -> (Running, Duration) {
    let ledger = fixture.open_with("1000").await;
    ledger.post(grant("g-bob", "bob", "1000000")).await.unwrap();
    ledger.call("1").await.unwrap().release();
    let (waits, ()) = waits_during(&ledger, tokio::time::sleep(trouble_lasts() / 2)).await;
    (ledger, p99("quiet", &waits))
}

pub fn assert_as_quiet(waits: &[Duration], quiet: Duration) {
    let waited = p99("in trouble", waits);
    assert!(waited <= undelayed(quiet), "99 of 100 calls waited {waited:?}, before {quiet:?}");
}

/// A transaction that locks what `sql` names, until it is dropped.
pub async fn locks(fixture: &TestLedger, sql: &str) -> PgConnection {
    let mut other = fixture.cluster().sql().await;
    let sql = sqlx::AssertSqlSafe(format!("BEGIN; {sql}"));
    sqlx::raw_sql(sql).execute(&mut other).await.unwrap();
    other
}

/// Bob buys credits for the `n`th time. Returns how long that took.
async fn buy(ledger: &Ledger, n: usize) -> Duration {
    let mut facts = nth(n, &paid());
    facts.sale.iter_mut().for_each(|sale| sale.account = account("bob"));
    let asked = Instant::now();
    take(ledger, facts).await.unwrap();
    asked.elapsed()
}

/// A newcomer comes, and calls. Returns how long that took.
async fn open(ledger: &Ledger, newcomer: &str) -> Duration {
    let (asked, newcomer) = (Instant::now(), account(newcomer));
    ledger.open(&newcomer, credits("5")).await.unwrap();
    let hold = ledger.hold(CallId::new(), newcomer, credits("1"), "/x".into()).await;
    hold.unwrap().release();
    asked.elapsed()
}

/// How long purchases and newcomers wait at most beside bob's calls, while nothing is locked.
async fn usual(ledger: &Ledger) -> Duration {
    let ten = async {
        let mut longest = Duration::ZERO;
        for n in 0..10 {
            let newcomer = format!("early-{n}");
            let (bought, opened) = tokio::join!(buy(ledger, 1000 + n), open(ledger, &newcomer));
            longest = longest.max(bought).max(opened);
        }
        longest
    };
    waits_during(ledger, ten).await.1
}

/// Bob buys credits again and again, and each purchase is made in time. Returns how many.
async fn buys(ledger: &Ledger, usual: Duration) -> usize {
    let (began, mut n) = (Instant::now(), 0);
    while began.elapsed() < trouble_lasts() {
        let waited = buy(ledger, n).await;
        assert!(waited < undelayed(usual) * 2, "a purchase waited {waited:?}, before {usual:?}");
        n += 1;
        tokio::time::sleep(EVERY * 10).await;
    }
    n
}

/// Bob asks for holds of the API. Each has to wait until Postgres has it.
async fn asks_for_jobs(ledger: &Ledger) {
    let (began, mut jobs) = (Instant::now(), JoinSet::new());
    while began.elapsed() < trouble_lasts() {
        let mut hold = api_hold(&format!("bob-{}", jobs.len()), "1");
        if let Operation::Hold(hold) = &mut hold {
            hold.account = account("bob");
        }
        let ledger = ledger.clone();
        jobs.spawn(async move { ledger.ask(hold).await });
        tokio::time::sleep(EVERY * 20).await;
    }
    jobs.join_all().await;
}

async fn a_locked_row_delays_no_call_of_another_account(fixture: TestLedger) {
    let (ledger, quiet) = quiet(&fixture).await;
    let usual = usual(&ledger).await;
    let locked = locks_alice(&fixture, &ledger).await;
    let (waits, rounds) = waits_during(&ledger, asks_for_alice(&ledger, usual)).await;
    assert_as_quiet(&waits, quiet);
    ends_the_lock(ledger, locked, rounds).await;
}

/// Bob's calls come after his own purchases and API holds, and those need Postgres. They do not wait for alice's row.
async fn a_locked_row_delays_no_call_of_an_account_that_buys(fixture: TestLedger) {
    let (ledger, quiet) = quiet(&fixture).await;
    let usual = usual(&ledger).await;
    let locked = locks_alice(&fixture, &ledger).await;
    let trouble = async {
        let alice = asks_for_alice(&ledger, usual);
        tokio::join!(alice, buys(&ledger, usual), asks_for_jobs(&ledger))
    };
    let (waits, (rounds, bought, ())) = waits_during(&ledger, trouble).await;
    assert_as_quiet(&waits, quiet);
    assert!(bought > 2, "bob bought {bought} times");
    ends_the_lock(ledger, locked, rounds).await;
}

/// Locks alice's row, and waits until the gateway finds out. Until then, an account that buys waits for a fold.
async fn locks_alice(fixture: &TestLedger, ledger: &Running) -> PgConnection {
    let locked = locks(fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    ledger.call("1").await.unwrap().capture(credits("1"));
    until_one_waits_for_a_lock(fixture).await;
    locked
}

/// Asks for everything that needs alice's row, again and again, and opens accounts at the same time. Returns how often.
async fn asks_for_alice(ledger: &Running, usual: Duration) -> usize {
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < trouble_lasts() {
        // This charge cannot be folded.
        ledger.call("1").await.unwrap().capture(credits("1"));
        let newcomer = format!("newcomer-{rounds}");
        let (granted, held, bought, opened) = tokio::join!(
            ledger.post(grant("late", "alice", "5")),
            ledger.ask(api_hold("job", "3")),
            take(ledger, paid()),
            open(ledger, &newcomer),
        );
        assert_eq!(granted.unwrap_err(), Refusal::Unavailable);
        assert_eq!(held, Outcome::Refused(Refusal::Unavailable));
        assert_eq!(bought.unwrap_err(), Refusal::Unavailable);
        assert!(opened < undelayed(usual) * 2, "a newcomer waited {opened:?}, before {usual:?}");
        rounds += 1;
    }
    rounds
}

/// Drops the lock, and sees that everything that was asked for under one id takes effect once.
async fn ends_the_lock(ledger: Running, locked: PgConnection, rounds: usize) {
    drop(locked);
    eventually("the grant is given", async || {
        ledger.post(grant("late", "alice", "5")).await.is_ok()
    })
    .await;
    eventually("the sale is paid", async || take(&ledger, paid()).await.is_ok()).await;
    eventually("the API's hold is made", async || {
        matches!(ledger.ask(api_hold("job", "3")).await, Outcome::Held { .. })
    })
    .await;
    let captured = ledger.ask(api_capture("job", "3")).await;
    assert!(matches!(captured, Outcome::Captured { .. }), "{captured:?}");
    let has = (1000 + 5 + 500 - 3 - 1 - rounds).to_string();
    assert_eq!(ledger.has("alice").await, (has, "0".to_owned()));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Has Redis forget all accounts that are idle.
pub async fn retire_all(fixture: &TestLedger, ledger: &Ledger) {
    ledger.reconcile().await.unwrap();
    let mut other = fixture.gateway("other").await.unwrap();
    eventually("all accounts are cold", async || {
        other.retire(Duration::ZERO).await.unwrap();
        fixture.cluster().redis.ask(&["KEYS", "{s00}:?:a:*"]).is_empty()
    })
    .await;
    assert!(farebox::ledger::Backend::close(&mut other).await);
}

async fn a_slow_look_up_delays_no_call_of_another_account(fixture: TestLedger) {
    let (ledger, quiet) = quiet(&fixture).await;
    for n in 0..20 {
        ledger.post(grant(&format!("g-{n}"), &format!("cold-{n}"), "10")).await.unwrap();
    }
    retire_all(&fixture, &ledger).await;
    ledger.balance(&account("bob")).await.unwrap();
    let locked = locks(&fixture, "LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await;
    let mut cold = JoinSet::new();
    let trouble = async {
        for n in 0..20 {
            let ledger = ledger.clone();
            cold.spawn(async move {
                let (id, who) = (CallId::new(), account(&format!("cold-{n}")));
                let hold = ledger.hold(id, who, credits("1"), "/x".into()).await;
                hold.map(|hold| hold.capture(credits("1"))).is_ok()
            });
            tokio::time::sleep(trouble_lasts() / 20).await;
        }
    };
    let (waits, ()) = waits_during(&ledger, trouble).await;
    assert_as_quiet(&waits, quiet);
    drop(locked);
    // A call in time is answered; one that waited too long had 503, and left nothing.
    let charged = cold.join_all().await.into_iter().filter(|charged| *charged).count();
    for n in 0..20 {
        let who = format!("cold-{n}");
        eventually("the account is warm", async || ledger.balance(&account(&who)).await.is_ok())
            .await;
    }
    let mut left = 0.0;
    for n in 0..20 {
        let who = format!("cold-{n}");
        eventually("nothing is held", async || ledger.has(&who).await.1 == "0").await;
        left += ledger.has(&who).await.0.parse::<f64>().unwrap();
    }
    assert_eq!(left, 200.0 - charged as f64);
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_call_that_leaves_while_its_account_is_looked_up_leaves_no_hold(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    retire_all(&fixture, &ledger).await;
    let locked = locks(&fixture, "LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await;
    for _ in 0..10 {
        let left = tokio::time::timeout(Duration::from_millis(30), ledger.call("1")).await;
        assert!(left.is_err(), "{left:?}");
    }
    drop(locked);
    eventually("the account is warm", async || ledger.call("10").await.is_ok()).await;
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_stop_waits_for_what_is_decided_beside_the_pipeline(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    let (ledger, pipeline) = ledger.apart();
    let grants: Vec<_> = (0..3)
        .map(|n| {
            let ledger = ledger.clone();
            let grant = grant(&format!("late-{n}"), "alice", "5");
            tokio::spawn(async move { ledger.post(grant).await })
        })
        .collect();
    until_one_waits_for_a_lock(&fixture).await;
    let began = Instant::now();
    let stop = tokio::spawn(pipeline.stop());
    drop(locked);
    let mut given = 0;
    for grant in grants {
        match grant.await.unwrap() {
            Ok((_, new)) => given += usize::from(new),
            Err(refusal) => assert_eq!(refusal, Refusal::Unavailable),
        }
    }
    assert!(stop.await.unwrap(), "everything is written");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(given > 0, "a stop leaves the grants that wait beside the pipeline behind");
    let ledger = fixture.open().await;
    assert_eq!(ledger.entries("alice").await.len(), 1 + given);
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The number of the newest batch in the stream.
fn newest_batch(fixture: &TestLedger) -> i64 {
    fixture.cluster().redis.ask(&["HGET", "{s00}:meta", "seq"]).parse().unwrap()
}

/// Waits until an operation waits for a lock in Postgres.
pub async fn until_one_waits_for_a_lock(fixture: &TestLedger) {
    let mut watch = fixture.cluster().sql().await;
    eventually("an operation waits for a lock", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watch).await.unwrap() > 0
    })
    .await;
}

async fn operations_that_wait_are_decided_together(fixture: TestLedger) {
    const JOBS: usize = 60;
    let ledger = fixture.open_with("1000").await;
    for n in 0..JOBS {
        ledger.post(grant(&format!("g-{n}"), &format!("user-{n}"), "1000")).await.unwrap();
    }
    // This account is loaded before the lock.
    ledger.balance(&account("alice")).await.unwrap();
    // Jobs of one account, and each job of another one.
    for accounts in [1, JOBS] {
        ledger.reconciles().await;
        let locked = locks(&fixture, "LOCK TABLE holds IN ACCESS EXCLUSIVE MODE").await;
        let mut jobs = JoinSet::new();
        let mut ask = |n: usize| {
            let ledger = ledger.clone();
            let mut job = api_hold(&format!("job-{accounts}-{n}"), "3");
            if let Operation::Hold(hold) = &mut job {
                hold.account = account(&format!("user-{}", n % accounts));
            }
            jobs.spawn(async move {
                // An operation is refused where the lock is kept for too long, and nothing is decided then.
                while let Outcome::Refused(Refusal::Unavailable) = ledger.ask(job.clone()).await {}
            });
        };
        ask(0);
        until_one_waits_for_a_lock(&fixture).await;
        for n in 1..JOBS {
            ask(n);
            // This is decided in a batch of its own, so that each job comes with another batch.
            ledger.balance(&account("alice")).await.unwrap();
        }
        let before = newest_batch(&fixture);
        drop(locked);
        jobs.join_all().await;
        let batches = newest_batch(&fixture) - before;
        println!("{JOBS} holds of {accounts} accounts in {batches} batches");
        assert!(batches <= 10, "{JOBS} holds were made in {batches} batches");
    }
    assert_eq!(ledger.has("user-0").await.1, (3 * JOBS + 3).to_string());
    assert_eq!(ledger.has("user-1").await.1, "3");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn an_operation_that_waits_too_long_is_refused_and_leaves_nothing(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    retire_all(&fixture, &ledger).await;
    let locked = locks(&fixture, "LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").await;
    let began = Instant::now();
    let mut calls = JoinSet::new();
    while began.elapsed() < Duration::from_secs(7) {
        let ledger = ledger.clone();
        calls.spawn(async move {
            let asked = Instant::now();
            let hold =
                ledger.hold(CallId::new(), account("alice"), credits("1"), "/x".into()).await;
            (asked.elapsed(), hold.map(farebox::ledger::Hold::release).unwrap_err())
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answered = calls.join_all().await;
    let longest = answered.iter().map(|(waited, _)| *waited).max().unwrap();
    assert!(answered.iter().all(|(_, refusal)| *refusal == Refusal::Unavailable));
    assert!(longest < Duration::from_secs(12), "a caller waited {longest:?} for its answer");
    drop(locked);
    eventually("the account is warm", async || ledger.call("10").await.is_ok()).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("10", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_newcomer_that_another_gateway_opened_has_its_credits_at_once(fixture: TestLedger) {
    let (other, line) = with_a_line_to_redis(&fixture, "other").await;
    let ledger = fixture.open().await;
    let newcomer = account("newcomer");
    // From now on Redis has it that there is no such account.
    assert_eq!(ledger.balance(&newcomer).await, Ok(None));
    // The other gateway opens the account in Postgres, and cannot tell Redis.
    line.set(Flow::Stalled, Flow::Stalled);
    let opening = {
        let (other, newcomer) = (other.clone(), newcomer.clone());
        tokio::spawn(async move { other.open(&newcomer, credits("5")).await })
    };
    let mut watch = fixture.cluster().sql().await;
    eventually("the account is in Postgres", async || {
        let opened = "SELECT count(*) FROM accounts WHERE id = 'newcomer'";
        sqlx::query_scalar::<_, i64>(opened).fetch_one(&mut watch).await.unwrap() > 0
    })
    .await;
    ledger.open(&newcomer, credits("5")).await.unwrap();
    let hold = ledger.hold(CallId::new(), newcomer.clone(), credits("5"), "/x".into()).await;
    hold.expect("a newcomer has its sign-up credits").release();
    line.set(Flow::Open, Flow::Open);
    // The other gateway may hear late of its own opening.
    let _ = opening.await.unwrap();
    other.stop().await;
    ledger.reconciles().await;
    ledger.stop().await;
}
