//! Commands beside a running gateway, and beside one that does not answer.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use http::Method;

use crate::process::{
    Process, address_of, bound_command, command, config_on_ports, fails, ok, run,
};
use crate::support::{ADMIN_TOKEN, JWT_SECRET, Upstream, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_speak_to_the_running_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(at, &text);

    // The gateway migrates by itself; beside it there is nothing to do, and nothing is done.
    fails(at, &["migrate"], 1);
    ok(at, &["grant", "alice", "100", "--id", "gift-7"]);
    ok(at, &["grant", "alice", "100", "--id", "gift-7"]);
    let call = gateway.post("alice", "/api/ai/generate").await;
    call.expect(200);
    let id = call.header("x-request-id");
    assert_eq!(gateway.account("alice").await["balance"], 95, "it is the same ledger");
    ok(at, &["account", "refund", id, "--reason", "slow"]);
    ok(at, &["account", "adjust", "alice", "-1", "--id", "fix"]);
    assert!(ok(at, &["account", "show", "alice"]).contains("balance 99,"));
    assert_eq!(ok(at, &["account", "transactions", "alice"]).lines().count(), 4);
    ok(at, &["grant", "a/b?c#d", "5"]);
    assert!(ok(at, &["account", "list"]).contains("a/b?c#d"));
    std::fs::write(at.join("old.csv"), "account,credits,id\nbob,7,old-1\n").unwrap();
    for _ in 0..2 {
        ok(at, &["import", "--csv", "old.csv"]);
    }
    assert_eq!(gateway.account("bob").await["balance"], 7);

    let made = ok(at, &["key", "create", "alice", "--name", "phone"]);
    let key = made.split_whitespace().find(|word| word.starts_with("fb_")).unwrap();
    let key_id = made.split_whitespace().find(|word| word.starts_with("key_")).unwrap();
    let called = async || {
        let request = gateway.client.get(gateway.url("/credits/balance")).bearer_auth(key);
        request.send().await.unwrap().status()
    };
    assert_eq!(called().await, 200);
    ok(at, &["key", "revoke", key_id]);
    assert_eq!(called().await, 401, "revoked at once");

    ok(at, &["backup", "copy.db"]);
    std::fs::write(at.join("copy.toml"), "[ledger]\npath = \"copy.db\"\n").unwrap();
    assert!(ok(at, &["account", "show", "alice", "-c", "copy.toml"]).contains("balance 99,"));
    assert!(ok(at, &["fold", "--before", "2020-01-01"]).contains("folded 0 "));
    assert!(ok(at, &["reconcile"]).contains("clean"));
    ok(at, &["healthcheck"]);
    // The ledger is beside its config, wherever the command is run.
    let elsewhere = tempfile::tempdir().unwrap();
    let config = at.join("gateway.toml");
    let shown = ok(elsewhere.path(), &["account", "show", "bob", "-c", config.to_str().unwrap()]);
    assert!(shown.contains("balance 7,"), "{shown}");

    // A second gateway on the same ledger does not start.
    let second = text.replace(&address_of(&text, "listen").to_string(), "127.0.0.1:0");
    let second = second.replace(&address_of(&text, "admin").to_string(), "127.0.0.1:0");
    std::fs::write(at.join("second.toml"), second).unwrap();
    fails(at, &["serve", "-c", "second.toml"], 1);

    assert!(gateway.terminate().success());
    fails(at, &["healthcheck"], 1);
    assert!(ok(at, &["account", "show", "alice"]).contains("balance 99,"), "without a gateway");
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_done_before_says_that_nothing_moved() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let upstream = Upstream::canned().await;
    let mut gateway = Process::serve(at, &config_on_ports(upstream.address, ""));
    gateway.grant("alice", 100, "gift").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let call = gateway.post("alice", "/api/ai/generate").await;
        ids.push(call.header("x-request-id").to_owned());
    }
    // Once while a gateway runs, and once while none does.
    for (id, with) in [(&ids[0], true), (&ids[1], false)] {
        if !with {
            assert!(gateway.terminate().success());
        }
        // As `account transactions` prints the call.
        let capture = format!("capture:{id}");
        let (part, whole) = (format!("part-{with}"), format!("grant-{with}"));
        for command in [
            &["grant", "alice", "5", "--id", &whole][..],
            &["account", "adjust", "alice", "-1", "--id", &whole],
            &["account", "refund", &capture, "--credits", "2", "--id", &part],
            &["account", "refund", &capture],
            &["account", "refund", id],
        ] {
            let is_again = command[2] == *id;
            let balance = |shown: String| shown.split_once(',').unwrap().0.to_owned();
            let first = ok(at, command);
            assert_eq!(first.contains("nothing moved this time"), is_again, "{command:?}: {first}");
            let before = balance(ok(at, &["account", "show", "alice"]));
            let again = ok(at, command);
            assert!(again.contains("nothing moved this time"), "{command:?}: {again}");
            assert_eq!(balance(ok(at, &["account", "show", "alice"])), before);
        }
    }
    ok(at, &["account", "refund", &ids[2], "--reason", "it was slow"]);
    let lines = ok(at, &["account", "transactions", "alice"]);
    let newest = lines.lines().next().unwrap();
    assert!(newest.ends_with("  it was slow"), "{lines}");
}

