//! The cluster ledger with more of something than one step can take: holds of one account, batches that
//! wait for Postgres, and what a gateway hands over to a recovery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farebox::ledger::{
    Backend as _, CallId, NewHold, Operation, Origin, Outcome, Reader as _, Refusal,
};
use farebox::metrics::Metrics;
use farebox::store::{ClusterLedger, repair_cluster};

use crate::servers::CutProxy;
use crate::test_ledger::{
    HOUR_MS, Kind, TestLedger, account, api_capture, credits, eventually, grant, hold_id, hold_of,
    on_cluster_ledgers,
};
use crate::without_postgres::with_a_line;

on_cluster_ledgers!("multi_thread":
    an_account_with_thousands_of_holds_is_served_again_and_repaired,
    an_account_that_cannot_be_brought_stops_nothing_else,
    thousands_of_calls_that_a_crash_cut_off_are_given_back,
);

/// A number of holds; more than the script's language can pass to a function.
const MANY: usize = 3000;

/// As many operations as a batch may have.
const BATCH: usize = 1000;

fn hold_for(who: &str, id: &str, amount: &str) -> Operation {
    Operation::Hold(NewHold {
        id: hold_id(id),
        account: account(who),
        amount: credits(amount),
        route: "/jobs".into(),
        origin: Origin::Api,
        ttl_ms: HOUR_MS,
        claim: None,
    })
}

