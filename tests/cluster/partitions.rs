//! Old months are folded away. Balances, ids and pages stay as they were, and calls go on meanwhile.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use crate::cluster::{ACCOUNTS, BACK_WITHIN, Cluster, Durability, PRICE, ROUTE, in_both_modes};
use crate::history::History;
use crate::load::longest_gap;
use crate::support::process::command;

in_both_modes!(whole_months_are_folded_away_under_load);

/// A past of some slices.
const PAST: History = History { months: 3, accounts: 1200, of_the_first: 2000, of_each: 10 };

/// The longest time that folding may keep calls waiting. Folding waits for its lock a quarter of a second at a time;
/// the rest allows for a slow machine.
const GAP: Duration = Duration::from_millis(1500);

/// Every transaction of an account, newest first, in small pages.
async fn pages(cluster: &Cluster, account: &str) -> Vec<Value> {
    let path = format!("/admin/accounts/{account}/transactions?limit=7");
    let (mut lines, mut next) = (Vec::new(), path.clone());
    loop {
        let page = cluster.gateway(0).admin(Method::GET, &next, "").await.expect(200);
        lines.extend(page["transactions"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else { return lines };
        next = format!("{path}&cursor={cursor}");
    }
}

/// The pages of an account add up to its balance, each line to the one before it.
async fn adds_up(cluster: &Cluster, account: &str) -> Vec<Value> {
    let lines = pages(cluster, account).await;
    let mut balance = 0;
    for line in lines.iter().rev() {
        balance += line["amount"].as_i64().unwrap();
        assert_eq!(line["balance_after"], balance, "{line}");
    }
    assert_eq!(cluster.gateway(0).account(account).await["balance"], balance);
    lines
}

async fn report(cluster: &Cluster) -> Value {
    cluster.gateway(0).admin(Method::GET, "/admin/reconcile", "").await.expect(200)
}

/// Waits until nothing is held, and all is in Postgres and clean.
async fn reconciles(cluster: &Cluster) {
    let limit = Instant::now() + BACK_WITHIN;
    loop {
        let report = report(cluster).await;
        if report["clean"] == true && report["live_holds"] == 0 {
            return;
        }
        assert!(Instant::now() < limit, "{report}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn whole_months_are_folded_away_under_load(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(500, 1000).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
    let refunded = cluster.upstream.served().pop().unwrap();
    cluster.write_history(&PAST);
    cluster.make_months_back(7);
    cluster.age(70);
    let past: u64 = cluster.sql("SELECT count(*) FROM farebox.entries").parse().unwrap();

    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    let said = cluster.run(1, &["fold", "--before", &cluster.this_month()]).unwrap();
    eprintln!("{:?}: {said}", began.elapsed());
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    let gap = longest_gap(&calls, began);
    assert!(gap < GAP, "no call was paid for {gap:?}");
    assert!(calls.iter().all(|call| call.end == crate::load::End::Paid), "{calls:?}");

    assert!(said.contains(&format!("folded {past} entries")), "{past} entries: {said}");
    let detached: Vec<_> = said.lines().filter_map(|l| l.strip_prefix("detached: ")).collect();
    let mut archived = 0;
    for table in &detached {
        archived += cluster.sql(&format!("SELECT count(*) FROM {table}")).parse::<u64>().unwrap();
    }
    assert_eq!(archived, past, "every entry stands in a detached table: {detached:?}");
    let left = cluster.partitions();
    let months = left.iter().filter(|name| name.starts_with("entries_2")).count();
    assert_eq!(
        (left.len(), months),
        (5, 3),
        "openings, default, this month and two ahead: {left:?}"
    );

    reconciles(&cluster).await;
    for account in ACCOUNTS.into_iter().chain(["old-000001", "old-001200"]) {
        let lines = adds_up(&cluster, account).await;
        assert_eq!(lines.last().unwrap()["kind"], "opening");
    }
    let ids = "SELECT count(*) FROM farebox.calls WHERE account NOT LIKE 'old-%'";
    let served = cluster.upstream.served().len();
    assert_eq!(cluster.sql(ids), served.to_string(), "each call that was served is one capture");

    // The ids of the folded entries are known for ever.
    let grant = |credits: i64| {
        let body = format!(r#"{{"credits":{credits},"id":"gift-alice"}}"#);
        let gateway = cluster.gateway(0);
        async move { gateway.admin(Method::POST, "/admin/accounts/alice/grants", &body).await }
    };
    let before = cluster.gateway(0).account("alice").await["balance"].clone();
    grant(cluster.granted["alice"]).await.expect(200);
    assert_eq!(grant(7).await.status, 409);
    assert_eq!(cluster.gateway(0).account("alice").await["balance"], before);
    let path = format!("/admin/captures/{}/refund", refunded.request_id);
    for _ in 0..2 {
        let refund = cluster.gateway(0).admin(Method::POST, &path, "{}").await;
        assert!(refund.status.is_success(), "{}", refund.text);
    }
    assert_eq!(adds_up(&cluster, &refunded.account).await[0]["amount"], PRICE);

    let again = cluster.run(0, &["fold", "--before", &cluster.this_month()]).unwrap();
    assert!(again.contains("folded 0 entries"), "{again}");
    cluster.redis.flush_all();
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    load.stop().await;
    reconciles(&cluster).await;
    for account in ACCOUNTS {
        adds_up(&cluster, account).await;
    }
}

/// A dump holds its locks for as long as it takes. Folding waits; calls do not wait behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folding_waits_for_who_reads_for_long_and_calls_do_not_wait_for_it() {
    const READS_FOR: Duration = Duration::from_secs(4);
    let mut cluster = Cluster::start(Durability::Strict, 2).await;
    cluster.write_history(&History { accounts: 20, of_the_first: 10, ..PAST });
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    let (postgres, database) = (&cluster.postgres, &cluster.database);
    let arguments = ["fold", "--before", &cluster.this_month()];
    let mut fold = command(cluster.members[0].folder.path(), &arguments, &[]);
    let folded = std::thread::scope(|scope| {
        let seconds = READS_FOR.as_secs();
        let read = format!("SELECT count(*) FROM farebox.entries; SELECT pg_sleep({seconds})");
        scope.spawn(move || postgres.sql(database, &read));
        let reads = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                     WHERE l.relation = 'farebox.entries'::regclass AND l.granted \
                     AND a.application_name = 'psql' AND pid <> pg_backend_pid()";
        while postgres.sql(database, reads) == "f" {}
        fold.output().unwrap()
    });
    assert!(folded.status.success(), "{folded:?}");
    assert!(began.elapsed() > READS_FOR - Duration::from_millis(500), "it did not wait");
    assert_eq!(cluster.partitions().len(), 5);
    let calls = load.stop().await;
    let gap = longest_gap(&calls, began);
    assert!(gap < GAP, "no call was paid for {gap:?}");
    reconciles(&cluster).await;
    adds_up(&cluster, "old-000001").await;
}

/// An entry that comes late, from a Redis that had long been cut off from Postgres, must not fall into a
/// month that is folded or about to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_its_month_was_closed_is_written_into_the_first_that_is_open() {
    let cluster = Cluster::start(Durability::Relaxed, 1).await;
    let next = "extract(epoch FROM date_trunc('month', now() AT TIME ZONE 'utc') \
                + interval '1 month')::int8 * 1000";
    cluster.sql(&format!("UPDATE farebox.ledger SET closed_before = {next}"));
    let answer = cluster.gateway(0).post("alice", ROUTE).await;
    let request = answer.header("x-request-id").to_owned();
    answer.expect(200);
    cluster.check(&[]).await;
    let late = format!("SELECT count(*) FROM farebox.entries WHERE created_at = {next}");
    assert_eq!(cluster.sql(&late), "1");
    let path = format!("/admin/captures/{request}/refund");
    let refund = cluster.gateway(0).admin(Method::POST, &path, "{}").await;
    assert!(refund.status.is_success(), "{}", refund.text);
    reconciles(&cluster).await;
}

/// A clock went backwards and wrote an old entry after a newer one. Another clock wrote an entry of
/// 1970.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_a_wrong_clock_dated_survive_folding() {
    let cluster = Cluster::start(Durability::Relaxed, 1).await;
    cluster.make_months_back(2);
    let entry = |account: &str, seq: i64, at: &str| {
        cluster.sql(&format!(
            "INSERT INTO farebox.entries (account, seq, operation, kind, amount, balance_after, \
             created_at, held, model, usage, prices) VALUES ('{account}', {seq}, '{account}-{seq}', \
             'grant', 1000000, {seq} * 1000000, {at}, 5, 'model', '{{\"input\":1}}', 'prices'); \
             INSERT INTO farebox.operations VALUES ('{account}-{seq}', '{account}', {seq}, 'grant', \
             1000000, {at}); \
             INSERT INTO farebox.accounts (id, balance, seq, grant_seq, created_at) VALUES \
             ('{account}', {seq} * 1000000, {seq}, {seq}, 1) ON CONFLICT (id) DO UPDATE \
             SET balance = excluded.balance, seq = excluded.seq, grant_seq = excluded.grant_seq"
        ));
    };
    let now = "extract(epoch FROM now())::int8 * 1000";
    let old = "extract(epoch FROM now() - interval '35 days')::int8 * 1000";
    for (seq, at) in [(1, old), (2, old), (3, now), (4, old), (5, now)] {
        entry("back", seq, at);
    }
    for (seq, at) in [(1, "1000"), (2, "1000"), (3, old)] {
        entry("undated", seq, at);
    }
    reconciles(&cluster).await;
    let said = cluster.run(0, &["fold", "--drop", "--before", &cluster.this_month()]).unwrap();
    assert!(
        said.contains("folded 5 entries of 2 accounts") && !said.contains("detached"),
        "{said}"
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE '%detached'";
    assert_eq!(cluster.sql(tables), "0");
    let kinds = |lines: Vec<Value>| {
        lines.iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(adds_up(&cluster, "back").await), ["grant", "grant", "grant", "opening"]);
    // The entry that is not folded, and lies with the opening balances, is there too.
    let whole = "SELECT count(*) FROM farebox.entries WHERE account = 'back' AND held = 5 \
                 AND model = 'model' AND usage = '{\"input\":1}' AND prices = 'prices'";
    assert_eq!(cluster.sql(whole), "3");
    assert_eq!(kinds(adds_up(&cluster, "undated").await), ["opening"]);
    reconciles(&cluster).await;
    // Entries older than all that is folded away lie with the opening balances, and are folded with them.
    entry("late", 1, "1000");
    reconciles(&cluster).await;
    let today = cluster.sql("SELECT to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-DD')");
    cluster.run(0, &["fold", "--before", &today]).unwrap();
    for account in ["late", "undated"] {
        assert_eq!(kinds(adds_up(&cluster, account).await), ["opening"]);
    }
    reconciles(&cluster).await;
}

/// A ledger that does not add up is not folded, and not taken for clean.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_finds_what_is_wrong_in_postgres_and_nothing_of_it_is_folded() {
    let cluster = Cluster::start(Durability::Relaxed, 1).await;
    cluster.write_history(&History { months: 2, accounts: 3, of_the_first: 12_000, of_each: 5 });
    reconciles(&cluster).await;
    let free = "SET LOCAL session_replication_role = replica;";
    let second = "WHERE account = 'old-000002' AND seq = 3";
    for (harm, found) in [
        ("UPDATE farebox.accounts SET balance = balance + 1 WHERE id = 'old-000002'", "add up to"),
        ("UPDATE farebox.accounts SET seq = seq + 1 WHERE id = 'old-000002'", "the newest of them"),
        (
            &format!("UPDATE farebox.entries SET amount = amount + 1 {second}"),
            "entry 3 should leave",
        ),
        (&format!("UPDATE farebox.entries SET balance_after = 0 {second}"), "but records 0"),
        (&format!("DELETE FROM farebox.entries {second}"), "those in between are missing"),
        // A mistake at the place where one slice ends and the next begins.
        (
            "DELETE FROM farebox.entries WHERE account = 'old-000001' AND seq = 1996",
            "entry 1997 follows entry 1995",
        ),
        (
            &format!("DELETE FROM farebox.calls {second}"),
            "the operation id of entry 3 is not recorded",
        ),
        ("DELETE FROM farebox.accounts WHERE id = 'old-000002'", "does not exist"),
        (
            "INSERT INTO farebox.holds SELECT id::text, account, 1, '/', 'call', 1, 'live', 1 \
             FROM farebox.calls WHERE account = 'old-000002' AND seq = 3",
            "is live and captured",
        ),
        (
            "INSERT INTO farebox.holds SELECT id::text, account, 1, '/', 'call', 1, 'released', 1 \
             FROM farebox.calls WHERE account = 'old-000002' AND seq = 3",
            "was released and captured",
        ),
        (
            "INSERT INTO farebox.holds VALUES ('h', 'nobody', 1, '/', 'call', 1, 'live', 1)",
            "of an account that does not exist",
        ),
    ] {
        for table in ["accounts", "entries", "operations", "calls", "holds"] {
            let copy = format!("CREATE TABLE kept_{table} AS SELECT * FROM farebox.{table}");
            cluster.sql(&copy);
        }
        cluster.sql(&format!("BEGIN; {free} {harm}; COMMIT"));
        let said = report(&cluster).await.to_string();
        assert!(said.contains(found), "{harm}: {said}");
        let fold = format!(r#"{{"before":"{}T00:00:00Z"}}"#, cluster.this_month());
        let refused = cluster.gateway(0).admin(Method::POST, "/admin/fold", &fold).await;
        assert_eq!(refused.status, 503, "{}", refused.text);
        for table in ["accounts", "entries", "operations", "calls", "holds"] {
            cluster.sql(&format!(
                "BEGIN; {free} DELETE FROM farebox.{table}; \
                 INSERT INTO farebox.{table} SELECT * FROM kept_{table}; COMMIT; \
                 DROP TABLE kept_{table}"
            ));
        }
        reconciles(&cluster).await;
    }
}
