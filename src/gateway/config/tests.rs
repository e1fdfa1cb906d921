//! Tests of the loader, from the user's side: each reads a file into a config or into its mistakes.

mod fuzz;
mod metered;
mod shipped;

use std::path::Path;

use crate::config::{Mistakes, Sections};
use crate::gateway::config::{Config, load, parse};

const SHIPPED: &str = include_str!("../../../gateway.toml");

fn unset(_: &str) -> Option<String> {
    None
}

/// The values of the variables that the shipped file uses.
fn env(name: &str) -> Option<String> {
    match name {
        "FAREBOX_ADMIN_TOKEN" => Some("from-the-environment-1".to_owned()),
        "JWT_SECRET" => Some("from-the-environment-2-and-long-enough".to_owned()),
        _ => None,
    }
}

fn read(text: &str, sections: Sections) -> Result<Config, Mistakes> {
    parse(text, Path::new("gateway.toml"), sections, &env)
}

/// The first lines of the mistakes, without their hints.
fn mistakes(text: &str) -> Vec<String> {
    let all = read(text, Sections::ALL).expect_err("a config with mistakes");
    let all = all.to_string();
    all.lines().filter(|line| !line.starts_with("  hint: ")).map(str::to_owned).collect()
}

/// Puts `text` below a `[server]` section that has no mistakes.
fn with_server(text: &str) -> String {
    format!("server.admin_token = \"0123456789abcdef\"\n{text}")
}

#[test]
fn every_mistake_of_a_file_is_reported_at_its_line() {
    let text = r#"
[server]
lisetn = "127.0.0.1:80"
admin = "nowhere"
threads = -1
max_connections = 0
health = 8081
admin_token = "${ABSENT}"

[servers]

[ledger]
backend = "sqlite"
durability = true

[[upstreams]]
headers = { host = "x", authorization = 5 }
url = "http://host/path"
connect_timeout = "5"

[[routes]]
path = "/a"
upstream = "ia"
credits = 0.0000001

[[routes]]
methods = ["POST", 5,
  6]
colour = "red"

[[routes]]
path = "/b"
upstream = "nowhere"
credits = 1
"#;
    let expected = [
        "gateway.toml:3: unknown key `lisetn`",
        "gateway.toml:4: `admin` is not a socket address",
        "gateway.toml:5: `threads` wants a whole number, 0 or more",
        "gateway.toml:6: `max_connections` cannot be 0",
        "gateway.toml:7: `health` wants an address and a port, not a whole number",
        "gateway.toml:8: the variable ABSENT is not set",
        "gateway.toml:10: unknown section `servers`",
        "gateway.toml:13: `backend` cannot be `sqlite`",
        "gateway.toml:14: `durability` wants a string, not true or false",
        "gateway.toml:16: missing key `name`",
        "gateway.toml:17: Farebox sets the header `host` itself",
        "gateway.toml:17: `authorization` wants a string, not a whole number",
        "gateway.toml:18: `url`: this URL has a path or a query",
        "gateway.toml:19: `connect_timeout`: `5` is not a length of time",
        "gateway.toml:23: no upstream is named `ia`",
        "gateway.toml:24: `credits`: credits have at most six decimals",
        "gateway.toml:26: missing key `path`",
        "gateway.toml:26: missing key `upstream`",
        "gateway.toml:26: missing key `credits`",
        "gateway.toml:27: `methods[1]` wants a string, not a whole number",
        "gateway.toml:28: `methods[2]` wants a string, not a whole number",
        "gateway.toml:29: unknown key `colour`",
        "gateway.toml:33: no upstream is named `nowhere`",
    ];
    assert_eq!(mistakes(text), expected);
    let shown = read(text, Sections::ALL).unwrap_err();
    assert!(shown.iter().all(|located| !located.mistake.hint.is_empty()), "{shown}");
    assert!(shown.to_string().contains("lisetn`\n  hint: did you mean `listen`?"), "{shown}");
}

#[test]
fn warnings_have_a_place_and_refuse_nothing() {
    let rules = "[[upstreams]]\nname = \"ai\"\nurl = \"http://a\"\n\
                 [[routes]]\npath = \"/a/{x}\"\nupstream = \"ai\"\ncredits = 1\n\
                 [[routes]]\npath = \"/A/{x}\"\nupstream = \"ai\"\ncredits = 2\n";
    let warnings = |more: &str, sections| {
        let config = read(&with_server(&format!("{rules}{more}")), sections).unwrap();
        config.warnings.shown().collect::<Vec<_>>()
    };
    let found = warnings("", Sections::ALL);
    assert!(
        found.len() == 1 && found[0].starts_with("gateway.toml:10: warning: `/A/{x}` differs "),
        "{found:?}"
    );
    assert!(found[0].contains("\n  hint: "), "{found:?}");
    assert_eq!(warnings("[api]\nexact_paths = true", Sections::ALL), [""; 0]);
    assert_eq!(
        warnings("", Sections::ROUTES),
        [""; 0],
        "the section that turns it off is not read"
    );
}