/// Alice's balance and her held credits, as soon as the ledger answers.
async fn alice_has(ledger: &mut ClusterLedger) -> (String, String) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let asked = ledger.apply(&[Operation::Balance { account: account("alice") }]).await;
        match asked.as_slice() {
            [Outcome::Balance(Some(has))] => {
                return (has.balance.to_string(), has.held.to_string());
            }
            other => assert!(Instant::now() < limit, "alice is not served: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `n` holds of 1 on alice's credits, through the API.
async fn hold_many(ledger: &mut ClusterLedger, n: usize) {
    let granted = Operation::Post(grant("g", "alice", "1000000"));
    ledger.apply(&[granted]).await;
    let holds: Vec<_> =
        (0..n).map(|n| hold_of(Origin::Api, &format!("job-{n}"), "1", HOUR_MS)).collect();
    for some in holds.chunks(BATCH) {
        let held = ledger.apply(some).await;
        assert!(held.iter().all(|held| matches!(held, Outcome::Held { .. })), "{:?}", held[0]);
    }
}

/// `FAREBOX_HOLDS` says how many, in a run that may be long.
async fn an_account_with_thousands_of_holds_is_served_again_and_repaired(fixture: TestLedger) {
    let many = std::env::var("FAREBOX_HOLDS").map_or(MANY, |many| many.parse().unwrap());
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    let mut other = fixture.gateway("other").await.unwrap();
    hold_many(&mut ledger, many).await;
    let reader = ledger.reader();
    assert!(reader.reconcile().await.unwrap().is_clean());

    let redis = &fixture.cluster().redis;
    redis.flush_all();
    let began = Instant::now();
    let expected = ("1000000".to_owned(), many.to_string());
    // Both gateways load the account at once.
    let (one, two) = tokio::join!(alice_has(&mut ledger), alice_has(&mut other));
    assert_eq!((&one, &two), (&expected, &expected));
    println!("{many} holds are back after {:?}", began.elapsed());
    let charged = ledger.apply(&[api_capture("job-1", "1")]).await;
    assert!(matches!(charged[..], [Outcome::Captured { late: false, .. }]), "{charged:?}");
    let report = reader.reconcile().await.unwrap();
    assert!(report.is_clean() && report.live_holds == many as u64 - 1, "{report:?}");

    let key = redis.ask(&["KEYS", "{s00}:[0-9]:a:alice"]);
    redis.ask(&["SET", &key, "what is this"]);
    let report = repair_cluster(&fixture.config("repair"), Metrics::new().unwrap()).await.unwrap();
    assert!(report.repaired.iter().any(|repaired| repaired.account == "alice"), "{report:?}");
    let left = ("999999".to_owned(), (many - 1).to_string());
    assert_eq!(alice_has(&mut other).await, left);
    assert!(reader.reconcile().await.unwrap().is_clean());
    assert!(ledger.close().await && other.close().await);
}

/// One sweep finds more holds than a batch may have, and than the script's language can pass to a function.
async fn thousands_of_calls_that_a_crash_cut_off_are_given_back(fixture: TestLedger) {
    let mut crashed = fixture.gateway("gateway").await.unwrap();
    let granted = Operation::Post(grant("g", "alice", "1000000"));
    crashed.apply(&[granted]).await;
    let calls: Vec<_> =
        (0..5 * BATCH).map(|n| hold_of(Origin::Call, &format!("call-{n}"), "1", HOUR_MS)).collect();
    for some in calls.chunks(BATCH) {
        let held = crashed.apply(some).await;
        assert!(held.iter().all(|held| matches!(held, Outcome::Held { .. })), "{:?}", held[0]);
    }
    drop(crashed);
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    assert_eq!(alice_has(&mut ledger).await, ("1000000".to_owned(), "0".to_owned()));
    assert_eq!(ledger.apply(&[Operation::Audit]).await, [Outcome::Audited(vec![])]);
    let report = ledger.reader().reconcile().await.unwrap();
    assert!(report.is_clean() && report.live_holds == 0, "{report:?}");
    assert!(ledger.close().await);
}

/// One account's hold cannot be read. The other accounts are loaded into Redis, and the holds of a lost gateway are
/// given back.
async fn an_account_that_cannot_be_brought_stops_nothing_else(fixture: TestLedger) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    let mut crashed = fixture.gateway("crashed").await.unwrap();
    let others: Vec<_> = (0..20).map(|n| format!("account-{n}")).collect();
    for who in others.iter().map(String::as_str).chain(["alice"]) {
        let granted = Operation::Post(grant(&format!("g-{who}"), who, "10"));
        ledger.apply(&[granted]).await;
        let held = ledger.apply(&[hold_for(who, &format!("job-{who}"), "1")]).await;
        assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    }
    let lost = crashed.apply(&[hold_of(Origin::Call, "lost", "4", HOUR_MS)]).await;
    assert!(matches!(lost[..], [Outcome::Held { .. }]), "{lost:?}");
    let audited = ledger.apply(&[Operation::Audit]).await;
    assert_eq!(audited, [Outcome::Audited(vec![])]);
    drop(crashed);
    fixture
        .execute(
            "INSERT INTO holds SELECT 'no id', 'account-7', 1, '/x', 'api', 0, 'live', expires_at, NULL \
             FROM holds LIMIT 1",
        )
        .await
        .unwrap();
    let redis = &fixture.cluster().redis;
    redis.flush_all();
    assert_eq!(alice_has(&mut ledger).await, ("10".to_owned(), "5".to_owned()));
    // No call asks for these accounts: they are loaded because their holds' deadlines must be watched.
    eventually("all the others are back", async || {
        let back = redis.ask(&["KEYS", "{s00}:[0-9]:a:account-*"]);
        back.lines().count() == others.len() - 1
    })
    .await;
    eventually("the lost gateway's hold has expired", async || {
        ledger.tick(&|_| false).await;
        alice_has(&mut ledger).await.1 == "1"
    })
    .await;
    fixture.execute("DELETE FROM holds WHERE id = 'no id'").await.unwrap();
    eventually("the last one is back", async || {
        !redis.ask(&["KEYS", "{s00}:[0-9]:a:account-7"]).is_empty()
    })
    .await;
    assert!(ledger.close().await);
}

/// A call's hold that has a line of its own in the stream, `route` and all.
fn long_hold(id: &CallId, route: &Arc<str>) -> Operation {
    Operation::Hold(NewHold {
        id: id.hold_id().clone(),
        account: account("alice"),
        amount: credits("1"),
        route: route.clone(),
        origin: Origin::Call,
        ttl_ms: HOUR_MS,
        claim: None,
    })
}

fn capture_of(id: &CallId, route: &Arc<str>) -> Operation {
    Operation::Capture {
        hold: id.hold_id().clone(),
        account: Some(account("alice")),
        amount: credits("1"),
        route: route.clone(),
        origin: Origin::Call,
        may_overrun: true,
        usage: None,
        claim: None,
    }
}

/// A gateway that has decided this number of batches of holds, and as many of captures, while Postgres was away. Also
/// returns the ledger's servers, and the proxy in front of Postgres.
async fn behind(route: &str, batches: usize) -> (TestLedger, CutProxy, ClusterLedger) {
    let (fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let mut config = fixture.config("gateway");
    config.unsynced_cap = credits("10000000");
    config.redo_limit_bytes = 1 << 30;
    let mut ledger = ClusterLedger::open(&config, Metrics::new().unwrap()).await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "1000000"))]).await;
    assert_eq!(alice_has(&mut ledger).await.0, "1000000");
    line.part();
    call_often(&mut ledger, route, batches).await;
    (fixture, line, ledger)
}

/// Decides `groups` times 1024 holds, and as many captures, in batches of about a quarter of a MiB at most: while Postgres
/// is away, a gateway passes on only what Redis replies within half a second.
async fn call_often(ledger: &mut ClusterLedger, route: &str, groups: usize) {
    let route: Arc<str> = route.into();
    let at_once = 1024.min((256 << 10) / route.len());
    for _ in 0..groups {
        let ids: Vec<_> = (0..1024).map(|_| CallId::new()).collect();
        for ids in ids.chunks(at_once) {
            let holds: Vec<_> = ids.iter().map(|id| long_hold(id, &route)).collect();
            let captures: Vec<_> = ids.iter().map(|id| capture_of(id, &route)).collect();
            let held = ledger.apply(&holds).await;
            let is_held = |held: &Outcome| matches!(held, Outcome::Held { .. });
            assert!(held.iter().all(is_held), "{:?}", held[0]);
            let charged = ledger.apply(&captures).await;
            let is_charged = |charged: &Outcome| matches!(charged, Outcome::Captured { .. });
            assert!(charged.iter().all(is_charged), "{:?}", charged[0]);
        }
    }
}

