//! The query plans of the statements that a gateway runs, on a ledger with a past. Postgres itself logs the plans
//! (auto_explain).
//!
//! `FAREBOX_ROWS=10000000` runs the tests on that many entries, and prints the plans with their times:
//! docs/postgres.md shows such a run.

use std::time::Instant;

use http::Method;

use crate::cluster::{BACK_WITHIN, Cluster, Durability};
use crate::history::History;

/// A year: of ten thousand accounts in the long run, of which one has a tenth of all.
fn history() -> (History, bool) {
    let rows = std::env::var("FAREBOX_ROWS").ok().map(|rows| rows.parse::<u32>().unwrap());
    let (rows_or_fewer, accounts) = rows.map_or((200_000, 1000), |rows| (rows, 10_000));
    let of_the_first = rows_or_fewer / 10;
    let of_each = (rows_or_fewer - of_the_first) / (accounts - 1);
    (History { months: 12, accounts, of_the_first, of_each }, rows.is_some())
}

/// A statement as Postgres ran it.
#[derive(Debug)]
struct Plan {
    query: String,
    milliseconds: f64,
    tree: String,
}

impl Plan {
    /// The nodes of the plan whose text begins with `name`.
    fn nodes(&self, name: &str) -> Vec<&str> {
        let node =
            |line: &&str| line.trim_start().trim_start_matches("->").trim_start().starts_with(name);
        self.tree.lines().filter(node).collect()
    }
}

/// The plans in Postgres's log: `duration: 1.2 ms  plan:`, then indented lines, the query's text
/// first.
fn plans(log: &str) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, rest)) = line.split_once("duration: ") else { continue };
        let Some((milliseconds, _)) = rest.split_once(" ms  plan:") else { continue };
        let mut text = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
            text += line.trim_start_matches('\t');
            text.push('\n');
        }
        let (query, tree) = text.split_once('\n').unwrap_or((&text, ""));
        plans.push(Plan {
            query: query.trim_start_matches("Query Text: ").to_owned(),
            milliseconds: milliseconds.parse().unwrap(),
            tree: tree.to_owned(),
        });
    }
    plans
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_about_entries_scans_a_table_or_sorts() {
    let (history, is_long) = history();
    let mut cluster = Cluster::start(Durability::Relaxed, 1).await;
    let began = Instant::now();
    cluster.write_history(&history);
    eprintln!("{} entries written in {:?}", history.entries(), began.elapsed());
    // The log of statements of the gateway's next connections.
    let database = cluster.database.clone();
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        // Reading the clock for each row would be most of what is measured.
        "auto_explain.log_timing = off",
    ] {
        cluster.sql(&format!("ALTER DATABASE {database} SET {setting}"));
    }
    cluster.stop_gateway(0);
    cluster.restart_gateway(0);

    let gateway = cluster.gateway(0);
    for account in ["old-000001", "old-000777", "nobody"] {
        let path = format!("/admin/accounts/{account}/transactions?limit=50");
        let page = gateway.admin(Method::GET, &path, "").await;
        let cursor = page.json()["next_cursor"].as_str().map(str::to_owned);
        if let Some(cursor) = cursor.filter(|_| page.status == 200) {
            gateway.admin(Method::GET, &format!("{path}&cursor={cursor}"), "").await.expect(200);
        }
    }
    let middle = history.of_the_first / 2;
    let path = format!("/admin/accounts/old-000001/transactions?limit=200&cursor={middle}");
    let page = gateway.admin(Method::GET, &path, "").await.expect(200);
    assert_eq!(page["transactions"].as_array().unwrap().len(), 200);
    let began = Instant::now();
    let report = gateway.admin(Method::GET, "/admin/reconcile", "").await.expect(200);
    eprintln!("reconcile took {:?}: {report}", began.elapsed());
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["entries"].as_u64().unwrap() >= history.entries(), "{report}");
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    load.stop().await;
    let began = Instant::now();
    let said = cluster.run(0, &["fold", "--before", &cluster.this_month()]).unwrap();
    eprintln!("folded in {:?}: {said}", began.elapsed());

    let plans = plans(&cluster.postgres.said());
    let about_entries: Vec<_> =
        plans.iter().filter(|plan| plan.query.contains("farebox.entries")).collect();
    let mut seen = Vec::new();
    // The syncer copies its rows into the table, which has no plan.
    for (what, words) in [
        ("a page", "seq < $2 ORDER BY seq DESC LIMIT $3"),
        ("reconcile, entries", "AS took_effect"),
        ("reconcile, accounts", "AS newest FROM farebox.accounts"),
        ("folding months, a slice", "FILTER (WHERE NOT is_folded) AS accounts"),
        ("folding rows, a slice", "gone AS (DELETE"),
    ] {
        let such: Vec<_> =
            about_entries.iter().filter(|plan| plan.query.contains(words)).copied().collect();
        let slowest = such.iter().max_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
        let slowest = slowest.unwrap_or_else(|| panic!("{what} was not seen"));
        let all: f64 = such.iter().map(|plan| plan.milliseconds).sum();
        eprintln!(
            "{what}: {} times, {all:.1} ms, the slowest {}",
            such.len(),
            slowest.milliseconds
        );
        if is_long {
            for plan in [such[0], slowest] {
                println!("{what}: {} ms\n{}\n{}", plan.milliseconds, plan.query, plan.tree);
            }
        }
        // A fold of one month's days deletes from a table that may be a page long.
        if what != "folding rows, a slice" {
            seen.extend(such);
        }
    }
    for plan in seen {
        for node in ["Sort  (", "Incremental Sort  ("] {
            assert_eq!(plan.nodes(node), [""; 0], "{}\n{}", plan.query, plan.tree);
        }
        for node in ["Seq Scan on entries", "Parallel Seq Scan on entries"] {
            // An empty table has no cheaper plan than a scan, and what is never executed reads nothing.
            let mut read = plan.nodes(node);
            read.retain(|line| {
                !line.contains("(cost=0.00..0.00 ") && !line.contains("(never executed)")
            });
            assert_eq!(read, [""; 0], "{}\n{}", plan.query, plan.tree);
        }
    }
    // A lookup by id reads the row, and nothing else.
    for plan in about_entries.iter().filter(|plan| plan.query.contains("AS took_effect")) {
        assert_eq!(plan.nodes("Seq Scan on operations"), [""; 0], "{}", plan.tree);
    }
}
