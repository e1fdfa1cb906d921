//! The texts that an operator reads: help, warnings, and the log.

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::Answer;
use crate::process::{Process, command, config_on_ports, fails, ok, run};
use crate::support::{Upstream, config_text};

#[test]
fn what_a_command_does_is_shown_by_its_long_help_and_its_summary_by_the_short_one() {
    let folder = tempfile::tempdir().unwrap();
    let all = ok(folder.path(), &["--help"]);
    for (name, summary, more) in [
        ("serve", "forward priced calls", "SIGHUP applies new prices"),
        ("demo", "with no file and no server", "All of it is gone when the demo stops"),
        ("check", "a config, line by line", "exit code 2"),
        ("import", "Import accounts", "--csv"),
        ("grant", "Give credits", "grants nothing again"),
        ("prices", "the price table", "smallest pack's price"),
        ("reconcile", "the ledger is consistent", "exit code 1"),
        ("recover", "a recovery of Redis", "hand over the batches"),
        ("backup", "Copy the ledger", "at one moment"),
        ("fold", "opening balances", "kept for an archive"),
        ("migrate", "the ledger's schema", "if there is none"),
        ("healthcheck", "a running gateway lives", "Exit code 0"),
    ] {
        let (short, long) =
            (ok(folder.path(), &[name, "-h"]), ok(folder.path(), &[name, "--help"]));
        let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain(&all).contains(summary), "{name}: {all}");
        assert!(plain(&short).contains(summary), "{name}: {short}");
        assert!(plain(&long).contains(more), "{name}: {long}");
        let description = short.split("Usage:").next().unwrap();
        assert!(!plain(description).contains(more), "{name}: {short}");
    }
}

/// `check` prints these warnings and succeeds. A start and a reload log them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubtful_settings_are_warnings_with_file_line_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let route =
        |path: &str| format!("[[routes]]\npath = \"{path}\"\nupstream = \"ai\"\ncredits = 1\n");
    let more = [
        "[[packs]]\nid = \"p\"\ncredits = 100\nprice = \"19.00 EUR\"\n".to_owned(),
        route("/v1/images/*"),
        route("/**"),
        route("/v1/models/:model"),
        route("/dear") + "cost = \"0.20 EUR\"\n",
    ];
    let text = config_on_ports(upstream.address, &more.concat());
    let text = text.replace("admin = \"127.0.0.1:", "admin = \"0.0.0.0:");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let line_of = |part: &str| {
        1 + text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}"))
    };
    let expected = [
        (line_of("admin = "), "0.0.0.0", "127.0.0.1"),
        (line_of("/v1/images/*"), "/v1/images/*", "/v1/images/{*rest}"),
        (line_of("/**"), "/**", "/{*rest}"),
        (line_of("/v1/models/:model"), ":model", "/v1/models/{model}"),
        (line_of("path = \"/dear\"") + 2, "0.20 EUR", "raise `credits`"),
    ];
    let said = ok(folder.path(), &["check"]);
    for (line, what, hint) in expected {
        let place = format!("gateway.toml:{line}: warning: ");
        let at = said.find(&place).unwrap_or_else(|| panic!("no {place}:\n{said}"));
        let warning: String = said[at..].lines().take(2).collect::<Vec<_>>().join("\n");
        assert!(warning.contains(what) && warning.contains("hint: "), "{place}:\n{said}");
        assert!(warning.contains(hint), "{place} {hint}:\n{said}");
    }
    assert_eq!(said.matches("warning: ").count(), expected.len(), "{said}");
    assert!(said.contains("is good"), "{said}");

    let mut gateway = Process::serve(folder.path(), &text);
    let is_logged = |gateway: &Process, times: usize| {
        let log = gateway.stderr();
        let count = |(line, what, _): &(usize, &str, &str)| {
            let place = format!("gateway.toml:{line}");
            let at_warn = |said: &&str| said.contains(" WARN ") && said.contains(&place);
            log.lines().filter(at_warn).filter(|said| said.contains(what)).count()
        };
        expected.iter().all(|one| count(one) == times)
    };
    assert!(is_logged(&gateway, 1), "{}", gateway.stderr());
    gateway.signal("HUP");
    gateway.wait_until(|gateway| is_logged(gateway, 2));
    assert_eq!(gateway.terminate().code(), Some(0));
}