/// Makes Postgres wait for `seconds` at each row that is written into `table` and for which `when`
/// holds.
async fn slow_down(fixture: &TestLedger, table: &str, when: &str, seconds: f64) {
    let sql = format!(
        "CREATE FUNCTION wait_{table}() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$; \
         CREATE TRIGGER wait_{table} BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) \
         EXECUTE FUNCTION wait_{table}();"
    );
    fixture.execute(&sql).await.unwrap();
}

/// Waits until Postgres has all of these charges. Expects that the ledger is clean, and that no
/// hold lives.
async fn is_settled(ledger: &ClusterLedger, charged: usize) {
    let reader = ledger.reader();
    eventually("Postgres has all of it", async || {
        let alice = reader.account(&account("alice")).await;
        let left = (1_000_000 - charged).to_string();
        alice.is_ok_and(|alice| alice.unwrap().balance.balance.to_string() == left)
    })
    .await;
    let report = reader.reconcile().await.unwrap();
    assert!(report.is_clean() && report.live_holds == 0, "{report:?}");
}

/// Writing all of the batches takes four seconds, and Postgres counts as away after one and a half.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_postgres_can_write_in_time_is_written_in_smaller_slices() {
    let batches = 16;
    let (fixture, line, mut ledger) = behind("/x", batches).await;
    slow_down(&fixture, "entries", "NEW.seq % 4 = 0", 0.001).await;
    line.mend();
    eventually("Postgres is there", async || {
        ledger.reader().account(&account("alice")).await.is_ok()
    })
    .await;
    // The grant waits until Postgres has what Redis decided before, and every call of this gateway waits behind the
    // grant. So the grant is refused before all of it is written.
    let mut refused = 0;
    loop {
        let asked = Instant::now();
        let posted = ledger.apply(&[Operation::Post(grant("g", "alice", "1000000"))]).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        match posted.as_slice() {
            [Outcome::Posted { new: false, .. }] => break,
            posted => assert_eq!(posted, [Outcome::Refused(Refusal::Unavailable)]),
        }
        refused += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 0, "nothing waited for Postgres");
    is_settled(&ledger, batches * 1024).await;
    assert!(ledger.close().await);
}

/// A Postgres that fails over may lack the last batches that it had. Redis keeps them as long, however many wait in front
/// of them, and 64 MiB of them once nothing waits.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_keeps_for_a_failover_is_kept_in_front_of_a_long_backlog() {
    const KEPT: u64 = 64 << 20;
    /// As long as some rounds of the janitor take.
    const ROUNDS: Duration = Duration::from_secs(7);
    let (fixture, line, mut ledger) = behind("/x", 1).await;
    line.mend();
    is_settled(&ledger, 1024).await;
    let redis = &fixture.cluster().redis;
    let oldest = || {
        let first = redis.ask(&["XRANGE", "{s00}:out", "-", "+", "COUNT", "1"]);
        first.lines().next().unwrap_or_default().to_owned()
    };
    let bytes = || {
        let bytes = redis.ask(&["MEMORY", "USAGE", "{s00}:out", "SAMPLES", "0"]);
        bytes.parse::<u64>().unwrap()
    };
    let first = oldest();
    line.part();
    let batches = 50;
    call_often(&mut ledger, &format!("/{}", "x".repeat(2000)), batches).await;
    assert!(bytes() > KEPT / 2 * 3, "{}", bytes());
    let began = Instant::now();
    while began.elapsed() < ROUNDS {
        assert_eq!(oldest(), first, "Redis gave a batch up after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    line.mend();
    is_settled(&ledger, (batches + 1) * 1024).await;
    eventually("Redis gives the oldest up", async || bytes() < KEPT / 2 * 3).await;
    assert!(bytes() > KEPT / 4 * 3, "{} are kept", bytes());
    assert!(ledger.close().await);
}

/// Redis loses all of these batches. Writing them takes three seconds, which is too long for one transaction of a
/// recovery.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_over_to_a_recovery_may_be_large() {
    let batches = 44;
    let (fixture, line, mut ledger) = behind(&format!("/{}", "x".repeat(250)), batches).await;
    slow_down(&fixture, "redo", "true", 3.0 / (2.0 * batches as f64)).await;
    let redis = &fixture.cluster().redis;
    let bytes = redis.ask(&["MEMORY", "USAGE", "{s00}:out", "SAMPLES", "0"]);
    assert!(bytes.parse::<u64>().unwrap() > 20 << 20, "{bytes}");
    redis.flush_all();
    line.mend();
    let left = ((1_000_000 - batches * 1024).to_string(), "0".to_owned());
    assert_eq!(alice_has(&mut ledger).await, left);
    is_settled(&ledger, batches * 1024).await;
    assert!(ledger.close().await);
}
