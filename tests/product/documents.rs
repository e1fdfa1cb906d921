//! README.md, docs/, gateway.toml, the Makefile and the tests' tables, held against the command
//! line, the config, the scripts and the tests as they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use farebox::api::ApiConfig;
use farebox::cli::Cli;
use farebox::identify::AuthConfig;
use farebox::ledger::{CreditsConfig, LedgerConfig};
use farebox::price::{PackConfig, RouteConfig};
use farebox::proxy::{ServerConfig, UpstreamConfig};
use farebox::stripe::StripeConfig;
use serde::de::DeserializeOwned;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A command line of a document.
struct Typed {
    words: Vec<String>,
    /// The command stands in a sentence, where it may be named without all that it needs.
    in_prose: bool,
}

/// The words of a shell's line, up to what ends a command.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#' | '&' | ';' | '>' | '<', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Every `farebox …` in a Markdown file: in its blocks of shell lines, and in its code spans.
fn typed_in(text: &str) -> Vec<Typed> {
    let mut typed = Vec::new();
    for (n, block) in text.split("```").enumerate() {
        let in_prose = n % 2 == 0;
        let pieces: Vec<&str> = if in_prose {
            block.split('`').skip(1).step_by(2).collect()
        } else {
            block.strip_prefix("sh\n").unwrap_or_default().lines().collect()
        };
        for piece in pieces {
            let words = words(piece);
            if words.first().is_some_and(|word| word == "farebox") {
                typed.push(Typed { words, in_prose });
            }
        }
    }
    typed
}

/// The same with something in place of what stands for it; a line for each of `this|that`.
fn lines_of(typed: &Typed) -> Vec<Vec<String>> {
    let choices = typed.words.get(1).map_or("", String::as_str);
    let line = |choice: &str| {
        let rest = typed.words.iter().skip(2).map(|word| match word.as_str() {
            "CREDITS" => "5".to_owned(),
            "…" => "https://example.com".to_owned(),
            word => word.to_owned(),
        });
        ["farebox".to_owned(), choice.to_owned()].into_iter().chain(rest).collect()
    };
    choices.split('|').filter(|choice| !matches!(*choice, "" | "…")).map(line).collect()
}

