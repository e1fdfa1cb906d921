//! `farebox init`: a first gateway.toml, from four answers or from options.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::http::Answer;
use crate::process::{Process, command, fails, free_port, ok};
use crate::support::Upstream;

/// Values for the variables that a file may read.
const SECRETS: [(&str, &str); 3] = [
    ("JWT_SECRET", "a-jwt-secret-of-this-test-of-32-bytes"),
    ("STRIPE_SECRET_KEY", "sk_test_ofThisTest"),
    ("STRIPE_WEBHOOK_SECRET", "whsec_ofThisTest"),
];

fn written(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("gateway.toml")).unwrap()
}

/// `farebox init` with these lines as its standard input.
fn answer(folder: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut command = command(folder, &[&["init"], arguments].concat(), &[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_that_it_writes_serves_a_paid_call_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let upstream = Upstream::canned().await;
    let said = ok(at, &["init", "--yes", "--upstream", &format!("http://{}", upstream.address)]);
    assert!(said.contains("farebox serve") && said.contains("farebox key create"), "{said}");
    ok(at, &["check"]);
    let mut text = written(at);
    for port in ["8080", "9090"] {
        let usual = format!("= \"127.0.0.1:{port}\"");
        assert!(text.contains(&usual), "{text}");
        text = text.replace(&usual, &format!("= \"127.0.0.1:{}\"", free_port()));
    }
    let gateway = Process::serve(at, &text);
    ok(at, &["grant", "alice", "100"]);
    let made = ok(at, &["key", "create", "alice"]);
    let key = made.split_whitespace().find(|word| word.starts_with("fb_")).unwrap();
    let call = gateway.client.post(gateway.url("/api/generate")).bearer_auth(key).body("{}");
    let call = Answer::of(call).await;
    assert_eq!((call.status.as_u16(), call.header("x-credits-cost")), (200, "5"), "{}", call.text);
    assert_eq!(call.header("x-credits-remaining"), "95");
}

#[test]
fn whatever_is_answered_the_file_passes_the_check() {
    let callers = ["keys", "jwt", "https://login.example.com/.well-known/jwks.json"];
    for callers in callers {
        for sell in ["sandbox", "stripe", "by-hand"] {
            for price in ["/api/generate 5", "/v1/{model}/run 0.000001", "/a/{*rest} 12.5"] {
                let folder = tempfile::tempdir().unwrap();
                let at = folder.path();
                let options = ["--callers", callers, "--sell", sell, "--price", price];
                ok(at, &[&["init", "--yes", "--ledger", "a \"b\".db"][..], &options].concat());
                let check = command(at, &["check"], &SECRETS).output().unwrap();
                let said = String::from_utf8_lossy(&check.stderr).into_owned();
                assert!(check.status.success(), "{options:?}: {said}\n{}", written(at));
            }
        }
    }
}

#[test]
fn questions_are_asked_until_their_answers_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "localhost\nhttp://127.0.0.1:3000/path\nhttp://127.0.0.1:4000\n\
                 /api/paint\napi/paint 3\n/api/paint 0\n/api/paint 3\n\
                 nobody\njwt\n\nsandbox\n";
    let output = answer(folder.path(), &[], lines);
    let asked = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{asked}");
    for (question, times) in
        [("backend listen", 3), ("Which path", 4), ("who they are", 2), ("sold", 1)]
    {
        assert_eq!(asked.matches(question).count(), times, "{question}: {asked}");
    }
    let text = written(folder.path());
    for line in [
        "url = \"http://127.0.0.1:4000\"",
        "path = \"/api/paint\"",
        "credits = 3\n",
        "secret = \"${JWT_SECRET}\"",
        "sandbox = true",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // An option answers its question, and is not asked again.
    let other = tempfile::tempdir().unwrap();
    let options = ["--upstream", "http://127.0.0.1:4000", "--callers", "jwt"];
    let output = answer(other.path(), &options, "/api/paint 3\nsandbox\n");
    assert!(output.status.success());
    let without_token = |text: &str| {
        text.lines().filter(|line| !line.starts_with("admin_token")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_token(&written(other.path())), without_token(&text));
}

#[test]
fn answers_that_end_early_or_that_cannot_be_read_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = answer(folder.path(), &[], "http://127.0.0.1:4000\n");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--yes"), "{said}");
    for options in [
        ["--upstream", "ftp://127.0.0.1"],
        ["--price", "5"],
        ["--callers", "javascript:alert(1)"],
        ["--sell", "everything"],
    ] {
        fails(folder.path(), &[&["init", "--yes"][..], &options].concat(), 2);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_there_is_replaced_only_when_told_and_stays_beside_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("gateway.toml"), "# mine\n").unwrap();
    let said = fails(at, &["init", "--yes"], 1);
    assert!(said.contains("gateway.toml") && said.contains("--force"), "{said}");
    assert_eq!(written(at), "# mine\n");
    // The command refuses before it asks a question.
    let output = answer(at, &[], "");
    assert!(!String::from_utf8(output.stderr).unwrap().contains("backend"));
    ok(at, &["init", "--yes", "--force"]);
    ok(at, &["check"]);
    assert_eq!(std::fs::read_to_string(at.join("gateway.toml.old")).unwrap(), "# mine\n");
    ok(at, &["init", "--yes", "--config", "other.toml"]);
    ok(at, &["check", "--config", "other.toml"]);
}

#[test]
fn each_file_has_an_admin_token_of_its_own_that_only_its_owner_reads() {
    let tokens: Vec<String> = (0..2)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let said = ok(folder.path(), &["init", "--yes"]);
            let mode = std::fs::metadata(folder.path().join("gateway.toml")).unwrap();
            assert_eq!(mode.permissions().mode() & 0o777, 0o600);
            let text = written(folder.path());
            let line = text.lines().find(|line| line.starts_with("admin_token")).unwrap();
            let token = line.split('"').nth(1).unwrap().to_owned();
            assert_eq!(token.len(), 64);
            assert!(!said.contains(&token), "{said}");
            token
        })
        .collect();
    assert_ne!(tokens[0], tokens[1]);
}
