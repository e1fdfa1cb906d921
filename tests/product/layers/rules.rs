//! Imports run one way, down the list of layers in ARCHITECTURE.md and without circles. Only `store` speaks SQL and
//! Redis's protocol.
//!
//! The test reads the text of `src/`: `use` items, paths that begin with `crate`, `self` or `super`, and paths
//! through an imported module (`rules::decide`). A path is followed through re-exports to the file that
//! defines the item. Three kinds of text are exempt:
//! - unit tests, which may look at anything;
//! - `mod x;` and `pub use`: a `mod.rs` lists the files below it, and that is no dependency on them;
//! - method calls, which name no module: files that extend one type with `impl` blocks count as separate.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::source::{ModulePath, Source, root};

/// Imports that still run upwards, as `file -> layer`. An entry that is no longer true fails the test.
const KNOWN_UPWARD: [&str; 0] = [];

/// Circles that still exist, each with all of its files in order. An entry that is no longer true fails the
/// test.
const KNOWN_CIRCLES: [&[&str]; 0] = [];

#[test]
fn imports_run_down_the_list_of_layers() {
    let source = Source::read();
    let layers = layers(&std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap());
    let place = |module: &str| layers.iter().position(|layer| layer.iter().any(|m| m == module));
    let top: BTreeSet<_> = source.files.keys().filter_map(|path| path.first().cloned()).collect();
    let listed: BTreeSet<_> = layers.iter().flatten().cloned().collect();
    assert_eq!(top, listed, "the layers in ARCHITECTURE.md are the modules of src/");
    let mut upward = BTreeSet::new();
    for file in source.files.values() {
        let Some(from) = file.module.first() else { continue };
        for path in &file.paths {
            let to = &path[0];
            assert!(place(to).is_some(), "{} names {to}, which is no module", file.name);
            if to != from && place(to) <= place(from) {
                upward.insert(format!("{} -> {to}", file.name));
            }
        }
    }
    let known: BTreeSet<String> = KNOWN_UPWARD.map(str::to_owned).into();
    let new: Vec<_> = upward.difference(&known).collect();
    assert!(new.is_empty(), "these imports run upwards, or beside their layer: {new:#?}");
    let gone: Vec<_> = known.difference(&upward).collect();
    assert!(gone.is_empty(), "delete these entries of KNOWN_UPWARD: {gone:#?}");
}

#[test]
fn no_circle_runs_through_the_files() {
    let source = Source::read();
    let circles = source.circles();
    let known: BTreeSet<Vec<String>> =
        KNOWN_CIRCLES.iter().map(|files| files.iter().map(|f| (*f).to_owned()).collect()).collect();
    let is_known = |circle: &Vec<String>| {
        known.iter().any(|known| circle.iter().all(|file| known.contains(file)))
    };
    let new: Vec<_> = circles.iter().filter(|circle| !is_known(circle)).collect();
    assert!(new.is_empty(), "these files import each other in a circle:{}", shown(&source, &new));
    let gone: Vec<_> = known.difference(&circles).collect();
    assert!(gone.is_empty(), "these entries of KNOWN_CIRCLES are smaller or gone: {gone:#?}");
}

#[test]
fn only_the_store_names_the_clients_of_sql_and_redis() {
    let source = Source::read();
    let others = source.files.values().filter(|file| !file.name.starts_with("store/"));
    let found: Vec<_> = others
        .flat_map(|file| file.store_crates.iter().map(|name| format!("{}: {name}", file.name)))
        .collect();
    assert!(found.is_empty(), "only src/store/ may name these crates: {found:#?}");
}

/// The rest of the gateway calls the typed methods of `Ledger`.
#[test]
fn only_the_ledger_and_its_stores_name_outcomes() {
    let source = Source::read();
    let mut found = Vec::new();
    for file in source.files.values() {
        let is_exempt = ["ledger/", "store/"].iter().any(|folder| file.name.starts_with(folder));
        let names = ["Operation", "Outcome"];
        let of_the_ledger = |path: &&ModulePath| {
            path[0] == "ledger" && names.iter().any(|name| path.last().unwrap() == name)
        };
        if !is_exempt {
            found.extend(file.paths.iter().filter(of_the_ledger).map(|path| (&file.name, path)));
        }
    }
    assert!(found.is_empty(), "call a method of `Ledger` in place of these: {found:#?}");
}

/// A text that a client reads stands in one place, in both languages.
#[test]
fn only_the_catalogue_has_texts_for_clients() {
    let source = Source::read();
    let others = source.files.values().filter(|file| !file.name.starts_with("problem/"));
    let makes_one = |name: &String| {
        let text = std::fs::read_to_string(root().join("src").join(name)).unwrap();
        ["Text::new(", "Text::fixed("].iter().any(|call| text.contains(call))
    };
    let found: Vec<_> = others.map(|file| &file.name).filter(|name| makes_one(name)).collect();
    assert!(found.is_empty(), "move the texts of these files to src/problem/texts/: {found:#?}");
}

/// The lists of modules in the block of ARCHITECTURE.md, from top to bottom.
fn layers(document: &str) -> Vec<Vec<String>> {
    let block = document.split_once("```layers\n").and_then(|(_, rest)| rest.split_once("```"));
    let (block, _) = block.expect("ARCHITECTURE.md has a block `layers`");
    block.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Each circle with the imports that close it.
fn shown(source: &Source, circles: &[&Vec<String>]) -> String {
    let mut text = String::new();
    for circle in circles {
        text.push('\n');
        for (from, to) in source.edges() {
            if circle.contains(&from) && circle.contains(&to) {
                writeln!(text, "{from} -> {to}").unwrap();
            }
        }
    }
    text
}
