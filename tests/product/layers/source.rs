//! The files of `src/` and the imports between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::text::{path_at, tokens, use_tree, without_tests};

/// Crates that only `src/store/` may name.
const STORE_CRATES: [&str; 2] = ["sqlx", "fred"];

/// A module by its path from the crate's root, which is empty.
pub type ModulePath = Vec<String>;

/// A file of `src/`.
pub struct File {
    /// The path below `src/`.
    pub name: String,
    pub module: ModulePath,
    /// The paths that the file names, from the crate's root on.
    pub paths: Vec<ModulePath>,
    /// The names that the file re-exports, with their absolute paths.
    pub reexports: BTreeMap<String, ModulePath>,
    /// The crates among [`STORE_CRATES`] that the file names.
    pub store_crates: BTreeSet<&'static str>,
}

pub struct Source {
    pub files: BTreeMap<ModulePath, File>,
}

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Source {
    pub fn read() -> Self {
        let src = root().join("src");
        let mut names = Vec::new();
        list(&src, &mut names);
        let of = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let texts: Vec<_> = names
            .iter()
            .map(|path| (of(path), without_tests(&std::fs::read_to_string(path).unwrap())))
            .collect();
        let tests: Vec<ModulePath> = texts
            .iter()
            .flat_map(|(name, (_, tests))| tests.iter().map(|test| joined(&module_of(name), test)))
            .collect();
        let is_test = |module: &ModulePath| tests.iter().any(|test| module.starts_with(test));
        let texts: Vec<_> =
            texts.into_iter().filter(|(name, _)| !is_test(&module_of(name))).collect();
        let modules: Vec<_> = texts.iter().map(|(name, _)| module_of(name)).collect();
        let files = texts.iter().map(|(name, (text, _))| {
            let file = File::parse(name, &modules, text);
            (file.module.clone(), file)
        });
        Self { files: files.collect() }
    }

    /// The file that defines the last name of `path`, unless the path ends at a module.
    fn file_of(&self, path: &[String]) -> Option<&File> {
        let mut module = ModulePath::new();
        for (n, name) in path.iter().enumerate() {
            let below = joined(&module, name);
            if self.files.contains_key(&below) {
                module = below;
                continue;
            }
            let file = self.files.get(&module)?;
            return match file.reexports.get(name) {
                Some(origin) => {
                    let rest = path[n + 1..].iter().cloned();
                    self.file_of(&origin.iter().cloned().chain(rest).collect::<Vec<_>>())
                }
                None => Some(file),
            };
        }
        None
    }

    /// Imports from file to file.
    pub fn edges(&self) -> BTreeSet<(String, String)> {
        let mut edges = BTreeSet::new();
        for file in self.files.values() {
            for path in &file.paths {
                if let Some(to) = self.file_of(path).filter(|to| to.name != file.name) {
                    edges.insert((file.name.clone(), to.name.clone()));
                }
            }
        }
        edges
    }

    /// The sets of files in which each file reaches all others by imports.
    pub fn circles(&self) -> BTreeSet<Vec<String>> {
        let mut next: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (from, to) in self.edges() {
            next.entry(from).or_default().push(to);
        }
        let reached = |from: &String| {
            let (mut seen, mut waiting) = (BTreeSet::new(), vec![from]);
            while let Some(file) = waiting.pop() {
                for to in next.get(file).into_iter().flatten() {
                    if seen.insert(to.clone()) {
                        waiting.push(to);
                    }
                }
            }
            seen
        };
        let all: BTreeMap<_, _> = next.keys().map(|file| (file, reached(file))).collect();
        let circle = |file: &String| -> Vec<String> {
            let mutual = |other: &&String| all.get(other).is_some_and(|back| back.contains(file));
            all[file].iter().filter(mutual).cloned().collect()
        };
        next.keys().map(circle).filter(|circle| circle.len() > 1).collect()
    }
}