#[test]
fn a_section_of_the_wrong_kind_is_one_mistake() {
    for (text, message) in [
        ("ledger = 5", "gateway.toml:2: `ledger` is a table"),
        ("[[ledger]]", "gateway.toml:2: `ledger` is a table"),
        ("[upstreams]\nname = \"ai\"", "gateway.toml:2: `upstreams` is a list of tables"),
        ("packs = [5]", "gateway.toml:2: `packs[0]` is a table"),
        ("[[auth.api_keys]]", "gateway.toml:2: `api_keys[0]` wants true or false, not a table"),
    ] {
        assert_eq!(mistakes(&with_server(text)), [message], "{text}");
    }
}

#[test]
fn text_that_is_not_toml_is_one_mistake_with_line_and_column() {
    let shown = read("[server]\nadmin_token = hunter2\nx = ?\n", Sections::ALL).unwrap_err();
    assert_eq!(shown.count(), 1);
    let shown = shown.to_string();
    assert!(shown.starts_with("gateway.toml:2:15: not valid TOML: string values must be quoted"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_missing_key_of_an_absent_section_has_no_line() {
    assert_eq!(mistakes(""), ["gateway.toml: `admin_token` is missing or empty"]);
    let shown = read("[stripe]", Sections::ALL).unwrap_err().to_string();
    for key in ["secret_key", "webhook_secret", "success_url", "cancel_url"] {
        assert!(shown.contains(&format!("gateway.toml:1: missing key `{key}`")), "{shown}");
    }
}

#[test]
fn a_value_that_came_from_a_variable_or_is_secret_is_never_repeated() {
    let text = r#"
[server]
listen = "${VALUE}"
threads = "${VALUE}"
admin_token = "hunter3"
drain_delay = "${VALUE}"
[ledger]
backend = "${VALUE}"
redis_url = ["hunter4"]
[api]
cors_origins = ["${VALUE}"]
[[upstreams]]
name = "${VALUE}"
url = "${VALUE}"
headers = { authorization = "hunter5\n" }
[[routes]]
path = "/a"
upstream = "x${VALUE}"
credits = "${VALUE}"
[stripe]
secret_key = "pk_hunter6"
webhook_secret = { x = "hunter7" }
"#;
    let env = |name: &str| (name == "VALUE").then(|| "hunter2 \"quoted\"".to_owned());
    let shown = parse(text, Path::new("f"), Sections::ALL, &env).unwrap_err();
    assert!(shown.count() >= 12, "{shown}");
    for shown in [shown.to_string(), format!("{shown:?}")] {
        assert!(!shown.contains("hunter") && !shown.contains("quoted"), "{shown}");
    }
    let config = read(SHIPPED, Sections::ALL).unwrap();
    assert!(!format!("{config:?}").contains("from-the-environment"));
}

#[test]
fn a_variable_cannot_change_the_structure_of_the_file() {
    let env = |_: &str| Some("x\"\nadmin = \"0.0.0.0:1\"\n[api]\nprefix = \"/${HOME}".to_owned());
    let text = "[ledger]\npath = \"/${VALUE}\"";
    let config = parse(text, Path::new("f"), Sections::LEDGER, &env).unwrap();
    assert!(config.ledger.path.to_str().unwrap().ends_with("/${HOME}"));
    assert_eq!(config.api.prefix, "/credits");
}

#[test]
fn amounts_are_read_as_they_were_typed() {
    let route =
        "[[upstreams]]\nname=\"a\"\nurl=\"http://a\"\n[[routes]]\npath=\"/a\"\nupstream=\"a\"";
    for (typed, micros) in [
        ("0.1", Some(100_000)),
        ("9007199254.740992", Some(1 << 53)),
        ("1_000.5", Some(1_000_500_000)),
        ("\"0.25\"", Some(250_000)),
        ("5", Some(5_000_000)),
        ("1e3", None),
        ("-1", None),
        ("inf", None),
    ] {
        let read = read(&format!("{route}\ncredits = {typed}"), Sections::ROUTES);
        assert_eq!(
            read.ok().map(|config| config.routes[0].credits.unwrap().micros()),
            micros,
            "{typed}"
        );
    }
}

#[test]
fn relative_paths_start_from_the_folder_of_the_file() {
    let text = "[server]\nadmin_token = \"0123456789abcdef\"\n\
                tls = { cert_file = \"tls/cert.pem\", key_file = \"/etc/key.pem\" }";
    let sections = Sections::SERVER | Sections::LEDGER;
    let config = parse(text, Path::new("/etc/farebox/gateway.toml"), sections, &unset).unwrap();
    assert_eq!(config.ledger.path, Path::new("/etc/farebox/farebox.db"));
    let tls = config.server.unwrap().tls.unwrap();
    assert_eq!(tls.cert_file, Path::new("/etc/farebox/tls/cert.pem"));
    assert_eq!(tls.key_file, Path::new("/etc/key.pem"));
}

#[test]
fn files_written_on_windows_are_read_with_the_right_lines() {
    let text = format!("\u{feff}{}", SHIPPED.replace('\n', "\r\n"));
    assert!(read(&text, Sections::ALL).is_ok());
    let broken = text.replace("threads = 0", "threads = false");
    let line = 1 + SHIPPED.lines().position(|line| line.starts_with("threads")).unwrap();
    let wanted = "`threads` wants a whole number, 0 or more, not true or false";
    assert_eq!(mistakes(&broken), [format!("gateway.toml:{line}: {wanted}")]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    let absent = load(&path, Sections::ALL, &env).unwrap_err().to_string();
    assert!(absent.starts_with(&format!("{}: cannot be read", path.display())), "{absent}");
    std::fs::write(&path, b"# one\n# \xff\n").unwrap();
    let binary = load(&path, Sections::ALL, &env).unwrap_err().to_string();
    assert!(binary.contains(":2: is not UTF-8"), "{binary}");
    std::fs::write(&path, SHIPPED).unwrap();
    assert!(load(&path, Sections::ALL, &env).is_ok());
}

#[test]
fn a_secret_of_our_own_words_changes_no_message() {
    let said = |secret: &str| {
        let text = format!(
            "[server]\nadmin_token = \"{secret}\"\n[[auth.jwt]]\nalgorithms = [\"HS256\"]\n\
             secret = \"{secret}\""
        );
        let all = read(&text, Sections::ALL).unwrap_err().to_string();
        all.replace(&format!(" is {} bytes", secret.len()), " is n bytes")
    };
    let plain = said("qqqqq");
    assert!(plain.contains("`admin_token` is shorter than 16 bytes"), "{plain}");
    for secret in ["short", "shorter", "token", "admin_token", "bytes", "secret", "is", "han", "16"]
    {
        assert_eq!(said(secret), plain, "{secret}");
    }
}

#[test]
fn an_amount_that_cannot_be_says_how_one_is_written() {
    for typed in ["-5", "0.1234567", "1e3", "\"many\"", "99999999999"] {
        let text = format!(
            "[[upstreams]]\nname=\"a\"\nurl=\"http://a\"\n[[routes]]\npath=\"/a\"\nupstream=\"a\"\n\
             credits = {typed}\n[credits]\nlow_balance = {typed}"
        );
        let all = read(&text, Sections::ROUTES | Sections::CREDITS).unwrap_err().to_string();
        assert_eq!(all.matches("hint: write 5, 0.25 or 0").count(), 2, "{typed}: {all}");
    }
}

#[test]
fn a_missing_or_wrong_key_hides_no_other_mistake_of_its_table() {
    let long = "x".repeat(200);
    for (list, keys, more) in [
        (
            "packs",
            &[("id", "\"p\""), ("credits", "5"), ("price", "\"1.00 USD\"")][..],
            format!("badge = \"{long}\"\nbest_value = true"),
        ),
        (
            "routes",
            &[("path", "\"/a\""), ("upstream", "\"ai\""), ("credits", "1")],
            format!("label = \"{long}\"\nmethods = [\"post\", \"FETCH\"]"),
        ),
        (
            "upstreams",
            &[("name", "\"two\""), ("url", "\"http://a\"")],
            "read_timeout = \"0s\"".to_owned(),
        ),
    ] {
        let sound = "[[upstreams]]\nname = \"ai\"\nurl = \"http://a\"\n[[packs]]\nid = \"q\"\n\
                     credits = 9\nprice = \"1.00 USD\"\nbest_value = true\n[[routes]]\npath = \"/z\"\n\
                     upstream = \"ai\"\ncredits = 1\ncost = \"0.01 USD\"\n";
        for wrong_key in keys.iter().map(|(key, _)| *key) {
            for value in ["", "{}", "[]", "true", "\"€\""] {
                let entries = keys.iter().map(|(key, sound)| match *key == wrong_key {
                    true if value.is_empty() => String::new(),
                    true => format!("{key} = {value}\n"),
                    false => format!("{key} = {sound}\n"),
                });
                let entries: String = entries.collect();
                let table = format!("[[{list}]]\n{entries}{more}\ncolour = 1\n");
                // The table comes first in one file and last in the other.
                for text in [format!("{table}{sound}"), format!("{sound}{table}")] {
                    let found = mistakes(&with_server(&text));
                    let shown = found.join("\n");
                    for key in more.lines().chain([wrong_key, "colour"]) {
                        let key = key.split(' ').next().unwrap();
                        // Both packs have the mark; the mistake is reported for the later one.
                        let words = if key == "best_value" { "best value" } else { key };
                        assert!(
                            shown.contains(words) || key == wrong_key && shown.contains('€'),
                            "{key} with {wrong_key} = {value}:\n{shown}"
                        );
                    }
                    let methods =
                        shown.matches("`post`").count() + shown.matches("`FETCH`").count();
                    assert_eq!(methods, if list == "routes" { 2 } else { 0 }, "{shown}");
                    assert!(!shown.contains("currency of"), "{shown}");
                    assert!(found.len() <= 6, "{shown}");
                }
            }
        }
    }
}