/// Every file in `at` with its content.
fn snapshot(at: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(at)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_ledger_in_use_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    std::fs::write(at.join("gateway.toml"), text).unwrap();
    ok(at, &["grant", "alice", "100", "--id", "gift-7"]);
    std::fs::write(at.join("old.csv"), "account,credits,id\nbob,7,old-1\n").unwrap();
    let lock = std::fs::File::options().write(true).open(at.join("ledger.db.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();

    let before = snapshot(at);
    for arguments in [
        &["grant", "alice", "5"][..],
        &["account", "adjust", "alice", "-5"],
        &["account", "show", "alice"],
        &["account", "list"],
        &["key", "create", "alice"],
        &["key", "list", "alice"],
        &["import", "--csv", "old.csv"],
        &["fold", "--before", "2020-01-01"],
        &["reconcile"],
        &["serve"],
    ] {
        let errors = fails(at, arguments, 1);
        assert!(!errors.is_empty() && !errors.contains(ADMIN_TOKEN), "{arguments:?}: {errors}");
        assert!(snapshot(at) == before, "{arguments:?} touched something");
    }
    let migrated = run(at, &["migrate"]);
    assert_eq!(migrated.status.code(), Some(1));
    assert!(snapshot(at) == before);
    drop(lock);
    assert!(ok(at, &["account", "show", "alice"]).contains("balance 100,"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_speaks_another_token_is_not_asked_twice() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let gateway = Process::serve(folder.path(), &text);
    let other = text.replace(ADMIN_TOKEN, "another-token-that-is-wrong");
    std::fs::write(folder.path().join("other.toml"), other).unwrap();
    let errors = fails(folder.path(), &["grant", "alice", "5", "-c", "other.toml"], 1);
    assert!(errors.contains("UNAUTHENTICATED"), "{errors}");
    assert!(errors.contains("admin_token") && errors.contains("other.toml"), "{errors}");
    assert!(!errors.contains("Bearer") && !errors.contains("another-token"), "{errors}");
    let list = gateway.admin(Method::GET, "/admin/accounts", "").await.expect(200);
    assert_eq!(list["accounts"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_json_tell_what_was_used_and_keep_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let text = text.replace(
        "name = \"ai\"",
        "name = \"ai\"\nheaders = { authorization = \"Bearer sk-of-the-upstream\" }",
    );
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let debug = [("RUST_LOG", "trace")];
    let serve = command(folder.path(), &["serve", "--log-format", "json"], &debug);
    let mut gateway =
        Process::start(serve, address_of(&text, "listen"), address_of(&text, "admin"));
    gateway.grant("alice", 100, "gift").await;
    let key = gateway.admin(Method::POST, "/admin/accounts/alice/keys", "{}").await.json();
    let key = key["key"].as_str().unwrap().to_owned();
    let jwt = token("alice");
    let mut ids = Vec::new();
    for credential in [&jwt, &key] {
        let request = gateway.client.post(gateway.url("/api/ai/generate"));
        let answer = request.bearer_auth(credential).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        ids.push(answer.headers()["x-request-id"].to_str().unwrap().to_owned());
    }
    let secret = "sk-of-the-upstream";
    assert_eq!(upstream.seen()[0].header("authorization"), Some("Bearer sk-of-the-upstream"));
    let wrong = format!("{jwt}x");
    let request = gateway.client.post(gateway.url("/api/ai/generate")).bearer_auth(&wrong);
    assert_eq!(request.send().await.unwrap().status(), 401);
    assert!(gateway.terminate().success());
    gateway.wait_for_logs();

    let log = gateway.stderr();
    let mut used = Vec::new();
    for line in log.lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if line["message"] == "credit usage" {
            used.push(line);
        }
    }
    assert_eq!(used.len(), 2, "{log}");
    for (n, line) in used.iter().enumerate() {
        assert_eq!(line["account"], "alice", "{line}");
        assert_eq!(line["route"], "/api/ai/generate", "{line}");
        assert_eq!(line["request_id"], ids[n], "{line}");
        let number = |key: &str| line[key].to_string().trim_matches('"').to_owned();
        assert_eq!(number("cost"), "5", "{line}");
        assert_eq!(number("available_after"), (95 - 5 * n).to_string(), "{line}");
        assert!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
    }
    let all = log + &gateway.stdout();
    for secret in [JWT_SECRET, ADMIN_TOKEN, secret, &key, &jwt, &wrong] {
        let line = all.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "a secret is in the log: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_file_is_taken_up_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "gift").await;
    let cost = async |gateway: &Process| {
        let answer = gateway.post("alice", "/api/ai/generate").await;
        answer.expect(200);
        answer.header("x-credits-cost").to_owned()
    };
    assert_eq!(cost(&gateway).await, "5");

    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text.replace("credits = 5", "credits = 5\nunknown_key = true")).unwrap();
    gateway.signal("HUP");
    gateway.wait_until(|gateway| gateway.stderr().contains("unknown_key"));
    assert!(gateway.stderr().contains("gateway.toml:"), "{}", gateway.stderr());
    assert_eq!(cost(&gateway).await, "5");

    let packs = "\n[[packs]]\nid = \"p\"\nname = \"P\"\ncredits = 10\nprice = \"1.00 EUR\"\n";
    let good = text.replace("credits = 5", "credits = 7") + packs;
    std::fs::write(&file, good).unwrap();
    gateway.signal("HUP");
    gateway.wait_until(|gateway| gateway.stderr().contains("applied the new prices"));
    assert_eq!(cost(&gateway).await, "7");
    let listed = gateway.client.get(gateway.url("/credits/packs")).send().await.unwrap();
    let listed: serde_json::Value = listed.json().await.unwrap();
    assert_eq!(listed[0]["id"], "p");
    assert_eq!(gateway.account("alice").await["balance"], 83);
    assert_eq!(gateway.terminate().code(), Some(0));
}

/// The next start with such a file would exit with 2, so no command may report that the file was taken up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_a_section_that_only_a_start_takes_up_changes_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "gift").await;
    let file = folder.path().join("gateway.toml");
    let cheaper = text.replace("credits = 5", "credits = 1");
    let under = |header: &str, line: &str| cheaper.replace(header, &format!("{header}\n{line}"));
    let mistaken = [
        ("threads", under("[server]", "threads = \"many\"")),
        ("hold_tll", under("[ledger]", "hold_tll = \"2s\"")),
        ("is missing or empty", cheaper.replace("algorithms = [\"HS256\"]", "algorithms = []")),
        ("low_balance", format!("{cheaper}\n[credits]\nlow_balance = -1\n")),
        ("success_url", format!("{cheaper}\n[stripe]\nsecret_key = \"sk_test_1\"\n")),
    ];
    for (n, (said, text)) in mistaken.iter().enumerate() {
        assert_ne!(*text, cheaper, "{said}");
        std::fs::write(&file, text).unwrap();
        let errors = fails(folder.path(), &["check"], 2);
        assert!(errors.contains(said), "{errors}");
        gateway.signal("HUP");
        gateway.wait_until(|gateway| {
            assert!(
                !gateway.stderr().contains("applied the new prices"),
                "{said}: {}",
                gateway.stderr()
            );
            gateway.stderr().matches("was not applied").count() == n + 1
        });
        assert!(gateway.stderr().contains(said), "{said}: {}", gateway.stderr());
        let call = gateway.post("alice", "/api/ai/generate").await;
        assert_eq!(call.header("x-credits-cost"), "5", "{said}");
    }
    std::fs::write(&file, &cheaper).unwrap();
    gateway.signal("HUP");
    gateway.wait_until(|gateway| gateway.stderr().contains("applied the new prices"));
    let call = gateway.post("alice", "/api/ai/generate").await;
    assert_eq!(call.header("x-credits-cost"), "1");
    assert_eq!(gateway.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthcheck_asks_the_health_listener() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let port = crate::process::free_port();
    let text = config_on_ports(upstream.address, "");
    let text = text.replace("[server]", &format!("[server]\nhealth = \"0.0.0.0:{port}\""));
    let mut gateway = Process::serve(folder.path(), &text);
    ok(folder.path(), &["healthcheck"]);
    gateway.kill();
    fails(folder.path(), &["healthcheck"], 1);
    // Another server on that port does not count as a gateway that lives.
    fails(folder.path(), &["healthcheck", "-c", "nowhere.toml"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_gateway_says_so_and_serves_until_it_is_out_of_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    let text = text.replace("[server]", "[server]\ndrain_delay = \"1s\"");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "gift").await;
    let readyz = async |gateway: &Process| {
        let url = format!("http://{}/readyz", gateway.admin);
        gateway.client.get(url).send().await.unwrap().status().as_u16()
    };
    assert_eq!(readyz(&gateway).await, 200);
    gateway.signal("TERM");
    assert!(crate::support::eventually(async || readyz(&gateway).await == 503).await);
    gateway.post("alice", "/api/ai/generate").await.expect(200);
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(ok(folder.path(), &["account", "show", "alice"]).contains("balance 95,"));
    assert!(ok(folder.path(), &["reconcile"]).contains("clean"));
}

#[test]
fn a_port_that_is_taken_touches_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
    let taken = std::net::TcpListener::bind(address_of(&text, "listen")).unwrap();
    let errors = fails(folder.path(), &["serve"], 1);
    assert!(errors.contains(&taken.local_addr().unwrap().to_string()), "{errors}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the config alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_has_one_writer_by_whatever_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, "");
    ok_migrated(at, &text);
    let gateway = Process::serve(at, &text);
    gateway.grant("alice", 100, "gift").await;
    std::os::unix::fs::symlink(at.join("ledger.db"), at.join("link.db")).unwrap();
    std::fs::create_dir(at.join("folder")).unwrap();
    let mut other = config_on_ports(upstream.address, "").replace("ledger.db", "link.db");
    for path in ["link.db", "folder/../ledger.db"] {
        other = other.replace("link.db", path);
        std::fs::write(at.join("other.toml"), &other).unwrap();
        let mut second = command(at, &["serve", "-c", "other.toml"], &[]);
        let second = second.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut second = second.spawn().unwrap();
        let ended = crate::support::eventually(async || second.try_wait().unwrap().is_some());
        let ended = ended.await;
        let _ = second.kill();
        let status = second.wait().unwrap();
        assert!(ended && status.code() == Some(1), "{path}: a second writer: {status}");
    }
}

fn ok_migrated(at: &Path, text: &str) {
    std::fs::write(at.join("gateway.toml"), text).unwrap();
    ok(at, &["migrate"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_end_is_cut_off_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let silent = axum::Router::new().fallback(std::future::pending::<&'static str>);
    let upstream = Upstream::start(silent).await;
    let text = config_on_ports(upstream.address, "");
    let text = text.replace("[server]", "[server]\nshutdown_timeout = \"300ms\"");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "gift").await;
    let request = gateway.client.post(gateway.url("/api/ai/generate"));
    let call = tokio::spawn(request.bearer_auth(token("alice")).send());
    assert!(crate::support::eventually(async || upstream.seen().len() == 1).await);
    assert_eq!(gateway.account("alice").await["held"], 5);
    gateway.signal("INT");
    assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.stderr());
    assert!(call.await.unwrap().is_err(), "it was cut off");
    assert!(ok(folder.path(), &["account", "show", "alice"]).contains("balance 100, held 0,"));
}

#[test]
fn a_start_on_what_cannot_be_written_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = config_on_ports("127.0.0.1:1".parse().unwrap(), "");
    let text = text.replace("\"ledger.db\"", "\"data/ledger.db\"");
    std::fs::write(at.join("gateway.toml"), &text).unwrap();
    let refused = |what: &str, hints: &[&str]| {
        for arguments in [&["serve"][..], &["grant", "alice", "5"], &["reconcile"]] {
            let output = bound_command(at, arguments).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{what}, {arguments:?}: {errors}");
            for hint in hints {
                assert!(errors.contains(hint), "{what}, {arguments:?}: {errors}");
            }
        }
    };
    let set_mode = |name: &str, mode: u32| {
        std::fs::set_permissions(at.join(name), Permissions::from_mode(mode)).unwrap();
    };
    refused("no folder", &["data/ledger.db", "make the folder"]);

    std::fs::create_dir(at.join("data")).unwrap();
    let read_only =
        ["ledger.db", "cannot be written", "the user that runs farebox", "[ledger] path"];
    set_mode("data", 0o555);
    refused("a folder that may only be read", &read_only);
    set_mode("data", 0o755);
    ok(at, &["grant", "alice", "5"]);
    for name in ["ledger.db", "ledger.db.lock"] {
        set_mode(&format!("data/{name}"), 0o444);
        refused(name, &read_only);
        set_mode(&format!("data/{name}"), 0o644);
    }
    set_mode("data", 0o555);
    refused("a folder in which there is a ledger already", &read_only);
    set_mode("data", 0o755);
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_gateway_did_not_hear_it_does_not_do_later() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let upstream = Upstream::canned().await;
    let gateway = Process::serve(at, &config_on_ports(upstream.address, ""));
    gateway.grant("alice", 5, "gift").await;
    gateway.signal("STOP");
    let said = fails(at, &["grant", "alice", "100"], 1);
    gateway.signal("CONT");
    assert!(said.contains("nothing was changed"), "{said}");
    ok(at, &["account", "adjust", "alice", "1"]);
    assert_eq!(gateway.account("alice").await["balance"], 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_sends_in_the_query_is_not_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", crate::support::servers::free_port());
    let text = config_on_ports(nobody.parse().unwrap(), "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 5, "gift").await;
    let call = gateway.post("alice", "/api/ai/generate?key=sesame").await;
    call.problem(502, "UPSTREAM_FAILED");
    let id = call.header("x-request-id");
    let is_told = |line: &str| line.contains(id) && line.contains("\"POST /api/ai/generate\"");
    gateway.wait_until(|gateway| gateway.stderr().lines().any(is_told));
    assert!(gateway.terminate().success());
    gateway.wait_for_logs();
    assert!(!gateway.stderr().contains("sesame"), "{}", gateway.stderr());
}