#[test]
fn every_command_in_the_documents_is_one_that_farebox_takes() {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|ext| ext == "md"));
    let files: Vec<PathBuf> =
        markdown.chain(["README.md", "gateway.toml"].map(|name| root().join(name))).collect();
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in files {
        for typed in typed_in(&read(&file)) {
            for line in lines_of(&typed) {
                seen += 1;
                let Err(error) = Cli::try_parse_from(&line) else { continue };
                let is_a_mention = typed.in_prose
                    && matches!(
                        error.kind(),
                        ErrorKind::MissingRequiredArgument
                            | ErrorKind::MissingSubcommand
                            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    );
                if !is_a_mention {
                    wrong.push(format!("{}: {}: {error}", file.display(), line.join(" ")));
                }
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The keys that a section takes, as serde names them when it meets another.
fn keys_of<T: DeserializeOwned>(toml: &str) -> Vec<String> {
    let Err(error) = toml::from_str::<T>(toml) else { panic!("{toml} is taken") };
    let (_, expected) = error.message().split_once("expected").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The lines of gateway.toml under each time that `header` stands in it, commented out or not.
fn section(text: &str, header: &str) -> Vec<String> {
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
    let sections = [
        ("[server]", keys_of::<ServerConfig>("none = 1")),
        ("[server.tls]", keys_of::<ServerConfig>("[tls]\nnone = 1")),
        ("[ledger]", keys_of::<LedgerConfig>("none = 1")),
        ("[[auth.jwt]]", keys_of::<AuthConfig>("[[jwt]]\nnone = 1")),
        ("[auth.api_keys]", keys_of::<AuthConfig>("[api_keys]\nnone = 1")),
        ("[credits]", keys_of::<CreditsConfig>("none = 1")),
        ("[api]", keys_of::<ApiConfig>("none = 1")),
        ("[[upstreams]]", keys_of::<UpstreamConfig>("none = 1")),
        ("[[routes]]", keys_of::<RouteConfig>("none = 1")),
        ("[[packs]]", keys_of::<PackConfig>("none = 1")),
        ("[stripe]", keys_of::<StripeConfig>("none = 1")),
        ("[stripe.checkout]", keys_of::<StripeConfig>("[checkout]\nnone = 1")),
    ];
    let mut missing = Vec::new();
    for (header, keys) in sections {
        assert!(!keys.is_empty(), "{header}");
        let lines = section(&text, header);
        for key in keys {
            let shown = lines.iter().any(|line| {
                line.strip_prefix(&*key).is_some_and(|rest| rest.trim_start().starts_with('='))
            });
            // A table of its own, which is looked at above.
            let is_table =
                matches!((header, &*key), ("[server]", "tls") | ("[stripe]", "checkout"));
            if !shown && !is_table {
                missing.push(format!("{header} {key}"));
            }
        }
    }
    assert!(missing.is_empty(), "gateway.toml does not show {}", missing.join(", "));
}

/// The arguments of scripts/setup.sh, besides none.
fn arguments_of_setup() -> Vec<String> {
    let script = read(&root().join("scripts/setup.sh"));
    let (_, cases) = script.split_once("case $what in\n").unwrap();
    let (cases, _) = cases.split_once("esac").unwrap();
    let labels = cases.lines().filter_map(|line| line.split_once(')'));
    labels.flat_map(|(label, _)| label.split('|')).map(|label| label.trim().to_owned()).collect()
}

#[test]
fn every_setup_of_the_makefile_is_one_that_the_script_takes() {
    let makefile = read(&root().join("Makefile"));
    let words = makefile.split(|c: char| c.is_whitespace() || c == ':');
    let wanted: BTreeSet<&str> = (words.filter_map(|word| word.strip_prefix("setup-")))
        .filter(|argument| *argument != "%")
        .collect();
    assert!(wanted.len() > 3, "{wanted:?}");
    let taken = arguments_of_setup();
    let missing: Vec<&&str> =
        wanted.iter().filter(|argument| !taken.contains(&(**argument).to_owned())).collect();
    assert!(missing.is_empty(), "scripts/setup.sh takes {taken:?}, not {missing:?}");
}

/// The text of each Rust file below a folder, with its path.
fn rust_below(folder: &Path) -> Vec<(PathBuf, String)> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| match path.extension() {
        _ if path.is_dir() => rust_below(&path),
        Some(ext) if ext == "rs" => vec![(path.clone(), read(&path))],
        _ => Vec::new(),
    });
    files.collect()
}

#[test]
fn every_test_that_a_table_of_failures_names_is_there() {
    let tests = rust_below(&root().join("tests"));
    let is_there = |name: &str| {
        let function = format!("fn {name}(");
        tests.iter().any(|(path, text)| {
            path.file_stem().is_some_and(|stem| stem == name) || text.contains(&function)
        })
    };
    let (mut seen, mut missing) = (0, Vec::new());
    for table in ["tests/product/main.rs", "tests/buying/main.rs"] {
        let text = read(&root().join(table));
        let rows = text.lines().filter(|line| line.starts_with("//! | "));
        for named in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
            let Some(name) = named.split([' ', ':']).next_back() else { continue };
            seen += 1;
            if name.contains('_') && !is_there(name) {
                missing.push(named.to_owned());
            }
        }
    }
    assert!(seen > 40, "{seen}");
    assert!(missing.is_empty(), "no test is called {}", missing.join(", "));
}

#[test]
fn the_changelog_lists_every_command() {
    let text = read(&root().join("CHANGELOG.md"));
    let (_, list) = text.split_once("\n- Commands: ").unwrap();
    let listed: BTreeSet<&str> =
        list.split_once('.').unwrap().0.split(',').map(str::trim).collect();
    let commands = Cli::command();
    let there: BTreeSet<&str> = commands.get_subcommands().map(|c| c.get_name()).collect();
    assert_eq!(listed, there);
}
