//! The command line, by the real binary.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::imports::write_keys;
use crate::process::{command, fails, ok, run};
use crate::support::config_text;
use crate::support::h2::{TLS, write_certificate};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.toml");
const SECRETS: [(&str, &str); 2] = [
    ("FAREBOX_ADMIN_TOKEN", "an-admin-token-of-this-test"),
    ("JWT_SECRET", "a-jwt-secret-of-this-test-of-32-bytes"),
];

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_command_has_help_and_takes_a_config() {
    let folder = folder();
    for words in [
        &["serve"][..],
        &["demo"],
        &["check"],
        &["migrate"],
        &["import"],
        &["grant"],
        &["account"],
        &["key"],
        &["prices"],
        &["packs"],
        &["models"],
        &["models", "list"],
        &["reconcile"],
        &["healthcheck"],
        &["backup"],
        &["fold"],
        &["account", "list"],
        &["account", "show"],
        &["account", "transactions"],
        &["account", "adjust"],
        &["account", "refund"],
        &["key", "create"],
        &["key", "list"],
        &["key", "revoke"],
        &["key", "import"],
        &["stripe"],
        &["stripe", "reconcile"],
        &["stripe", "events"],
        &["stripe", "replay"],
        &["packs", "sync"],
        &["recover"],
        &["init"],
        &["completions"],
        &["man"],
    ] {
        let help = ok(folder.path(), &[words, &["--help"]].concat());
        assert!(help.contains("Usage: farebox"), "{words:?}: {help}");
        assert!(help.contains("--config"), "{words:?}: {help}");
        let parent = ok(folder.path(), &[&words[..words.len() - 1], &["--help"]].concat());
        assert!(parent.contains(words[words.len() - 1]), "{words:?}");
    }
    assert!(ok(folder.path(), &["--version"]).starts_with("farebox "));
    fails(folder.path(), &["nonsense"], 2);
    fails(folder.path(), &[], 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn the_shipped_config_is_good() {
    let folder = folder();
    let arguments = ["check", "--config", SHIPPED];
    let output = command(folder.path(), &arguments, &SECRETS).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let all = text(&output.stdout) + &text(&output.stderr);
    for (_, secret) in SECRETS {
        assert!(!all.contains(secret), "{all}");
    }

    let output = command(folder.path(), &arguments, &SECRETS[..1]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.contains("JWT_SECRET") && errors.contains("gateway.toml:"), "{errors}");
    assert!(!errors.contains(SECRETS[0].1), "{errors}");
}

#[test]
fn a_check_says_how_much_memory_the_connections_may_take() {
    let folder = folder();
    let text = config_text(([127, 0, 0, 1], 9).into(), "");
    let unread = "answers that clients do not read may take 188 MiB, 192 KiB for each";
    for (more, said) in [
        ("max_connections = 1000", "313 MiB, 320 KiB for each of 1000 connections"),
        ("max_connections = 1000\nmax_header_bytes = 1048576", "2188 MiB, 2240 KiB for each"),
    ] {
        let text = text.replace("[server]\n", &format!("[server]\n{more}\n"));
        std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
        let said_all = ok(folder.path(), &["check"]);
        assert!(said_all.contains(said) && said_all.contains(unread), "{said_all}");
    }
    // HTTP/2 comes with TLS, and brings its windows.
    write_certificate(folder.path());
    let text = text.replace("[server]\n", &format!("[server]\nmax_connections = 1000\n{TLS}\n"));
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let said = ok(folder.path(), &["check"]);
    assert!(said.contains("20 GiB, 20 MiB for each of 1000 connections"), "{said}");
    let unread = "answers that clients do not read may take 57 GiB, 58 MiB for each";
    assert!(said.contains(unread), "{said}");
    // As many as this machine lets a process open, if that is fewer.
    let shell = "ulimit -Sn 600; ulimit -Hn 600; exec \"$0\" check";
    let mut shell_command = std::process::Command::new("sh");
    let shell_command = shell_command.args(["-c", shell, env!("CARGO_BIN_EXE_farebox")]);
    let output = shell_command.current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let fitting = said.split_once("at a time: ").unwrap().1.split_once(',').unwrap().0;
    assert!(fitting.parse::<u32>().unwrap() < 300, "{said}");
    assert!(said.contains(&format!("20 MiB for each of {fitting} connections")), "{said}");
}

#[test]
fn serving_without_a_variable_is_refused() {
    let folder = folder();
    let errors = fails(folder.path(), &["serve", "--config", SHIPPED], 2);
    assert!(errors.contains("FAREBOX_ADMIN_TOKEN") && errors.contains("JWT_SECRET"), "{errors}");
    fails(folder.path(), &["serve", "--config", "nowhere.toml"], 2);
    fails(folder.path(), &["serve"], 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no ledger was made");
}

/// The command refuses before it touches anything.
#[test]
fn certificates_that_cannot_be_used_are_found_by_check_and_at_the_start() {
    let folder = folder();
    let text = "[server]\nadmin_token = \"0123456789abcdef\"\n\
                tls = { cert_file = \"nowhere.pem\", key_file = \"nowhere.key\" }\n";
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    for command in ["check", "serve"] {
        let errors = fails(folder.path(), &[command], 2);
        assert!(errors.contains("[server.tls]") && errors.contains("nowhere.pem"), "{errors}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no ledger was made");
}

const ROUTE: &str = "[[upstreams]]\nname = \"ai\"\nurl = \"http://127.0.0.1:1\"\n\
                     [[routes]]\npath = \"/a\"\nupstream = \"ai\"\ncredits = 5\n";

#[test]
fn a_warning_says_where_it_stands_and_refuses_nothing() {
    let folder = folder();
    let issuer =
        "[[auth.jwt]]\nalgorithms = [\"HS256\"]\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    let server = "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
                  admin_token = \"0123456789abcdef\"\n";
    let write = |second: &str| {
        let text = format!("{server}{issuer}{issuer}{second}{ROUTE}");
        std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    };
    write("");
    let shown = ok(folder.path(), &["check"]);
    let line = shown.lines().find(|line| line.contains(": warning: ")).unwrap();
    assert!(line.contains("gateway.toml:8: ") && line.contains("`bob`"), "{shown}");
    assert!(shown.contains("hint: set `account_prefix`"), "{shown}");
    assert!(shown.contains("gateway.toml is good"), "{shown}");
    let mut serve = command(folder.path(), &["serve"], &[]);
    let mut gateway = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let said = log.by_ref().map(Result::unwrap).find(|line| line.contains("`bob`")).unwrap();
    assert!(said.contains("WARN") && said.contains("account_prefix"), "{said}");
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    write("account_prefix = \"acme:\"\n");
    assert!(!ok(folder.path(), &["check"]).contains("warning"));
}

#[test]
fn five_mistakes_are_five_lines() {
    let folder = folder();
    let lines = [
        "[server]",                                // 1
        "listen = \"127.0.0.1:0\"",                // 2
        "admin = \"127.0.0.1:0\"",                 // 3
        "admin_token = \"a-very-secret-token-0\"", // 4
        "threds = 2",                              // 5: unknown key
        "[[auth.jwt]]",                            // 6
        "algorithms = [\"HS256\"]",                // 7
        "secret = \"${NOT_SET_ANYWHERE}\"",        // 8: missing variable
        "[[upstreams]]",                           // 9
        "name = \"ai\"",                           // 10
        "url = \"http://127.0.0.1:1\"",            // 11
        "[[routes]]",                              // 12
        "path = \"/a\"",                           // 13
        "upstream = \"nobody\"",                   // 14: unknown upstream
        "credits = 5",                             // 15
        "[[routes]]",                              // 16
        "path = \"/b\"",                           // 17
        "upstream = \"ai\"",                       // 18
        "credits = -5",                            // 19: negative price
        "[[routes]]",                              // 20
        "path = \"/c\"",                           // 21
        "upstream = \"ai\"",                       // 22
        "credits = 5",                             // 23
        "[[routes]]",                              // 24
        "path = \"/c\"",                           // 25: duplicate route
        "upstream = \"ai\"",                       // 26
        "credits = 6",                             // 27
    ];
    std::fs::write(folder.path().join("five.toml"), lines.join("\n")).unwrap();
    for command in ["check", "serve"] {
        let errors = fails(folder.path(), &[command, "--config", "five.toml"], 2);
        for (line, what) in
            [(5, "threds"), (8, "NOT_SET_ANYWHERE"), (14, "nobody"), (19, "negative"), (25, "/c")]
        {
            let place = format!("five.toml:{line}");
            let at = errors.find(&place).unwrap_or_else(|| panic!("no {place}:\n{errors}"));
            let mistake: String = errors[at..].lines().take(3).collect::<Vec<_>>().join("\n");
            assert!(mistake.contains(what), "{place} {what}:\n{errors}");
        }
        assert_eq!(errors.matches("five.toml:").count(), 5, "{errors}");
        assert!(
            errors.matches("hint").count() >= 5 || errors.matches("help").count() >= 5,
            "{errors}"
        );
        assert!(errors.contains("threads"), "it guesses what was meant:\n{errors}");
        assert!(!errors.contains("a-very-secret-token"), "{errors}");
    }
}

#[test]
fn prices_and_margins_need_no_variable() {
    let folder = folder();
    let table = ok(folder.path(), &["prices", "--config", SHIPPED]);
    for (path, words) in [
        ("/api/ai/generate ", ["5", "0.95 EUR", "0.04 EUR", "2275 %"]),
        ("/api/ai/generate/hd ", ["10", "1.90 EUR", "0.08 EUR", "2275 %"]),
        ("/api/3d/render-highres ", ["8", "1.52 EUR", "0.02 EUR", "7500 %"]),
        ("/api/ar/convert-2d-to-3d ", ["15", "2.85 EUR", "0.03 EUR", "9400 %"]),
    ] {
        let line = table.lines().find(|line| line.starts_with(path));
        let line = line.unwrap_or_else(|| panic!("no {path}:\n{table}"));
        for word in words {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
    let packs = ok(folder.path(), &["packs", "--config", SHIPPED]);
    for words in
        [["pack-100", "100", "19"], ["pack-500", "500", "79"], ["pack-1000", "1000", "139"]]
    {
        let line = packs.lines().find(|line| words.iter().all(|word| line.contains(word)));
        assert!(line.is_some(), "{words:?}:\n{packs}");
    }
    assert!(
        packs.lines().any(|line| line.contains("pack-500") && line.contains("best")),
        "{packs}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A config of which only `[ledger]` can be used.
pub fn ledger_only(folder: &Path) {
    let text = "[server]\nadmin_token = \"${NOT_SET}\"\n[ledger]\npath = \"ledger.db\"\n\
                [[auth.jwt]]\nalgorithms = [\"HS256\"]\nsecret = \"${NOT_SET_EITHER}\"\n";
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
}

#[test]
fn account_commands_need_the_ledger_section_alone() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    ok(at, &["migrate"]);
    assert!(at.join("ledger.db").exists());
    let granted = ok(at, &["grant", "alice", "100", "--id", "gift-7", "--reason", "a gift"]);
    assert!(granted.contains("100"), "{granted}");
    ok(at, &["grant", "alice", "100", "--id", "gift-7", "--reason", "a gift"]);
    let errors = fails(at, &["grant", "alice", "101", "--id", "gift-7"], 1);
    assert!(errors.contains("IDEMPOTENCY_CONFLICT"), "{errors}");
    ok(at, &["grant", "a/b?c#ü".trim_end_matches('ü'), "0.25"]);
    for bad in ["-5", "1e3", "NaN", "0.0000001", ""] {
        let output = run(at, &["grant", "alice", bad, "--id", "odd"]);
        assert!(!output.status.success(), "{bad}");
    }
    assert!(!run(at, &["grant", "ü", "5"]).status.success());
    assert!(!run(at, &["grant", "a b", "5"]).status.success());
    ok(at, &["account", "adjust", "alice", "-30.5", "--id", "fix-1", "--reason", "oops"]);
    ok(at, &["account", "adjust", "alice", "-30.5", "--id", "fix-1", "--reason", "oops"]);
    let shown = ok(at, &["account", "show", "alice"]);
    assert!(shown.contains("alice") && shown.contains("69.5"), "{shown}");
    let lines = ok(at, &["account", "transactions", "alice"]);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let list = ok(at, &["account", "list"]);
    assert!(list.contains("alice") && list.contains("a/b?c#"), "{list}");
    fails(at, &["account", "show", "nobody"], 1);
    fails(at, &["account", "refund", "nothing"], 1);
    fails(at, &["account", "refund", "nothing", "--credits", "2"], 1);
    fails(at, &["account", "refund", "nothing", "--id", "part-1"], 2);
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[test]
fn the_config_may_stand_anywhere_in_the_line() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    std::fs::rename(at.join("gateway.toml"), at.join("other.toml")).unwrap();
    ok(at, &["key", "create", "alice", "--config", "other.toml"]);
    for line in [
        &["--config", "other.toml", "key", "list", "alice"],
        &["key", "--config", "other.toml", "list", "alice"],
        &["key", "list", "--config", "other.toml", "alice"],
        &["key", "list", "alice", "-c", "other.toml"],
    ] {
        assert_eq!(ok(at, line).lines().count(), 1, "{line:?}");
    }
    fails(at, &["key", "list", "alice"], 2);
    fails(at, &["account", "--config", "nowhere.toml", "list"], 2);
}

#[test]
fn a_key_that_is_made_without_a_gateway_gives_the_sign_up_grant_too() {
    let folder = folder();
    let at = folder.path();
    let text = "[ledger]\npath = \"ledger.db\"\n[credits]\nsignup_grant = 12\n";
    std::fs::write(at.join("gateway.toml"), text).unwrap();
    for _ in 0..2 {
        ok(at, &["key", "create", "alice"]);
        assert!(ok(at, &["account", "show", "alice"]).contains("balance 12,"));
    }
    write_keys(&at.join("keys.csv"), 0, 1);
    ok(at, &["key", "import", "keys.csv"]);
    assert!(ok(at, &["account", "show", "customer-0"]).contains("balance 0,"));
}

#[test]
fn a_key_is_made_listed_and_revoked() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    let made = ok(at, &["key", "create", "alice", "--name", "phone"]);
    let word = |text: &str, start: &str| {
        let found = text.split_whitespace().find(|word| word.starts_with(start));
        found.unwrap_or_else(|| panic!("{start}: {text}")).to_owned()
    };
    let (id, key) = (word(&made, "key_"), word(&made, "fb_"));
    ok(at, &["key", "create", "alice", "--service"]);
    let list = ok(at, &["key", "list", "alice"]);
    assert!(list.contains(&id) && list.contains("phone") && list.contains("service"), "{list}");
    assert!(!list.contains(&key), "{list}");
    ok(at, &["key", "revoke", &id]);
    assert!(ok(at, &["key", "list", "alice"]).contains("revoked"));
    fails(at, &["key", "revoke", "key_unknown"], 1);
    // Only its hash is kept.
    for file in std::fs::read_dir(at).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()));
    }
}

#[test]
fn a_backup_is_a_ledger_and_folding_keeps_the_balance() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    for n in 0..20 {
        ok(at, &["grant", "alice", "1", "--id", &format!("g-{n}")]);
        if n == 9 {
            ok(at, &["backup", "copy.db"]);
        }
    }
    let errors = fails(at, &["backup", "copy.db"], 1);
    assert!(errors.contains("copy.db"), "it exists, and stays: {errors}");
    let config = "[ledger]\npath = \"copy.db\"\n";
    std::fs::write(at.join("copy.toml"), config).unwrap();
    assert!(ok(at, &["account", "show", "alice", "-c", "copy.toml"]).contains("balance 10,"));
    assert!(ok(at, &["reconcile", "-c", "copy.toml"]).contains("clean"));

    assert!(ok(at, &["fold", "--before", "2020-01-01"]).contains("folded 0 "));
    assert!(!run(at, &["fold", "--before", "2999-01-01"]).status.success());
    assert!(!run(at, &["fold", "--before", "yesterday"]).status.success());
    assert_eq!(ok(at, &["account", "transactions", "alice"]).lines().count(), 20);
    assert!(ok(at, &["account", "show", "alice"]).contains("balance 20,"));
    assert!(ok(at, &["reconcile"]).contains("clean"));
}

#[test]
fn a_file_that_is_no_ledger_is_left_alone() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    let not_ours = "this is no SQLite file, and it is longer than the header of one. ".repeat(40);
    std::fs::write(at.join("ledger.db"), &not_ours).unwrap();
    fails(at, &["grant", "alice", "5"], 1);
    fails(at, &["reconcile"], 1);
    assert_eq!(std::fs::read_to_string(at.join("ledger.db")).unwrap(), not_ours);
}

#[test]
fn a_mistake_in_a_secret_does_not_print_it() {
    let folder = folder();
    let at = folder.path();
    let good = "[server]\nadmin_token = \"a-good-token-of-24-bytes\"\n[[auth.jwt]]\n\
                algorithms = [\"HS256\"]\nsecret = \"a-good-secret-of-more-than-32-bytes\"\n\
                [[upstreams]]\nname = \"ai\"\nurl = \"http://127.0.0.1:1\"\n\
                headers = { authorization = \"Bearer sk-good\" }\n";
    for (right, wrong) in [
        ("\"a-good-token-of-24-bytes\"", "\"S3CRET\""),
        ("\"a-good-token-of-24-bytes\"", "\"S3CRET-and-no-end"),
        ("\"a-good-token-of-24-bytes\"", "[\"S3CRET-in-a-list\"]"),
        ("\"a-good-token-of-24-bytes\"", "S3CRET-without-quotes"),
        (
            "\"a-good-token-of-24-bytes\"",
            "\"S3CRET-twice-sixteen\"\nadmin_token = \"S3CRET-again-sixteen\"",
        ),
        ("admin_token = \"a-good-token-of-24-bytes\"", "admin_tokn = \"S3CRET-S3CRET-S3CRET\""),
        ("\"a-good-secret-of-more-than-32-bytes\"", "\"S3CRET\""),
        ("\"a-good-secret-of-more-than-32-bytes\"", "\"S3CRET ${NOT_SET}\""),
        ("\"a-good-secret-of-more-than-32-bytes\"", "\"S3CRET \\q with a wrong escape\""),
        ("\"a-good-secret-of-more-than-32-bytes\"", "{ S3CRET = \"S3CRET\" }"),
        ("\"Bearer sk-good\"", "\"Bearer S3CRET\\n\""),
        ("\"Bearer sk-good\"", "[\"S3CRET\"]"),
        ("http://127.0.0.1:1", "http://user:S3CRET@127.0.0.1:1"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1/?key=S3CRET"),
    ] {
        assert!(good.contains(right), "{right}");
        std::fs::write(at.join("gateway.toml"), good.replace(right, wrong)).unwrap();
        for command in ["check", "serve"] {
            let errors = fails(at, &[command], 2);
            assert!(errors.contains("gateway.toml:"), "{errors}");
            assert!(!errors.contains("S3CRET"), "{wrong}:\n{errors}");
        }
    }
}

#[tokio::test]
async fn reconcile_says_where_a_ledger_breaks() {
    use sqlx::{Connection as _, Executor as _};
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    ok(at, &["grant", "alice", "100"]);
    ok(at, &["grant", "bob", "100"]);
    let file = format!("sqlite://{}", at.join("ledger.db").display());
    let mut intruder = sqlx::SqliteConnection::connect(&file).await.unwrap();
    for forged in ["UPDATE entries SET amount = 1", "DELETE FROM entries"] {
        assert!(intruder.execute(forged).await.is_err(), "{forged}");
    }
    intruder.execute("UPDATE accounts SET balance = 1 WHERE id = 'alice'").await.unwrap();
    intruder.close().await.unwrap();
    let output = run(at, &["reconcile"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("alice") && !said.contains("bob") && !said.contains("clean"), "{said}");
}

#[test]
fn a_day_or_a_folder_that_cannot_be_is_named_in_plain_words() {
    let folder = folder();
    let at = folder.path();
    ledger_only(at);
    ok(at, &["migrate"]);
    for day in ["tomorrow", "2026-13-01", "2026-1-1", "2026-01-01T00:00:00Z", ""] {
        let errors = fails(at, &["fold", "--before", day], 2);
        assert!(errors.contains("a day such as 2026-01-01"), "{day}: {errors}");
        assert!(!errors.to_lowercase().contains("json"), "{day}: {errors}");
    }
    let errors = fails(at, &["backup", "nowhere/copy.db"], 1);
    assert!(errors.contains("no folder nowhere") && !errors.contains("partial"), "{errors}");
}

#[test]
fn settings_by_which_nothing_could_be_sold_are_warned_of() {
    let folder = folder();
    let at = folder.path();
    let check = |text: &str| {
        std::fs::write(at.join("gateway.toml"), text).unwrap();
        let shown = ok(at, &["check"]);
        shown.lines().filter(|line| line.contains(": warning: ")).map(str::to_owned).collect()
    };
    let text = config_text(([127, 0, 0, 1], 9).into(), "");
    let none: Vec<String> = Vec::new();
    assert_eq!(check(&text), none);
    assert_eq!(check(&format!("{text}[credits]\nsignup_grant = 5\nlow_balance = 5")), none);
    assert_eq!(check(&format!("{text}[credits]\nlow_balance = 5")), none);
    let found: Vec<String> = check(&format!("{text}[credits]\nlow_balance = 20\nsignup_grant = 5"));
    let [low] = &found[..] else { panic!("{found:?}") };
    assert!(low.contains("`signup_grant`") && low.contains("`low_balance`"), "{low}");
    let found: Vec<String> = check(&text[..text.find("[[upstreams]]").unwrap()]);
    let [routes] = &found[..] else { panic!("{found:?}") };
    assert!(routes.contains("[[routes]]") && routes.contains("404"), "{routes}");
}
