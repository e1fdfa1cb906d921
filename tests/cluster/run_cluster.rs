//! `make run-cluster`: what it prints works when pasted, and nothing of it stays behind.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::servers::{Family, own_ports};

/// Runs a line as a shell would.
fn paste(line: &str) -> String {
    let output = Command::new("bash").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_cluster_s_lines_work_when_pasted() {
    let (folder, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/run-cluster.sh");
    let mut command = Command::new(script);
    command.env("FAREBOX_BIN", env!("CARGO_BIN_EXE_farebox")).env("TMPDIR", folder.path());
    let (first, count) = own_ports();
    command.env("FAREBOX_FIRST_PORT", first.to_string()).env("FAREBOX_PORTS", count.to_string());
    // The script keeps what it starts out of the terminal's process group.
    let mut cluster = Family::start(&mut command, &log.path().join("said"));
    let started = cluster.wait_until(|cluster| cluster.said().contains("redis.pid)"));
    let said = cluster.said();
    assert!(started, "{said}");
    let lines: Vec<&str> = (said.lines().map(str::trim))
        .filter(|line| line.starts_with("curl ") || line.starts_with("for "))
        .collect();
    let answers: Vec<String> = lines.iter().map(|line| paste(line)).collect();
    let answer = |needle: &str| {
        let found = lines.iter().position(|line| line.contains(needle));
        &answers[found.unwrap_or_else(|| panic!("no line with {needle}: {said}"))]
    };

    let paid: Vec<String> = answers[..2].iter().map(|answer| answer.to_lowercase()).collect();
    assert!(paid[0].contains("x-credits-remaining: 45"), "{}", paid[0]);
    assert!(paid[1].contains("x-credits-remaining: 40"), "{}", paid[1]);
    let balance: Value = serde_json::from_str(answer("/credits/balance")).unwrap();
    assert_eq!(balance["available"], 40, "{balance}");
    let codes: Vec<&str> = answer("for i in").lines().collect();
    assert_eq!(codes.iter().filter(|code| **code == "200").count(), 8, "{codes:?}");
    assert_eq!(codes.last(), Some(&"402"));
    assert!(answer("/grants").contains("20"), "{}", answer("/grants"));
    let report: Value = serde_json::from_str(answer("/reconcile")).unwrap();
    assert_eq!(report["clean"], true, "{report}");

    let status = cluster.end(Signal::INT);
    assert!(status.success(), "{}", cluster.said());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
