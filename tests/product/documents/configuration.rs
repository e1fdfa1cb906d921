//! Compares docs/configuration.md and gateway.toml with the config as the gateway reads it.
//!
//! This file has no list of keys. It puts a key that cannot exist under each section in turn, and
//! the mistake that the gateway reports names the keys that the section takes.

use std::collections::BTreeMap;
use std::path::Path;

use farebox::config::{Located, Mistakes, Sections, StartKeys};
use farebox::gateway::config::{self, Config};

use super::{read, root};

/// A config with every section, and in each only the keys that have no default.
const LEAST: &str = r#"
[server]
admin_token = "0123456789abcdef"

[server.tls]
cert_file = "cert.pem"
key_file = "key.pem"

[ledger]

[auth]

[[auth.jwt]]
algorithms = ["HS256"]
secret = "a secret of the documents, longer than 32 bytes"

[auth.api_keys]

[credits]

[api]

[brand]

[idempotency]

[[upstreams]]
name = "ai"
url = "http://127.0.0.1:3000"

[[routes]]
path = "/a"
upstream = "ai"
credits = 5

[[models]]
match = "m"
input = 1

[rates]

[[packs]]
id = "pack-100"
credits = 100
price = "19.00 EUR"

[stripe]
secret_key = "sk_test_1"
webhook_secret = "whsec_1"
success_url = "https://app.example.com/paid"
cancel_url = "https://app.example.com/back"

[stripe.checkout]
"#;

/// The key that stands above all sections.
const TOP_KEY: &str = "models_file";

/// The section whose keys are the codes of currencies.
const CURRENCIES: &str = "[rates]";

/// A key that no section has, and that resembles none.
const UNHEARD_OF: &str = "qqqqqqqqqqqqqqqqqqqq";

fn parse(text: &str) -> Result<Config, Mistakes> {
    config::parse(text, Path::new("gateway.toml"), Sections::ALL, &|_| None)
}

/// All values of a config. Whether a key was written or took its default makes no difference.
fn meaning(config: Config) -> String {
    format!("{:#?}", Config { start_keys: StartKeys::default(), ..config })
}

/// `LEAST` with a line more below the header of a section.
fn with_line(header: &str, line: &str) -> String {
    LEAST.replace(&format!("{header}\n"), &format!("{header}\n{line}\n"))
}

/// The headers of the sections in `LEAST`.
fn headers() -> impl Iterator<Item = &'static str> {
    LEAST.lines().filter(|line| line.starts_with('['))
}

/// The table that a header opens: `auth.jwt` for `[[auth.jwt]]`.
fn table_of(header: &str) -> &str {
    header.trim_matches(['[', ']'])
}

