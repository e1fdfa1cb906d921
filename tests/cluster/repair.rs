//! Differences between Redis, Postgres and the entries are found under load, and put right when asked.

use std::process::{Output, Stdio};
use std::time::Duration;

use sqlx::Connection as _;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, GRANT, PRICE, ROUTE, in_both_modes};
use crate::load::Shape;
use crate::support::process::{Process, command, config_on_ports, fails, ok};
use crate::support::{Upstream, eventually};

in_both_modes!(
    what_was_damaged_by_hand_is_found_and_repaired_only_when_asked,
    a_repair_under_which_postgres_stalls_ends_right_or_says_that_it_did_not,
    a_repair_under_a_locked_row_mends_the_others_and_says_that_it_left_some,
);

/// The key of an account in Redis; empty if Redis does not have the account. The pattern leaves out the nonces of
/// accounts that are being loaded, whose names have one more part.
fn key_of(cluster: &Cluster, account: &str) -> String {
    cluster.redis.ask(&["KEYS", &format!("{{s00}}:?:a:{account}")])
}

/// Changes the nth number of an account as Redis has it.
fn damage(cluster: &Cluster, account: &str, number: usize, by: i64) {
    const CHANGE: &str = "local form = '<i8i8i8i8i8i8i8BBi8c8' \
        local numbers = { struct.unpack(form, redis.call('GET', KEYS[1])) } \
        numbers[tonumber(ARGV[1])] = numbers[tonumber(ARGV[1])] + ARGV[2] \
        return redis.call('SET', KEYS[1], struct.pack(form, unpack(numbers, 1, 11)))";
    let key = key_of(cluster, account);
    let (number, by) = (number.to_string(), by.to_string());
    assert_eq!(cluster.redis.ask(&["EVAL", CHANGE, "1", &key, &number, &by]), "OK");
}

