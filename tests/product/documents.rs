//! Compares the documents with the command line, the config, the routes, the scripts and the tests: no page names a
//! thing that does not exist, or leaves out one that does.

mod configuration;
mod links;
mod reference;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use farebox::cli::Cli;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A command line of a document.
struct Typed {
    words: Vec<String>,
    /// The command stands in a sentence, which may name it without all of its required arguments.
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

/// The command lines of a typed command, with a value in place of each placeholder; one line for each choice
/// of `this|that`.
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

/// The files that tell people what to type.
fn documents() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|ext| ext == "md"));
    let others = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "web/README.md",
        "gateway.toml",
    ];
    markdown.chain(others.map(|name| root().join(name))).collect()
}

#[test]
fn every_command_in_the_documents_is_one_that_farebox_takes() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in documents() {
        for typed in typed_in(&read(&file)) {
            for line in lines_of(&typed) {
                seen += 1;
                let Err(error) = Cli::try_parse_from(&line) else { continue };
                if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                    continue;
                }
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

#[test]
fn every_target_of_make_that_a_document_names_is_there() {
    let makefile = read(&root().join("Makefile"));
    let targets: BTreeSet<&str> = (makefile.lines())
        .filter(|line| !line.starts_with(['\t', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    let (mut seen, mut missing) = (0, Vec::new());
    for file in documents() {
        let text = read(&file);
        for line in text.split(['\n', '`']).filter_map(|line| line.strip_prefix("make ")) {
            let named = line.split('#').next().unwrap().split_whitespace();
            for target in named.take_while(|word| !word.starts_with('(')) {
                let is_variable = target.contains('=');
                seen += usize::from(!is_variable);
                if !is_variable && !targets.contains(target) {
                    missing.push(format!("{}: make {target}", file.display()));
                }
            }
        }
    }
    assert!(seen > 20, "{seen}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