#[test]
fn a_postgres_on_another_machine_without_sslmode_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let text = |url: &str| {
        format!(
            "[server]\nadmin_token = \"0123456789abcdef\"\n[ledger]\nbackend = \"redis\"\n\
             redis_url = \"redis://127.0.0.1\"\npostgres_url = \"{url}\"\n\
             [[upstreams]]\nname = \"ai\"\nurl = \"http://127.0.0.1:1\"\n\
             [[routes]]\npath = \"/a\"\nupstream = \"ai\"\ncredits = 5\n"
        )
    };
    let checked = |url: &str| {
        std::fs::write(folder.path().join("gateway.toml"), text(url)).unwrap();
        ok(folder.path(), &["check"])
    };
    let said = checked("postgres://u:hunter2-the-password@db.example/farebox");
    assert!(said.contains("gateway.toml:6: warning: `postgres_url`"), "{said}");
    assert!(said.contains("sslmode=verify-full") && !said.contains("hunter2"), "{said}");
    for quiet in ["postgres://u:p@db.example/farebox?sslmode=require", "postgres://u:p@127.0.0.1/f"]
    {
        assert!(!checked(quiet).contains("warning"), "{quiet}");
    }
}

#[test]
fn single_brackets_where_a_list_is_meant_get_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let server = "[server]\nadmin_token = \"0123456789abcdef\"\n";
    let upstream = "[[upstreams]]\nname = \"ai\"\nurl = \"http://127.0.0.1:1\"\n";
    let route =
        |path: &str| format!("[routes]\npath = \"{path}\"\nupstream = \"ai\"\ncredits = 1\n");
    let jwt =
        "[auth.jwt]\nalgorithms = [\"HS256\"]\nsecret = \"a-secret-of-thirty-two-bytes-or-more\"\n";
    for (text, hint) in [
        (route("/a"), "[[routes]]"),
        (route("/a") + &route("/b"), "[[routes]]"),
        ("[packs]\nid = \"p\"\ncredits = 1\nprice = \"1.00 EUR\"\n".to_owned(), "[[packs]]"),
        (jwt.to_owned(), "[[auth.jwt]]"),
        (jwt.repeat(2), "[[auth.jwt]]"),
    ] {
        let file = folder.path().join("gateway.toml");
        std::fs::write(file, format!("{server}{upstream}{text}")).unwrap();
        let errors = fails(folder.path(), &["check"], 2);
        let is_hint = |line: &str| line.contains("hint: ") && line.contains(hint);
        assert!(errors.lines().any(is_hint), "{hint}:\n{errors}");
        assert!(errors.contains("gateway.toml:"), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_says_which_settings_wait_for_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(folder.path(), &text);
    let file = folder.path().join("gateway.toml");
    let waits = |gateway: &Process| {
        let log = gateway.stderr();
        let lines = log.lines().filter(|line| line.contains("wait for a restart"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };

    // A reload applies prices, so no setting waits for a restart.
    std::fs::write(&file, text.replace("credits = 5", "credits = 6")).unwrap();
    gateway.signal("HUP");
    gateway.wait_until(|gateway| gateway.stderr().contains("applied the new prices"));
    assert_eq!(waits(&gateway), [""; 0]);

    let secret = "another-secret-of-thirty-two-bytes-or-more";
    let port = |text: &str| text.replace("listen = \"127.0.0.1:", "listen = \"127.0.0.2:");
    let changed = port(&text)
        .replace(crate::support::JWT_SECRET, secret)
        .replace("path = \"ledger.db\"", "path = \"other.db\"")
        + "\n[credits]\nlow_balance = 7\n[api]\ncors_origins = [\"https://app.example.com\"]\n";
    std::fs::write(&file, changed).unwrap();
    gateway.signal("HUP");
    gateway.wait_until(|gateway| waits(gateway).len() == 1);
    let said = waits(&gateway).remove(0);
    for key in [
        "server.listen",
        "ledger.path",
        "credits.low_balance",
        "auth.jwt[0].secret",
        "api.cors_origins[0]",
    ] {
        assert!(said.contains(key), "{key}: {said}");
    }
    for other in ["admin", "routes", "upstreams", secret] {
        assert!(!said.contains(other), "{other}: {said}");
    }

    // The file is as it was, so no setting waits any more.
    std::fs::write(&file, &text).unwrap();
    gateway.signal("HUP");
    gateway.wait_until(|gateway| gateway.stderr().matches("applied the new prices").count() == 3);
    assert_eq!(waits(&gateway).len(), 1);
    assert_eq!(gateway.terminate().code(), Some(0));
}

/// Every line that a gateway writes, and amounts to their last decimal, which a float does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_json_log_every_line_is_json_and_amounts_are_exact_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let (cost, funds) = ("4503599627.370497", "9007199254.740991");
    let text = config_on_ports(
        upstream.address,
        "[[routes]]\npath = \"/*\"\nupstream = \"ai\"\ncredits = 1\n",
    );
    let text = text.replacen("credits = 5", &format!("credits = {cost}"), 1);
    let mut gateway = Process::serve_with(folder.path(), &text, &["--log-format", "json"]);
    let grant = format!(r#"{{"credits":"{funds}","id":"g","reason":"\"quoted\" \u0007"}}"#);
    let granted = "/admin/accounts/alice/grants";
    gateway.admin(http::Method::POST, granted, &grant).await.expect(200);
    gateway.post("alice", "/api/ai/generate").await.expect(200);
    gateway.signal("HUP");
    gateway.wait_until(|gateway| gateway.stderr().contains("applied the new prices"));
    gateway.wait_until(|gateway| gateway.stderr().contains("credit usage"));
    assert_eq!(gateway.terminate().code(), Some(0));
    gateway.wait_for_logs();
    let said = gateway.stdout() + &gateway.stderr();
    let mut usage = None;
    for line in said.lines() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "message", "target"] {
            assert!(value[key].is_string(), "{key}: {line}");
        }
        if value["message"] == "credit usage" {
            usage = Some(line.to_owned());
        }
    }
    let usage = usage.unwrap_or_else(|| panic!("{said}"));
    assert!(usage.contains(&format!("\"cost\":{cost},")), "{usage}");
    assert!(usage.contains("\"available_after\":4503599627.370494,"), "{usage}");
    let usage: Value = serde_json::from_str(&usage).unwrap();
    assert_eq!((&usage["account"], &usage["route"]), (&"alice".into(), &"/api/ai/generate".into()));

    // A start that fails says so in JSON, too.
    std::fs::write(folder.path().join("bad.toml"), "nonsense = [\n").unwrap();
    let failed = run(folder.path(), &["serve", "-c", "bad.toml", "--log-format", "json"]);
    assert_eq!(failed.status.code(), Some(2));
    let said =
        String::from_utf8(failed.stdout).unwrap() + &String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("bad.toml"), "{said}");
    for line in said.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

/// Webhooks without a signature, and connections that break off in the middle of a head: anybody can
/// send as many as they like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anybody_s_lines_are_a_few_a_second_and_the_rest_is_counted() {
    const MANY: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let stripe = "[stripe]\nsecret_key = \"sk_test_1\"\nwebhook_secret = \"whsec_of_the_tests\"\n\
                  success_url = \"https://app.example.com/\"\ncancel_url = \"https://app.example.com/\"\n";
    let text = config_on_ports(upstream.address, stripe);
    let mut gateway = Process::serve_with(folder.path(), &text, &["--log-format", "json"]);
    gateway.grant("alice", 10, "gift").await;
    let begun = std::time::Instant::now();
    for _ in 0..MANY {
        let webhook = gateway.client.post(gateway.url("/webhooks/stripe")).body("{}");
        Answer::of(webhook.header("stripe-signature", "t=1,v1=00")).await.expect(400);
        let mut half = TcpStream::connect(gateway.public).await.unwrap();
        half.write_all(b"POST /api/ai/generate HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        // Closed by a reset.
        half.set_zero_linger().unwrap();
        // Gone before the answer: nothing of its path stands in the log.
        let mut gone = TcpStream::connect(gateway.public).await.unwrap();
        gone.write_all(b"GET /credits/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        gone.set_zero_linger().unwrap();
    }
    let seconds = begun.elapsed().as_secs() as usize + 2;
    // Lines about paid calls are never left out.
    gateway.post("alice", "/api/ai/generate").await.expect(200);
    let left_out = |gateway: &Process| -> u64 {
        let log = gateway.stderr();
        let lines = log.lines().filter(|line| line.contains("left out log lines"));
        lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()?["lines"].as_u64()).sum()
    };
    let refused = |gateway: &Process| gateway.stderr().matches("refused a webhook").count();
    gateway.wait_until(|gateway| refused(gateway) as u64 + left_out(gateway) >= MANY as u64);
    gateway.wait_until(|gateway| gateway.stderr().contains("credit usage"));
    assert!(refused(&gateway) <= 6 * seconds, "{} in {seconds} s", refused(&gateway));
    assert_eq!(gateway.terminate().code(), Some(0));
    gateway.wait_for_logs();
    let log = gateway.stderr();
    let of_pingora = log.lines().filter(|line| line.contains("\"target\":\"pingora"));
    let of_pingora = of_pingora.count();
    assert!(of_pingora <= 2 * 6 * seconds, "{of_pingora} in {seconds} s:\n{log}");
    assert!(!log.contains("openapi.json"), "{log}");
}

/// An upstream sends something that is no head. The log names the upstream and the call, and quotes nothing of the
/// bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_cannot_be_read_is_not_in_the_log() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let head =
                "HTTP/1.1 200 OK\r\nset-cookie: session=hunter2-of-a-cookie\r\nb\0ad: 1\r\n\r\n";
            let _ = socket.write_all(head.as_bytes()).await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports(address, "");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    for level in ["info", "debug"] {
        let command = command(folder.path(), &["serve"], &[("RUST_LOG", level)]);
        let at = |key| crate::process::address_of(&text, key);
        let mut gateway = Process::start(command, at("listen"), at("admin"));
        gateway.grant("alice", 10, "gift").await;
        let answer = gateway.post("alice", "/api/ai/generate").await;
        answer.expect(502);
        let id = answer.header("x-request-id").to_owned();
        gateway.wait_until(|gateway| gateway.stderr().contains("a call failed"));
        assert_eq!(gateway.terminate().code(), Some(0));
        gateway.wait_for_logs();
        let log = gateway.stderr();
        let line = log.lines().find(|line| line.contains("a call failed")).unwrap();
        for part in ["InvalidHTTPHeader", "ai", "POST /api/ai/generate", &id] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!log.contains("hunter2"), "{level}: {log}");
    }
}

