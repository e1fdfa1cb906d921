//! Calls that a crash, or a stop that ran out of time, cuts off: `[ledger] after_crash`, the list of
//! them, and their lines in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use http::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::http::{pages, plain_client};
use crate::process::{Process, command, config_on_ports, fails, free_port};
use crate::support::random::Random;
use crate::support::{Upstream, eventually, token};

const CALLS: usize = 50;
const PRICE: i64 = 5;
const GRANT: i64 = 1000;

/// Answers nothing.
async fn silent() -> Upstream {
    Upstream::start(Router::new().fallback(std::future::pending::<&'static str>)).await
}

fn config(upstream: &Upstream, after_crash: &str, server: &str) -> String {
    let text = config_on_ports(upstream.address, "");
    let ledger = match after_crash {
        "" => "[ledger]".to_owned(),
        set => format!("[ledger]\nafter_crash = \"{set}\""),
    };
    text.replace("[ledger]", &ledger).replace("[server]", &format!("[server]\n{server}"))
}

/// Calls that their upstream has and does not answer, each on a connection of its own.
async fn begun(gateway: &Process, upstream: &Upstream) -> Vec<JoinHandle<()>> {
    gateway.grant("alice", GRANT as u64, "gift").await;
    let calls = (0..CALLS).map(|_| {
        let client = plain_client().build().unwrap();
        let call = client.post(gateway.url("/api/ai/generate")).bearer_auth(token("alice"));
        let call = call.body("{}").send();
        tokio::spawn(async move { drop(call.await) })
    });
    let calls: Vec<_> = calls.collect();
    assert!(eventually(async || upstream.seen().len() == CALLS).await);
    calls
}

/// The request ids that the upstream saw.
fn ids(upstream: &Upstream) -> BTreeSet<String> {
    upstream.seen().iter().map(|seen| seen.header("x-request-id").unwrap().to_owned()).collect()
}

/// All of `GET /admin/crashed`, a few at a time.
async fn crashed(gateway: &Process) -> Vec<Value> {
    let page = async |cursor: Option<String>| {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/admin/crashed?limit=7{cursor}");
        gateway.admin(Method::GET, &path, "").await.expect(200)
    };
    pages(page, "crashed").await
}

/// Expects each of the upstream's calls in the list once, with this outcome, and once in the log.
async fn assert_listed(gateway: &Process, upstream: &Upstream, outcome: &str, log: &str) {
    let listed = crashed(gateway).await;
    let mut by_id = BTreeMap::new();
    for call in &listed {
        let id = call["request_id"].as_str().unwrap().to_owned();
        assert!(by_id.insert(id, call).is_none(), "{call} is listed twice");
        assert_eq!(call["account"], "alice", "{call}");
        assert_eq!(call["route"], "/api/ai/generate", "{call}");
        assert_eq!(call["amount"], PRICE, "{call}");
        assert_eq!(call["outcome"], outcome, "{call}");
        let at = call["at"].as_str().unwrap();
        assert!(at.len() == 24 && at.ends_with('Z'), "{call}");
    }
    assert_eq!(by_id.into_keys().collect::<BTreeSet<_>>(), ids(upstream));
    let order: Vec<_> = listed.iter().map(|call| call["at"].as_str().unwrap()).collect();
    assert!(order.is_sorted_by(|newer, older| newer >= older), "newest first: {order:?}");
    for id in ids(upstream) {
        let lines =
            log.lines().filter(|line| line.contains("cut a call off") && line.contains(&id));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{id}: {lines:?}\n{log}");
        assert!(lines[0].contains(outcome) && lines[0].contains("alice"), "{}", lines[0]);
    }
}

/// An outcome's amounts: in the balance, in the entries, and in refunds.
async fn assert_settled(gateway: &Process, upstream: &Upstream, outcome: &str) {
    let charged = if outcome == "charged" { CALLS as i64 * PRICE } else { 0 };
    let shown = gateway.account("alice").await;
    assert_eq!((&shown["balance"], &shown["held"]), (&(GRANT - charged).into(), &0.into()));
    let lines = gateway.transactions("alice").await;
    let captures: Vec<_> = lines.iter().filter(|line| line["kind"] == "capture").collect();
    let captured = captures.iter().map(|line| line["request_id"].as_str().unwrap().to_owned());
    let expected = if charged > 0 { ids(upstream) } else { BTreeSet::new() };
    assert_eq!(captured.collect::<BTreeSet<_>>(), expected);
    assert_eq!(captures.len(), expected.len());
    for line in captures {
        assert_eq!((&line["reason"], &line["amount"]), (&"crash".into(), &(-PRICE).into()));
        assert_eq!(line["route"], "/api/ai/generate");
    }
    gateway.assert_reconciled().await;
    let own = gateway.client.get(gateway.url("/credits/transactions?limit=200"));
    let own: Value = own.bearer_auth(token("alice")).send().await.unwrap().json().await.unwrap();
    let own = own["transactions"].as_array().unwrap().iter();
    assert_eq!(own.filter(|line| line["reason"] == "crash").count(), expected.len());
    if let Some(id) = expected.first() {
        let path = format!("/admin/captures/{id}/refund");
        for _ in 0..2 {
            let refund = gateway.admin(Method::POST, &path, "{}").await.expect(200);
            assert_eq!((&refund["kind"], &refund["amount"]), (&"refund".into(), &PRICE.into()));
            let balance = gateway.account("alice").await["balance"].as_i64();
            assert_eq!(balance, Some(GRANT - charged + PRICE), "given back once");
        }
        gateway.assert_reconciled().await;
    }
}

/// Starts that are killed at moments of their own, one after the other; what they logged.
async fn killed_starts(folder: &Path) -> String {
    let mut random = Random::seeded();
    let mut log = String::new();
    for _ in 0..10 {
        let mut serve = command(folder, &["serve"], &[]);
        let mut serve = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        tokio::time::sleep(Duration::from_micros(random.below(120_000) as u64)).await;
        serve.kill().unwrap();
        log += &String::from_utf8_lossy(&serve.wait_with_output().unwrap().stderr);
    }
    log
}

async fn after_kill_9(after_crash: &str, outcome: &str) {
    let folder = tempfile::tempdir().unwrap();
    let upstream = silent().await;
    let text = config(&upstream, after_crash, "");
    let mut gateway = Process::serve(folder.path(), &text);
    let calls = begun(&gateway, &upstream).await;
    gateway.kill();
    for call in calls {
        call.await.unwrap();
    }
    let gateway = Process::serve(folder.path(), &text);
    assert_listed(&gateway, &upstream, outcome, &gateway.stderr()).await;
    assert_settled(&gateway, &upstream, outcome).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_a_crash_are_given_back_listed_and_logged() {
    after_kill_9("", "released").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_a_crash_are_charged_where_the_config_says_so() {
    after_kill_9("charge", "charged").await;
}

/// However often the start that ends them is killed: each is charged, and listed, exactly once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_killed_at_any_moment_ends_each_call_once() {
    for (after_crash, outcome) in [("release", "released"), ("charge", "charged")] {
        let folder = tempfile::tempdir().unwrap();
        let upstream = silent().await;
        let text = config(&upstream, after_crash, "");
        let mut gateway = Process::serve(folder.path(), &text);
        let calls = begun(&gateway, &upstream).await;
        gateway.kill();
        for call in calls {
            call.await.unwrap();
        }
        killed_starts(folder.path()).await;
        let gateway = Process::serve(folder.path(), &text);
        let listed: Vec<_> = crashed(&gateway).await;
        assert_eq!(listed.len(), CALLS);
        assert!(listed.iter().all(|call| call["outcome"] == outcome), "{listed:?}");
        assert_settled(&gateway, &upstream, outcome).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_runs_out_of_time_ends_lists_and_logs_what_it_cuts_off() {
    for (after_crash, outcome) in [("", "released"), ("charge", "charged")] {
        let folder = tempfile::tempdir().unwrap();
        let upstream = silent().await;
        let text = config(&upstream, after_crash, "shutdown_timeout = \"200ms\"");
        let mut gateway = Process::serve(folder.path(), &text);
        let calls = begun(&gateway, &upstream).await;
        assert!(gateway.terminate().success(), "{}", gateway.stderr());
        for call in calls {
            call.await.unwrap();
        }
        gateway.wait_for_logs();
        let gateway_after = Process::serve(folder.path(), &text);
        assert_listed(&gateway_after, &upstream, outcome, &gateway.stderr()).await;
        assert_settled(&gateway_after, &upstream, outcome).await;
    }
}

/// A settled call is not ended again: an orderly stop lists nothing.
#[tokio::test]
async fn a_stop_in_time_lists_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config(&upstream, "charge", "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "gift").await;
    assert_eq!(gateway.post("alice", "/api/ai/generate").await.status, 200);
    assert_eq!(gateway.post("alice", "/nowhere").await.status, 404);
    assert!(gateway.terminate().success());
    let gateway = Process::serve(folder.path(), &text);
    let none = gateway.admin(Method::GET, "/admin/crashed", "").await.expect(200);
    assert_eq!(none, serde_json::json!({ "crashed": [], "next_cursor": null }));
    for bad in ["cursor=x", "cursor=1", "cursor=x.1", "limit=x"] {
        let path = format!("/admin/crashed?{bad}");
        gateway.admin(Method::GET, &path, "").await.problem(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn the_shared_ledger_refuses_to_charge_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[ledger]\nbackend = \"redis\"\nafter_crash = \"charge\"\n\
         redis_url = \"redis://127.0.0.1:{0}\"\npostgres_url = \"postgres://127.0.0.1:{0}/x\"\n",
        free_port()
    );
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let said = fails(folder.path(), &["reconcile"], 2);
    assert!(
        said.contains("gateway.toml:3") && said.contains("after_crash = \"release\""),
        "{said}"
    );
}
