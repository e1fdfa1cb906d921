//! Names and links: the repository stands alone, and no link in it leads nowhere.

use std::path::{Path, PathBuf};

use super::{read, root};

/// Folders that hold no text of ours.
const SKIPPED: [&str; 3] = [".git", "node_modules", "target"];

/// Every text file of the repository below a folder.
fn texts_below(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !SKIPPED.contains(&&*name) {
            texts.extend(texts_below(&path));
        } else if path.is_file()
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            texts.push((path, text));
        }
    }
    texts
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "md")
}

/// Each name of a Markdown file in a text, with its line, and the anchor behind it, if any.
fn documents_named_in(text: &str) -> Vec<(usize, String, Option<String>)> {
    let of_a_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let mut named = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (end, ext) in line.match_indices(".md") {
            let before = &line[..end];
            let start = before.rfind(|c| !of_a_path(c)).map_or(0, |at| at + 1);
            // `at` is the place of a character of any width.
            let start = (start..=end).find(|at| line.is_char_boundary(*at)).unwrap_or(end);
            let name = &line[start..end];
            let after = &line[end + ext.len()..];
            let goes_on = after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            // An extension alone, and an address on the web.
            if name.is_empty() || name.ends_with('/') || name.starts_with("//") || goes_on {
                continue;
            }
            let anchor = after.strip_prefix('#').map(|anchor| {
                let end = anchor.find(|c: char| !c.is_alphanumeric() && !"-_".contains(c));
                anchor[..end.unwrap_or(anchor.len())].to_owned()
            });
            // A program may put the anchor together.
            let anchor = anchor.filter(|anchor| !anchor.is_empty());
            named.push((number + 1, format!("{name}.md"), anchor));
        }
    }
    named
}

/// The lines of a Markdown file that are not code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchors of a Markdown file's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// Whether the Markdown file has a heading of this anchor.
fn has_anchor(file: &Path, anchor: &str) -> bool {
    anchors(&read(file)).iter().any(|known| known == anchor)
}

#[test]
fn every_document_that_a_file_names_is_in_the_repository() {
    let (mut seen, mut dangling) = (0, Vec::new());
    for (path, text) in texts_below(root()) {
        let near = path.parent().unwrap();
        for (line, name, anchor) in documents_named_in(&text) {
            seen += 1;
            let at = || format!("{}:{line}: {name}", path.display());
            let found = [near, root()].map(|folder| folder.join(name.trim_start_matches('/')));
            match (found.iter().find(|file| file.is_file()), anchor) {
                (None, _) => dangling.push(at()),
                (Some(file), Some(anchor)) if !has_anchor(file, &anchor) => {
                    dangling.push(format!("{}#{anchor}", at()));
                }
                _ => {}
            }
        }
    }
    assert!(seen > 100, "{seen}");
    assert!(dangling.is_empty(), "these are not here:\n{}", dangling.join("\n"));
}

/// The targets of the links and pictures in a line of Markdown.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let in_markdown = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let in_html = ["src=\"", "href=\""].into_iter().flat_map(|attribute| {
        line.split(attribute).skip(1).filter_map(|rest| rest.split('"').next())
    });
    in_markdown.chain(in_html)
}

#[test]
fn every_link_in_markdown_leads_somewhere() {
    let (mut seen, mut dangling) = (0, Vec::new());
    for (path, text) in texts_below(root()).iter().filter(|(path, _)| is_markdown(path)) {
        for (number, line) in prose(text) {
            for target in targets(line).filter(|target| !target.contains("://")) {
                seen += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file = match file {
                    "" => path.clone(),
                    file => path.parent().unwrap().join(file),
                };
                let is_there = file.exists()
                    && (anchor.is_empty() || is_markdown(&file) && has_anchor(&file, anchor));
                if !is_there {
                    dangling.push(format!("{}:{}: {target}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 60, "{seen}");
    assert!(dangling.is_empty(), "these lead nowhere:\n{}", dangling.join("\n"));
}

#[test]
fn the_first_pages_are_short() {
    for (name, most) in [("README.md", 950), ("ARCHITECTURE.md", 1500)] {
        let words = read(&root().join(name)).split_whitespace().count();
        assert!(words <= most, "{name} has {words} words; it may have {most}");
    }
}

#[test]
fn every_page_can_be_reached_from_the_readme() {
    let markdown: Vec<PathBuf> = texts_below(root())
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| is_markdown(path))
        .collect();
    let mut reached = vec![root().join("README.md")];
    let mut next = 0;
    while let Some(page) = reached.get(next).cloned() {
        next += 1;
        let text = read(&page);
        for target in prose(&text).flat_map(|(_, line)| targets(line)) {
            let file = target.split('#').next().unwrap();
            let Ok(file) = page.parent().unwrap().join(file).canonicalize() else { continue };
            if is_markdown(&file) && !reached.contains(&file) {
                reached.push(file);
            }
        }
    }
    let lost: Vec<&PathBuf> = markdown.iter().filter(|page| !reached.contains(page)).collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
}

/// Folders of the repository, as paths in documents begin.
const FOLDERS: [&str; 9] = [
    "benches/",
    "deploy/",
    "docs/",
    "examples/",
    "migrations/",
    "scripts/",
    "src/",
    "tests/",
    "web/",
];

/// Endings of files that are ours wherever a document names them.
const OUR_ENDINGS: [&str; 4] = [".rs", ".lua", ".sh", ".sql"];

/// Whether a path of the repository is there: a file, a folder, or a Rust module without its ending.
fn is_path(path: &str) -> bool {
    let path = path.split('*').next().unwrap();
    let there = root().join(path);
    there.exists() || there.with_extension("rs").is_file()
}

#[test]
fn every_file_that_a_document_names_is_in_the_repository() {
    let all = texts_below(root());
    let names: Vec<String> = all
        .iter()
        .map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let (mut seen, mut missing) = (0, Vec::new());
    for (path, text) in all.iter().filter(|(path, _)| is_markdown(path)) {
        let shown = path.file_name().unwrap().to_string_lossy();
        // The changelog also tells of files that have gone.
        if shown == "CHANGELOG.md" {
            continue;
        }
        let of_a_path = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
        for word in text.split(|c| !of_a_path(c)) {
            let word = word.trim_end_matches('.');
            let is_ours = if FOLDERS.iter().any(|folder| word.starts_with(folder)) {
                is_path(word)
            } else if OUR_ENDINGS.iter().any(|ending| word.ends_with(ending) && word != *ending) {
                let name = word.rsplit('/').next().unwrap();
                name.starts_with('*') || names.iter().any(|known| known == name)
            } else {
                continue;
            };
            seen += 1;
            if !is_ours {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert!(seen > 60, "{seen}");
    assert!(missing.is_empty(), "these are not here:\n{}", missing.join("\n"));
}

#[test]
fn every_module_stands_in_one_layer_of_the_architecture() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let (_, block) = text.split_once("```layers\n").unwrap();
    let layers = block.split("```").next().unwrap();
    let mut listed: Vec<&str> = layers.split_whitespace().collect();
    let sources = std::fs::read_dir(root().join("src")).unwrap();
    let modules = sources.map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned());
    // The crate's root names the modules, and uses none.
    let mut modules: Vec<_> = modules.filter(|module| module != "lib").collect();
    listed.sort_unstable();
    modules.sort_unstable();
    assert_eq!(listed, modules);
}