impl File {
    fn parse(name: &str, modules: &[ModulePath], text: &str) -> Self {
        let (text, _) = without_tests(text);
        let module = module_of(name);
        let tokens = tokens(&text);
        let mut file = Self {
            name: name.to_owned(),
            module: module.clone(),
            paths: Vec::new(),
            reexports: BTreeMap::new(),
            store_crates: STORE_CRATES.into_iter().filter(|name| tokens.contains(name)).collect(),
        };
        // Modules that this file can name by their last name alone.
        let mut near: BTreeMap<String, ModulePath> = modules
            .iter()
            .filter(|child| child.len() == module.len() + 1 && child.starts_with(&module))
            .map(|child| (child[module.len()].clone(), child.clone()))
            .collect();
        let mut rest = Vec::new();
        let mut tokens = tokens.as_slice();
        while let Some((token, behind)) = tokens.split_first() {
            tokens = behind;
            if *token != "use" {
                rest.push(*token);
                continue;
            }
            let end = tokens.iter().position(|token| *token == ";").unwrap_or(tokens.len());
            let is_public = matches!(&rest[..], [.., "pub"] | [.., "pub", "(", _, ")"]);
            for (path, alias) in use_tree(&tokens[..end]) {
                let Some(path) = absolute(&path, &module, &near) else { continue };
                if is_public {
                    file.reexports.insert(alias, path);
                } else {
                    if modules.contains(&path) {
                        near.insert(alias, path.clone());
                    }
                    file.paths.push(path);
                }
            }
            tokens = &tokens[end..];
        }
        for start in 0..rest.len() {
            let is_inside = start > 0 && rest[start - 1] == "::";
            let names: Vec<&str> = path_at(&rest[start..]);
            if names.len() > 1 && !is_inside {
                file.paths.extend(absolute(&names, &module, &near));
            }
        }
        file
    }
}

/// A path from the crate's root on; `None` for another crate's, and for the crate's root itself.
fn absolute(
    path: &[&str],
    module: &ModulePath,
    near: &BTreeMap<String, ModulePath>,
) -> Option<ModulePath> {
    let (first, mut rest) = path.split_first()?;
    let mut absolute = match *first {
        "crate" | "farebox" => Vec::new(),
        "self" => module.clone(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        name => near.get(name)?.clone(),
    };
    while let Some(("super", behind)) = rest.split_first().map(|(name, behind)| (*name, behind)) {
        absolute.pop()?;
        rest = behind;
    }
    absolute.extend(rest.iter().filter(|name| **name != "self").map(|name| (*name).to_owned()));
    (!absolute.is_empty()).then_some(absolute)
}

/// The module of a file of `src/`.
fn module_of(name: &str) -> ModulePath {
    let mut path: ModulePath = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
        path.pop();
    }
    path
}

fn joined(module: &ModulePath, name: &str) -> ModulePath {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn paths_are_read_out_of_any_shape_of_use() {
    let text = r##"
        //! use crate::comment::A;
        use crate::a::{self, b::{C, D as E}, F};
        pub(crate) use self::g::H;
        use super::i::J; /* use crate::block::K; */
        fn f() { let _ = ("// no comment", 'x', '"', r#"use crate::string::L;"#); a::m::N }
        #[serde(with = "crate::o::p")]
        #[cfg(test)]
        mod tests {
            use crate::q::R;
        }
        fn g<'a>(x: &'a str) -> crate::s::T<'a> {}
    "##;
    let modules = [vec!["a".to_owned()], ["x", "y", "g"].map(str::to_owned).to_vec()];
    let file = File::parse("x/y.rs", &modules, text);
    let paths: BTreeSet<_> = file.paths.iter().map(|path| path.join("::")).collect();
    let expected = ["a", "a::b::C", "a::b::D", "a::F", "x::i::J", "a::m::N", "o::p", "s::T"];
    assert_eq!(paths, expected.map(str::to_owned).into());
    assert_eq!(file.reexports["H"].join("::"), "x::y::g::H");
}
