//! A repair delays neither calls nor purchases. For a measurement see `rare`.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use farebox::ledger::{CallId, Difference, Ledger, Outcome};
use farebox::metrics::Metrics;
use farebox::store::repair_cluster;
use tokio::time::Instant;

use crate::payments::event;
use crate::rare::{BUSY, assert_as_quiet, locks, quiet, trouble_lasts, waits_during};
use crate::test_ledger::{
    TestLedger, account, credits, eventually, grant, on_cluster_ledgers, text,
};

on_cluster_ledgers!("multi_thread":
    a_repair_that_waits_for_a_row_delays_neither_calls_nor_purchases,
    a_repair_leaves_a_row_that_stays_locked_and_mends_the_others,
    a_repair_while_a_locked_row_keeps_charges_back_mends_the_others_in_both_stores,
    the_repair_of_a_large_ledger_delays_no_call,
);

/// Stores events of Stripe again and again. Returns how long each waited, the shortest wait first.
async fn stores_events(ledger: &Ledger, name: &str) -> Vec<Duration> {
    let began = Instant::now();
    let mut waited = Vec::new();
    while began.elapsed() < trouble_lasts() {
        let asked = Instant::now();
        let stored = ledger.ask(event(&format!("evt-{name}-{}", waited.len()))).await;
        assert!(matches!(stored, Outcome::EventRecorded { .. }), "{stored:?}");
        waited.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    waited.sort();
    waited
}

fn median(waited: &[Duration]) -> Duration {
    waited[waited.len() / 2]
}

async fn a_repair_that_waits_for_a_row_delays_neither_calls_nor_purchases(fixture: TestLedger) {
    let (ledger, quiet) = quiet(&fixture).await;
    let (_, usual) = waits_during(&ledger, stores_events(&ledger, "early")).await;
    for who in ["carol", "dave"] {
        ledger.post(grant(&format!("g-{who}"), who, "10")).await.unwrap();
    }
    let damage = "UPDATE accounts SET frozen = true WHERE id IN ('carol', 'dave')";
    fixture.execute(damage).await.unwrap();
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'carol' FOR UPDATE").await;
    let config = fixture.config("mender");
    let repair =
        tokio::spawn(async move { repair_cluster(&config, Metrics::new().unwrap()).await });
    let mut watch = fixture.cluster().sql().await;
    eventually("the repair has mended the other account", async || {
        let frozen = "SELECT frozen FROM accounts WHERE id = 'dave'";
        !sqlx::query_scalar::<_, bool>(frozen).fetch_one(&mut watch).await.unwrap()
    })
    .await;
    let (waits, stored) = waits_during(&ledger, stores_events(&ledger, "late")).await;
    assert_as_quiet(&waits, quiet);
    let (waited, usual) = (median(&stored), median(&usual));
    let limit = (BUSY / 3).max(usual * 2);
    assert!(waited < limit, "half of Stripe's events waited {waited:?}, before {usual:?}");
    drop(locked);
    let report = repair.await.unwrap().unwrap();
    assert_eq!((report.repaired.len(), report.left.len()), (2, 0), "{report:?}");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_repair_leaves_a_row_that_stays_locked_and_mends_the_others(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    for who in ["carol", "dave", "erin", "frank"] {
        ledger.post(grant(&format!("g-{who}"), who, "10")).await.unwrap();
    }
    ledger.reconciles().await;
    let damage = "UPDATE accounts SET frozen = true WHERE id IN ('carol', 'dave'); \
                  UPDATE accounts SET balance = 7 WHERE id IN ('erin', 'frank')";
    fixture.execute(damage).await.unwrap();
    let lock = "SELECT 1 FROM accounts WHERE id IN ('carol', 'erin') FOR UPDATE";
    let locked = locks(&fixture, lock).await;
    let mend = async || {
        let config = fixture.config("mender");
        let report = repair_cluster(&config, Metrics::new().unwrap()).await.unwrap();
        let of = |some: &[Difference]| -> BTreeSet<String> {
            some.iter().map(|one| one.account.clone()).collect()
        };
        (of(&report.repaired), of(&report.left))
    };
    let both = |one: &str, other: &str| BTreeSet::from([one.to_owned(), other.to_owned()]);
    let (repaired, left) = mend().await;
    assert!(repaired.is_superset(&both("dave", "frank")), "{repaired:?}");
    assert_eq!(left, both("carol", "erin"));
    drop(locked);
    let (repaired, left) = mend().await;
    assert_eq!((repaired, left), (both("carol", "erin"), BTreeSet::new()));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Adds credits to an account in Redis by hand.
fn add_in_redis(fixture: &TestLedger, who: &str, micros: i64) {
    const ADD: &str = "local form = '<i8i8i8i8i8i8i8BBi8c8' \
        local numbers = { struct.unpack(form, redis.call('GET', KEYS[1])) } \
        numbers[1] = numbers[1] + ARGV[1] \
        return redis.call('SET', KEYS[1], struct.pack(form, unpack(numbers, 1, 11)))";
    let redis = &fixture.cluster().redis;
    let key = redis.ask(&["KEYS", &format!("{{s00}}:?:a:{who}")]);
    assert_eq!(redis.ask(&["EVAL", ADD, "1", &key, &micros.to_string()]), "OK");
}

/// Alice's row is locked, and her charge keeps all later ones back from Postgres. In Redis the accounts of bob (charged
/// later), carol and erin (charged later) are ahead of Postgres, or damaged.
async fn a_repair_while_a_locked_row_keeps_charges_back_mends_the_others_in_both_stores(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("100").await;
    for who in ["bob", "carol", "dave", "erin"] {
        ledger.post(grant(&format!("g-{who}"), who, "100")).await.unwrap();
    }
    let hold = async |who: &str| {
        let hold = ledger.hold(CallId::new(), account(who), credits("2"), "/x".into()).await;
        hold.unwrap()
    };
    let (running, dave_runs) = (hold("carol").await, hold("dave").await);
    for who in ["alice", "bob", "erin"] {
        hold(who).await.capture(credits("2"));
    }
    ledger.reconciles().await;
    let locked = locks(&fixture, "SELECT 1 FROM accounts WHERE id = 'alice' FOR UPDATE").await;
    for who in ["alice", "bob", "erin"] {
        hold(who).await.capture(credits("2"));
        ledger.balance(&account(who)).await.unwrap();
    }
    let damage = "UPDATE accounts SET frozen = true WHERE id = 'dave'; \
                  UPDATE accounts SET balance = 7 WHERE id = 'bob'";
    fixture.execute(damage).await.unwrap();
    add_in_redis(&fixture, "carol", 1_000_000_000);
    add_in_redis(&fixture, "erin", 1_000_000_000);
    let mend = async || {
        let config = fixture.config("mender");
        let report = repair_cluster(&config, Metrics::new().unwrap()).await.unwrap();
        println!("{report:#?}");
        let of = |some: &[Difference]| -> BTreeSet<String> {
            some.iter().map(|one| one.account.clone()).collect()
        };
        (of(&report.repaired), of(&report.left))
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (repaired, left): (BTreeSet<String>, BTreeSet<String>) =
        (names(&["bob", "carol", "dave"]), names(&["alice", "erin"]));
    assert_eq!(mend().await, (repaired, left));
    // No charge that Postgres lacks is given back, and nobody has to wait for the row.
    for (who, has) in [
        ("alice", ("96", "0")),
        ("bob", ("96", "0")),
        ("carol", ("100", "2")),
        ("dave", ("100", "2")),
        ("erin", ("1096", "0")),
    ] {
        assert_eq!(ledger.has(who).await, text(has), "{who}");
    }
    hold("carol").await.release();
    running.capture(credits("2"));
    dave_runs.capture(credits("1"));
    assert_eq!(ledger.has("carol").await, text(("98", "0")));
    drop(locked);
    assert_eq!(mend().await, (names(&["erin"]), BTreeSet::new()));
    for (who, has) in
        [("alice", "96"), ("bob", "96"), ("carol", "98"), ("dave", "99"), ("erin", "96")]
    {
        assert_eq!(ledger.has(who).await, text((has, "0")), "{who}");
    }
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn the_repair_of_a_large_ledger_delays_no_call(fixture: TestLedger) {
    let rows = std::env::var("FAREBOX_ROWS");
    let accounts = rows.map_or(50_000, |rows| rows.parse::<u32>().unwrap());
    let (ledger, quiet) = quiet(&fixture).await;
    let many = format!(
        "INSERT INTO accounts (id, balance, seq, grant_seq, created_at) \
         SELECT 'many-' || n, 1000000, 1, 0, 0 FROM generate_series(1, {accounts}) n; \
         INSERT INTO operations (id, account, seq, kind, amount, created_at) \
         SELECT 'grant:many-' || n, 'many-' || n, 1, 'grant', 1000000, extract(epoch FROM now())::int8 * 1000 \
         FROM generate_series(1, {accounts}) n; \
         INSERT INTO entries (account, seq, operation, kind, amount, balance_after, created_at) \
         SELECT account, seq, id, kind, amount, 1000000, created_at FROM operations WHERE account LIKE 'many-%'; \
         UPDATE accounts SET frozen = true WHERE id IN ('many-1', 'many-40000'); \
         UPDATE accounts SET balance = 2000000 WHERE id = 'many-30000'"
    );
    fixture.execute(&many).await.unwrap();
    let config = fixture.config("mender");
    let trouble = async {
        let mut repair = pin!(repair_cluster(&config, Metrics::new().unwrap()));
        let mut n = 0;
        loop {
            tokio::select! {
                report = &mut repair => break report.unwrap(),
                // A purchase now and then.
                outcome = ledger.ask(event(&format!("evt-{n}"))) => {
                    assert!(matches!(outcome, Outcome::EventRecorded { .. }), "{outcome:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            n += 1;
        }
    };
    let (waits, report) = waits_during(&ledger, trouble).await;
    assert_as_quiet(&waits, quiet);
    assert_eq!((report.repaired.len(), report.left.len()), (3, 0), "{report:?}");
    ledger.reconciles().await;
    ledger.stop().await;
}