/// A kept connection may be one that its upstream was just closing. The operator can prevent that with
/// `keepalive_timeout`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_says_which_connection_it_was_and_how_it_ended() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = socket.read(&mut request).await;
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        // The upstream hangs up upon the second request.
        let _ = socket.read(&mut request).await;
    });
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Process::serve(folder.path(), &config_on_ports(address, ""));
    gateway.grant("alice", 20, "gift").await;
    gateway.post("alice", "/api/ai/generate").await.expect(200);
    gateway.post("alice", "/api/ai/generate").await.expect(502);
    accepting.await.unwrap();
    // The upstream listens no more.
    gateway.post("alice", "/api/ai/generate").await.expect(502);
    assert_eq!(gateway.terminate().code(), Some(0));
    gateway.wait_for_logs();
    let log = gateway.stderr();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("a call failed")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, parts) in [
        (lines[0], ["\"kept\"", "\"closed\"", &*address.to_string(), "ConnectionClosed"]),
        (lines[1], ["\"connect\"", "failed_connections=1", &*address.to_string(), "refused"]),
    ] {
        for part in parts {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}

#[test]
fn a_start_that_fails_says_why_however_logs_are_filtered() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let config = config_text(([127, 0, 0, 1], 9).into(), "").replacen("127.0.0.1:0", &taken, 1);
    std::fs::write(at.join("gateway.toml"), config).unwrap();
    for filter in ["", " ", "off", "somebody_else=debug", "info"] {
        for format in ["json", "text"] {
            let arguments = ["serve", "--log-format", format];
            let output = command(at, &arguments, &[("RUST_LOG", filter)]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            let line = said.lines().last().unwrap_or_default();
            assert!(line.contains(&taken), "RUST_LOG={filter:?} {format}: {said}");
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["level"], "ERROR", "{line}");
            }
        }
    }
    // The demo has no [server] to look into.
    let errors = fails(at, &["demo", "--listen", &taken, "--admin", "127.0.0.1:0"], 1);
    assert!(errors.contains("--listen") && !errors.contains("[server]"), "{errors}");
}
