//! A key survives the end of its gateway.

use std::path::Path;
use std::time::Duration;

use sqlx::Connection as _;
use tempfile::TempDir;

use super::{Counting, PATH, ROUTE, ask, assert_replays, gateway};
use crate::support::http::Answer;
use crate::support::process::{Process, config_on_ports};
use crate::support::random::Random;
use crate::support::{ADMIN_TOKEN, TestGateway, config_text, eventually, token};

async fn post(process: &Process, key: &str) -> Option<Answer> {
    let url = format!("http://{}{PATH}", process.public);
    let request = process.client.post(url).bearer_auth(token("alice"));
    let response = request.header("idempotency-key", key).body("{}").send().await.ok()?;
    let (status, headers) = (response.status(), response.headers().clone());
    Some(Answer { status, headers, text: response.text().await.ok()? })
}

async fn grant(process: &Process) {
    let url = format!("http://{}/admin/accounts/alice/grants", process.admin);
    let body = r#"{"credits":100000,"id":"all","reason":"test"}"#;
    let granted = process.client.post(url).bearer_auth(ADMIN_TOKEN).body(body).send().await;
    assert!(granted.unwrap().status().is_success());
}

async fn balance(process: &Process) -> (i64, i64) {
    let url = format!("http://{}/credits/balance", process.public);
    let answer = process.client.get(url).bearer_auth(token("alice")).send().await.unwrap();
    let json: serde_json::Value = answer.json().await.unwrap();
    (json["balance"].as_i64().unwrap(), json["held"].as_i64().unwrap())
}

#[tokio::test]
async fn after_a_restart_the_key_is_still_the_first_call_s() {
    let counting = Counting::quick().await;
    let first_gateway = gateway(&counting, "").await;
    let first = ask(&first_gateway, "once", "{}").await;
    assert_eq!(first.status, 200);
    let folder = first_gateway.stop().await;
    let text = config_text(counting.upstream.address, ROUTE);
    let gateway = TestGateway::start_in(folder, &text).await;
    assert_replays(&first, &ask(&gateway, "once", "{}").await);
    ask(&gateway, "once", "other").await.problem(422, "IDEMPOTENCY_CONFLICT");
    assert_eq!((counting.calls(), gateway.settled_balance("alice").await), (1, 95));
}

/// A gateway is killed at any moment of a call. Afterwards either the key belongs to that call and its answer is
/// kept, or a retry runs the call again.
#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_a_key_is_still_the_first_call_s_or_runs_anew() {
    let counting = Counting::quick().await;
    let folder = TempDir::new().unwrap();
    let text = config_on_ports(counting.upstream.address, ROUTE);
    let mut process = Process::serve(folder.path(), &text);
    grant(&process).await;
    let mut random = Random::seeded();
    for round in 0..6 {
        let key = |call: usize| format!("{round}-{call}");
        let before = counting.calls();
        let (start, _) = balance(&process).await;
        let mut answers: Vec<Option<Answer>> = Vec::new();
        let delay = Duration::from_millis(random.below(120) as u64);
        let calling = async {
            for call in 0..500 {
                let answer = post(&process, &key(call)).await;
                let gone = answer.is_none();
                answers.push(answer);
                if gone {
                    break;
                }
            }
        };
        let pid = process.pid().to_string();
        let killing = async {
            tokio::time::sleep(delay).await;
            let killed = std::process::Command::new("kill").args(["-9", &pid]).status();
            assert!(killed.unwrap().success());
        };
        tokio::join!(calling, killing);
        process.kill();
        let during = counting.calls() - before;
        process = Process::serve(folder.path(), &text);
        for (call, first) in answers.iter().enumerate() {
            let again = post(&process, &key(call)).await.unwrap();
            assert_eq!(again.status, 200, "{}", again.text);
            if let Some(first) = first {
                // If a client has the whole answer, the gateway had asked for the charge before it sent the end of
                // the answer. A crash right then may have lost the charge with the hold, and then the call runs anew.
                let is_replay = again.headers.contains_key("idempotent-replayed");
                let is_last = call + 2 >= answers.len();
                assert!(is_replay || is_last, "call {call} of {}", answers.len());
                if is_replay {
                    assert_replays(first, &again);
                }
            }
            let third = post(&process, &key(call)).await.unwrap();
            assert_replays(&again, &third);
        }
        // Each key was charged exactly once.
        let mut last = (0, 1);
        let settled = eventually(async || {
            last = balance(&process).await;
            last.1 == 0
        });
        assert!(settled.await, "{last:?}");
        assert_eq!(start - last.0, 5 * answers.len() as i64, "{during} calls before the kill");
        let reran = counting.calls() - before - during;
        assert!(reran <= 2, "{reran} keys ran anew");
    }
}