async fn what_was_damaged_by_hand_is_found_and_repaired_only_when_asked(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    for account in ["erin", "frank", "gina"] {
        cluster.grant(account, 100, &format!("gift-{account}")).await;
        // This call brings the account to Redis, before its damage.
        cluster.gateway(0).post(account, ROUTE).await.expect(200);
    }
    let load = cluster.load_of(&Shape { metered: true, ..Shape::default() });
    load.serves_within(BACK_WITHIN).await;
    let said = cluster.run(0, &["reconcile"]);
    assert!(said.as_ref().is_ok_and(|said| said.contains("clean")), "{said:?}");

    damage(&cluster, "alice", 1, 1_000_000_000);
    damage(&cluster, "bob", 2, 7_000_000);
    let key = key_of(&cluster, "gina");
    cluster.redis.ask(&["SET", &key, "what is this"]);
    let sql = |sql: &str| cluster.postgres.sql(&cluster.database, sql);
    sql("UPDATE farebox.accounts SET balance = balance + 7000000 WHERE id = 'erin'; \
         UPDATE farebox.accounts SET frozen = true WHERE id = 'frank'; \
         DELETE FROM farebox.operations WHERE account = 'frank' AND kind = 'grant'");
    for _ in 0..2 {
        // Looking repairs nothing.
        let said = cluster.run(0, &["reconcile"]).unwrap_err();
        for expected in [
            "alice: the balance is",
            "bob: the amount on hold is",
            "gina: its value in Redis cannot be read",
            "erin: the balance is 102, the entries add up to 95",
            "frank: the account is frozen without a dispute",
            "frank: the operation id of entry 1 is not recorded",
        ] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
    let said = cluster.run(1, &["reconcile", "--repair"]);
    let said = said.unwrap_or_else(|said| panic!("{said}"));
    for account in ["alice", "bob", "erin", "frank", "gina"] {
        assert!(said.contains(&format!("repaired {account}: ")), "{account}: {said}");
    }
    for account in ["carol", "dave"] {
        assert!(!said.contains(account), "{said}");
    }
    assert!(said.contains("clean"), "{said}");
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// Postgres stalls during a repair: at a random moment, and in the middle of its work, for longer than a transaction
/// and a lease last. Finished repairs stay, the next check finds the other differences again, and no call is lost or
/// paid twice.
async fn a_repair_under_which_postgres_stalls_ends_right_or_says_that_it_did_not(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 2).await;
    for account in ["erin", "frank"] {
        cluster.grant(account, 100, &format!("gift-{account}")).await;
        cluster.gateway(0).post(account, ROUTE).await.expect(200);
    }
    let load = cluster.load_of(&Shape::light());
    for is_in_its_middle in [false, true] {
        load.serves_within(BACK_WITHIN).await;
        let are_hot =
            async || ["alice", "bob"].iter().all(|account| !key_of(&cluster, account).is_empty());
        assert!(eventually(are_hot).await, "{}", cluster.redis.ask(&["KEYS", "*"]));
        damage(&cluster, "alice", 1, 1_000_000_000);
        damage(&cluster, "bob", 2, 7_000_000);
        let sql = "UPDATE farebox.accounts SET balance = balance + 7000000 WHERE id = 'erin'; \
             UPDATE farebox.accounts SET frozen = true WHERE id = 'frank'";
        cluster.postgres.sql(&cluster.database, sql);
        // Erin's row is in use, so that is where a repair waits.
        let url = cluster.postgres.url(&cluster.database);
        let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
        if is_in_its_middle {
            let lock = "BEGIN; SELECT 1 FROM farebox.accounts WHERE id = 'erin' FOR UPDATE";
            sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
        }
        let folder = cluster.members[0].folder.path();
        let mut repair = command(folder, &["reconcile", "--repair"], &[]);
        let repair = repair.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if is_in_its_middle {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND query LIKE '%farebox.accounts WHERE id = $1 FOR UPDATE'";
            let waits = async || cluster.postgres.sql(&cluster.database, waits) == "1";
            assert!(eventually(waits).await, "nobody waits for the row");
            cluster.postgres.pause();
            cluster.some_time(4000, 5000).await;
        } else {
            cluster.some_time(30, 300).await;
            cluster.postgres.pause();
            cluster.some_time(300, 2500).await;
        }
        cluster.postgres.resume();
        drop(other);
        let waited = tokio::task::spawn_blocking(|| repair.wait_with_output());
        let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
        match said_by(&waited.expect("it ends").unwrap().unwrap()) {
            Ok(said) => assert!(!is_in_its_middle && said.contains("clean"), "{said}"),
            Err(said) => assert!(said.contains("Postgres does not answer in time"), "{said}"),
        }
        // However the first repair ended, the next one leaves no difference.
        load.serves_within(BACK_WITHIN).await;
        let said = cluster.run(1, &["reconcile", "--repair"]);
        assert!(said.as_ref().is_ok_and(|said| said.contains("clean")), "{said:?}");
    }
    let calls = load.stop().await;
    cluster.check(&calls).await;
    for account in ["erin", "frank"] {
        let has = cluster.gateway(1).account(account).await;
        assert_eq!(has["balance"], 95, "{has}");
        cluster.gateway(1).post(account, ROUTE).await.expect(200);
    }
}

async fn a_repair_under_a_locked_row_mends_the_others_and_says_that_it_left_some(
    durability: Durability,
) {
    let cluster = Cluster::start(durability, 2).await;
    for account in ["alice", "bob", "carol"] {
        cluster.gateway(0).post(account, ROUTE).await.expect(200);
    }
    cluster.check(&[]).await;
    let url = cluster.postgres.url(&cluster.database);
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT 1 FROM farebox.accounts WHERE id = 'alice' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    damage(&cluster, "carol", 1, 1_000_000_000);
    let sql = "UPDATE farebox.accounts SET balance = balance + 7000000 WHERE id = 'bob'";
    cluster.postgres.sql(&cluster.database, sql);
    let said = cluster.run(1, &["reconcile", "--repair"]).unwrap_err();
    for expected in [
        "repaired bob: the balance was",
        "repaired carol: the balance is",
        "left alice: another transaction keeps a row of this account locked",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let looked = cluster.gateway(0).admin(http::Method::GET, "/admin/reconcile", "").await;
    looked.problem(503, "LEDGER_UNAVAILABLE");
    let logged = || cluster.gateway(0).stderr();
    let is_logged = async || logged().contains("a locked row keeps the newest entries back");
    assert!(eventually(is_logged).await, "{}", logged());
    let logged = logged();
    assert!(!logged.contains("the ledger cannot be read"), "{logged}");
    drop(other);
    let said = cluster.run(1, &["reconcile", "--repair"]);
    assert!(said.as_ref().is_ok_and(|said| said.contains("clean")), "{said:?}");
    for (account, spent) in [("alice", 2), ("bob", 1), ("carol", 1)] {
        let has = cluster.gateway(1).account(account).await;
        assert_eq!(has["balance"], GRANT - spent * PRICE, "{has}");
    }
}

fn said_by(output: &Output) -> Result<String, String> {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.code().is_some() && !said.contains("panicked"), "{said}");
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_missing_is_said_and_not_made_up() {
    let cluster = Cluster::start(Durability::Strict, 2).await;
    for account in ["alice", "alice", "alice", "bob", "carol"] {
        cluster.gateway(0).post(account, ROUTE).await.expect(200);
    }
    cluster.check(&[]).await;
    // In the middle, at the end, and all of them.
    let gone = "SET session_replication_role = replica; \
         DELETE FROM farebox.entries WHERE account = 'alice' AND seq = 2 \
         OR account = 'bob' AND seq = 2 OR account = 'carol'";
    cluster.postgres.sql(&cluster.database, gone);
    let said = cluster.run(0, &["reconcile"]).unwrap_err();
    assert!(
        said.contains("alice: entry 3 follows entry 1: those in between are missing"),
        "{said}"
    );
    let said = cluster.run(0, &["reconcile", "--repair"]).unwrap_err();
    for (account, spent) in [("alice", 15), ("bob", 5), ("carol", 5)] {
        assert!(said.contains(&format!("left {account}: entries are missing")), "{said}");
        assert_eq!(cluster.gateway(0).account(account).await["balance"], 1_000_000 - spent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_ledger_is_repaired_while_nobody_serves_it() {
    let upstream = Upstream::canned().await;
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "gift-alice").await;
    gateway.post("alice", ROUTE).await.expect(200);
    let said = fails(folder.path(), &["reconcile", "--repair"], 1);
    assert!(said.contains("stop it, repair, start it again"), "{said}");
    assert!(gateway.terminate().success());
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let mut file = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let damaged = "UPDATE accounts SET balance = balance + 1000000";
    sqlx::raw_sql(damaged).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
    for _ in 0..2 {
        let output = crate::support::process::run(folder.path(), &["reconcile"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success());
        assert!(said.contains("alice: the balance is 96, the entries add up to 95"), "{said}");
    }
    let said = ok(folder.path(), &["reconcile", "--repair"]);
    assert!(said.contains("repaired alice: the balance was 96 and is now 95"), "{said}");
    assert!(said.contains("clean"), "{said}");
    let mut file = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let cut = "DROP TRIGGER entries_are_never_deleted; DELETE FROM entries WHERE seq = 2";
    sqlx::raw_sql(cut).execute(&mut file).await.unwrap();
    file.close().await.unwrap();
    let left = crate::support::process::run(folder.path(), &["reconcile", "--repair"]);
    let said = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.status.success() && said.contains("left alice: entries are missing"), "{said}");
}
