//! A part of the ledger is away: the 503 comes at once, and leaves nothing behind.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::support::{eventually, token};

in_both_modes!(
    while_redis_is_away_a_503_comes_at_once_and_leaves_nothing,
    while_redis_stands_still_a_503_comes_at_once,
    without_redis_a_command_and_a_stop_end_within_seconds,
);

/// The longest time of the usual 503 if the ledger is known to be away.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Calls one after the other, each of which must be 503. Returns the time of the middle one.
async fn refusals(cluster: &Cluster, calls: usize) -> Duration {
    let mut times = Vec::new();
    for _ in 0..calls {
        let asked = Instant::now();
        cluster.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
        times.push(asked.elapsed());
    }
    times.sort();
    eprintln!(
        "the middle of {calls} refusals: {:?}, the last {:?}",
        times[calls / 2],
        times.last()
    );
    times[calls / 2]
}

/// Calls from many callers at once, who try again like real clients. Each gets its 503 soon, though they share two
/// cores.
async fn crowd(cluster: &Cluster, callers: usize) {
    let gateway = cluster.gateway(0);
    let asked = Instant::now();
    let alice = token("alice");
    let call = || gateway.client.post(gateway.url(ROUTE)).bearer_auth(&alice).send();
    for answer in join_all((0..callers).map(|_| call())).await {
        assert_eq!(answer.unwrap().status(), 503);
    }
    let took = asked.elapsed();
    eprintln!("{callers} callers were refused within {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

/// The number of lines in Postgres about calls.
fn holds(cluster: &Cluster) -> i64 {
    cluster.sql("SELECT count(*) FROM farebox.holds").parse().unwrap()
}

async fn while_redis_is_away_a_503_comes_at_once_and_leaves_nothing(durability: Durability) {
    let mut cluster = Cluster::start(durability, 1).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    let settled =
        async || cluster.sql("SELECT count(*) FROM farebox.holds WHERE state = 'live'") == "0";
    assert!(eventually(settled).await);
    let before = holds(&cluster);
    cluster.redis.kill();
    cluster.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
    assert!(refusals(&cluster, 20).await < AT_ONCE);
    crowd(&cluster, 2000).await;
    assert!(refusals(&cluster, 20).await < AT_ONCE);
    cluster.redis.restart();
    let back = Instant::now();
    while cluster.gateway(0).post("alice", ROUTE).await.status != 200 {
        assert!(back.elapsed() < BACK_WITHIN, "it does not serve again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.check(&[]).await;
    // The two calls that were paid may have a line each; the first refusals may have been on their way.
    let left = holds(&cluster) - before;
    assert!(left <= 3, "{left} lines are left of calls that were refused");
    let live = cluster.redis.ask(&["EVAL", LIVE_RECORDS, "0"]);
    assert!(live.parse::<i64>().unwrap() <= 3, "{live} records are left in Redis");
}

/// Counts the records of live holds, and of releases that came before their holds.
const LIVE_RECORDS: &str = "local n = 0 \
    for _, key in ipairs(redis.call('KEYS', '{s00}:*:live')) do \
        for _, id in ipairs(redis.call('HKEYS', key)) do if not string.find(id, ' ') then n = n + 1 end end \
    end \
    return n";

async fn while_redis_stands_still_a_503_comes_at_once(durability: Durability) {
    let mut cluster = Cluster::start(durability, 1).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.redis.pause();
    // The loss is known from the first answer that does not come.
    cluster.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
    cluster.some_time(1000, 1200).await;
    assert!(refusals(&cluster, 20).await < AT_ONCE);
    cluster.redis.resume();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// No command waits for a Redis that is away longer than a connection takes, nor does a gateway that has nothing to hand
/// over.
async fn without_redis_a_command_and_a_stop_end_within_seconds(durability: Durability) {
    const WITHIN: Duration = Duration::from_secs(6);
    let mut cluster = Cluster::start(durability, 1).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    cluster.check(&[]).await;
    cluster.redis.kill();
    for arguments in [
        &["grant", "alice", "1", "--id", "gift"][..],
        &["account", "show", "alice"],
        &["reconcile"],
    ] {
        let asked = Instant::now();
        let said = cluster.run(0, arguments);
        let took = asked.elapsed();
        eprintln!("{arguments:?} took {took:?}: {said:?}");
        assert!(took < WITHIN, "{arguments:?} took {took:?}");
    }
    let asked = Instant::now();
    cluster.stop_gateway(0);
    let took = asked.elapsed();
    eprintln!("the stop took {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    cluster.redis.restart();
    cluster.restart_gateway(0);
    let back = Instant::now();
    while cluster.gateway(0).post("alice", ROUTE).await.status != 200 {
        assert!(back.elapsed() < BACK_WITHIN, "it does not serve again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.check(&[]).await;
}

/// The sizes of the lists in Redis: live holds, ended ones, batches.
fn kept(cluster: &Cluster) -> Vec<i64> {
    let counted = |command: &str, key: &str| {
        let keys = cluster.redis.ask(&["KEYS", key]);
        let sizes = keys.lines().filter(|key| !key.is_empty());
        sizes.map(|key| cluster.redis.ask(&[command, key]).parse::<i64>().unwrap()).sum()
    };
    vec![
        counted("HLEN", "{s00}:*:live"),
        counted("HLEN", "{s00}:*:ended:*"),
        counted("XLEN", "{s00}:out"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_without_postgres_asks_redis_for_no_hold() {
    let mut cluster = Cluster::start(Durability::Strict, 1).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    cluster.postgres.stop();
    cluster.gateway(0).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
    // The release of the hold that was refused is decided by then.
    cluster.some_time(2000, 2500).await;
    let before = kept(&cluster);
    assert!(refusals(&cluster, 20).await < AT_ONCE);
    crowd(&cluster, 500).await;
    assert_eq!(kept(&cluster), before, "refused calls leave something in Redis");
    cluster.postgres.restart();
    let back = Instant::now();
    while cluster.gateway(0).post("alice", ROUTE).await.status != 200 {
        assert!(back.elapsed() < BACK_WITHIN, "it does not serve again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.check(&[]).await;
}

/// A role, or a database, is set to commit asynchronously. Postgres itself tells how each transaction is going to
/// commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_commits_to_the_disk_whatever_the_role_is_set_to() {
    const NOTES: &str = "CREATE TABLE farebox.notes (commits text); \
        CREATE FUNCTION farebox.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            INSERT INTO farebox.notes VALUES (current_setting('synchronous_commit')); \
            RETURN NULL; END $$; \
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON farebox.holds \
            FOR EACH STATEMENT EXECUTE FUNCTION farebox.note(); \
        CREATE CONSTRAINT TRIGGER note AFTER INSERT ON farebox.appends \
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION farebox.note()";
    let cluster = Cluster::start(Durability::Strict, 1).await;
    cluster.sql(NOTES);
    for set in ["off", "local", "remote_write"] {
        cluster.sql(&format!("ALTER ROLE farebox SET synchronous_commit = {set}"));
        let others =
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let before = cluster.sql(&format!("SELECT string_agg(pid::text, ',') {others}"));
        cluster.sql(&format!("SELECT pg_terminate_backend(pid) {others}"));
        let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({before})");
        assert!(eventually(async || cluster.sql(&left) == "0").await, "some connections are left");
        cluster.sql("DELETE FROM farebox.notes");
        let served = async || cluster.gateway(0).post("alice", ROUTE).await.status == 200;
        assert!(eventually(served).await, "{}", cluster.gateway(0).stderr());
        let noted = cluster.sql("SELECT DISTINCT commits FROM farebox.notes");
        assert_eq!(noted, "on", "the role is set to {set}");
    }
    cluster.check(&[]).await;
}