/// While the answer cannot be written, its call is not charged and its client lacks the end. So a crash at that moment
/// leaves no charge without an answer: the key is free, and a retry runs the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_charged_once_its_answer_is_stored_and_not_before() {
    let counting = Counting::quick().await;
    let folder = TempDir::new().unwrap();
    let text = config_on_ports(counting.upstream.address, ROUTE);
    let mut process = Process::serve(folder.path(), &text);
    grant(&process).await;
    assert_eq!(post(&process, "before").await.unwrap().status, 200);
    let at_rest = 100_000 - 5;
    assert!(eventually(async || balance(&process).await == (at_rest, 0)).await);
    let file = folder.path().join("ledger.db-answers").display().to_string();
    let mut intruder = sqlx::SqliteConnection::connect(&file).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut intruder).await.unwrap();
    let request = process.client.post(format!("http://{}{PATH}", process.public));
    let request = request.bearer_auth(token("alice")).header("idempotency-key", "once").body("{}");
    let call = tokio::spawn(async move { request.send().await?.text().await });
    assert!(eventually(async || counting.calls() == 2).await);
    for _ in 0..25 {
        assert_eq!(balance(&process).await, (at_rest, 5), "charged before its answer is there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!call.is_finished());
    process.kill();
    assert!(call.await.unwrap().is_err());
    drop(intruder);
    process = Process::serve(folder.path(), &text);
    let again = post(&process, "once").await.unwrap();
    assert_eq!((again.status.as_u16(), again.header("x-call")), (200, "3"), "{}", again.text);
    assert_replays(&again, &post(&process, "once").await.unwrap());
    assert!(eventually(async || balance(&process).await == (at_rest - 5, 0)).await);
}

#[tokio::test]
async fn the_stored_files_have_no_part_of_an_answer_a_request_or_a_key_in_plain() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "").await;
    let body = "a private question of some length";
    let first = ask(&gateway, "a-key-that-nobody-guesses", body).await;
    assert_replays(&first, &ask(&gateway, "a-key-that-nobody-guesses", body).await);
    gateway.settled_balance("alice").await;
    search(gateway.folder.path());
    search(gateway.stop().await.path());
}

/// Expects to find none of the test's words in the files of a folder.
fn search(folder: &Path) {
    let mut searched = Vec::new();
    for file in files(folder) {
        // SQLite removes the files beside a database when it closes that.
        let Ok(bytes) = std::fs::read(&file) else { continue };
        for secret in ["secret words", "private question", "a-key-that", "x-words", "set-cookie"] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} in {}", file.display());
        }
        searched.push(file.file_name().unwrap().to_str().unwrap().to_owned());
    }
    for name in ["ledger.db", "ledger.db-answers"] {
        assert!(searched.iter().any(|file| file == name), "{name} is not among {searched:?}");
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Not even a call that takes longer than `keep` loses its key at its charge.
#[tokio::test]
async fn a_key_belongs_to_its_call_for_the_whole_time_after_the_charge() {
    let counting = Counting::quick().await;
    let gateway = gateway(&counting, "[idempotency]\nkeep = \"1m\"").await;
    assert_eq!(ask(&gateway, "once", "{}").await.status, 200);
    let charged_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let folder = gateway.stop().await;
    let until = async |file: &str, table: &str| -> i64 {
        let path = folder.path().join(file).display().to_string();
        let mut connection = sqlx::SqliteConnection::connect(&path).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("SELECT until FROM {table}"));
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    };
    let claim = until("ledger.db", "claims").await;
    let longest_call_ms = 55 * 60 * 1000;
    assert!(claim >= charged_ms + longest_call_ms, "{} ms", claim - charged_ms);
    let keep_and_an_hour_ms = 61 * 60 * 1000;
    assert!(claim <= charged_ms + keep_and_an_hour_ms, "{} ms", claim - charged_ms);
    assert!(until("ledger.db-answers", "answers").await > claim, "the answer is there as long");
}