/// The names that the hint about an unknown one lists.
fn known_beside(text: &str) -> Vec<String> {
    let mistakes = parse(text).unwrap_err();
    let about = |located: &&Located| located.mistake.message.contains(UNHEARD_OF);
    let located = mistakes.iter().find(about).unwrap_or_else(|| panic!("{mistakes}"));
    located.mistake.hint.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys of a section that are no tables of their own.
fn keys_of(header: &str) -> Vec<String> {
    let tables: Vec<&str> = headers().map(table_of).collect();
    let mut keys = known_beside(&with_line(header, &format!("{UNHEARD_OF} = 1")));
    assert!(!keys.is_empty(), "{header}");
    keys.retain(|key| !tables.contains(&&*format!("{}.{key}", table_of(header))));
    keys
}

#[test]
fn the_least_config_has_every_section_and_no_mistake() {
    parse(LEAST).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let sections = known_beside(&format!("{LEAST}\n[{UNHEARD_OF}]\n"));
    assert!(sections.len() > 8, "{sections:?}");
    for section in sections.iter().filter(|section| *section != TOP_KEY) {
        assert!(headers().any(|header| table_of(header) == section), "{section}");
    }
}

/// The lines of gateway.toml under each time that `header` stands in it, commented out or not.
fn lines_below(text: &str, header: &str) -> Vec<String> {
    let (mut lines, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if line.starts_with('[') {
            inside = line.split_whitespace().next() == Some(header);
        } else if inside {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[test]
fn the_shipped_config_shows_every_key_that_there_is() {
    let text = read(&root().join("gateway.toml"));
    let mut missing = Vec::new();
    assert!(text.contains(&format!("{TOP_KEY} = ")), "{TOP_KEY}");
    for header in headers().filter(|header| *header != CURRENCIES) {
        let lines = lines_below(&text, header);
        for key in keys_of(header) {
            let shown = lines.iter().any(|line| {
                line.strip_prefix(&*key).is_some_and(|rest| rest.trim_start().starts_with('='))
            });
            if !shown {
                missing.push(format!("{header} {key}"));
            }
        }
    }
    assert!(missing.is_empty(), "gateway.toml does not show {}", missing.join(", "));
}

/// The rows of docs/configuration.md: the keys of each section, each with the cell of its default.
fn documented() -> BTreeMap<String, Vec<(String, String)>> {
    let (mut sections, mut header) = (BTreeMap::new(), String::new());
    for line in read(&root().join("docs/configuration.md")).lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            header = heading.trim_matches('`').to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let (key, cells) = row.split_once("` | ").unwrap_or_else(|| panic!("{line}"));
            let default = cells.split(" | ").next().unwrap().to_owned();
            let rows: &mut Vec<_> = sections.entry(header.clone()).or_default();
            rows.push((key.to_owned(), default));
        }
    }
    sections
}

#[test]
fn the_page_of_the_configuration_has_every_key_and_no_other() {
    let documented = documented();
    for header in documented.keys() {
        assert!(headers().any(|known| known == header), "no section is called {header}");
    }
    for header in headers().filter(|header| *header != CURRENCIES) {
        let rows = documented.get(header).map_or(&[][..], |rows| rows);
        let mut named: Vec<&str> = rows.iter().map(|(key, _)| &**key).collect();
        let mut keys = keys_of(header);
        named.sort_unstable();
        keys.sort_unstable();
        assert_eq!(named, keys, "{header}");
    }
}

/// `LEAST` without a key of a section; `None` if `LEAST` does not have the key.
fn without(header: &str, key: &str) -> Option<String> {
    let (mut lines, mut inside, mut is_there) = (Vec::new(), false, false);
    for line in LEAST.lines() {
        if line.starts_with('[') {
            inside = line == header;
        }
        match inside && line.starts_with(&format!("{key} = ")) {
            true => is_there = true,
            false => lines.push(line),
        }
    }
    is_there.then(|| lines.join("\n"))
}

#[test]
fn the_page_of_the_configuration_tells_the_defaults() {
    let least = meaning(parse(LEAST).unwrap());
    for (header, rows) in documented() {
        for (key, default) in rows {
            let at = format!("{header} {key}");
            if let Some(value) = default.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')) {
                // A default that is written down changes nothing.
                let written = parse(&with_line(&header, &format!("{key} = {value}")));
                let written = written.unwrap_or_else(|mistakes| panic!("{at}: {mistakes}"));
                assert!(meaning(written) == least, "{at} is not {value} by default");
            } else if default.starts_with("required") {
                let refused = without(&header, &key).is_some_and(|text| parse(&text).is_err());
                assert!(refused, "{at} is not required");
            } else if default == "none" {
                assert!(least.contains(&format!(" {key}: None")), "{at} has a default");
            } else {
                // A default that depends on another key, in words.
                assert!(
                    default.contains(' ') && without(&header, &key).is_none(),
                    "{at}: {default}"
                );
            }
        }
    }
}

#[test]
fn the_first_config_of_a_page_has_no_mistake() {
    let env = |_: &str| Some("0123456789abcdef".to_owned());
    for name in ["README.md", "docs/quickstart.md", "docs/configuration.md"] {
        let page = read(&root().join(name));
        let (_, block) = page.split_once("```toml\n").unwrap();
        let text = block.split("```").next().unwrap();
        let parsed = config::parse(text, Path::new(name), Sections::ALL, &env);
        let config = parsed.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(!config.routes.is_empty(), "{name}");
    }
}
