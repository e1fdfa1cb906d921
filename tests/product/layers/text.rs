//! Paths out of Rust's text.

/// The path that begins here: names with `::` between them.
pub fn path_at<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for pair in tokens.chunks(2) {
        if !pair[0].starts_with(|c: char| c.is_alphabetic() || c == '_') {
            break;
        }
        names.push(pair[0]);
        if pair.get(1) != Some(&"::") {
            break;
        }
    }
    names
}

/// The paths of a `use`, each with the name that it has here.
pub fn use_tree<'a>(tokens: &[&'a str]) -> Vec<(Vec<&'a str>, String)> {
    let mut found = Vec::new();
    let (mut prefixes, mut path): (Vec<Vec<&str>>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut alias, mut is_alias) = (None, false);
    for token in tokens.iter().chain([&","]) {
        match *token {
            "::" => {}
            "{" => prefixes.push(path.clone()),
            "," | "}" => {
                let prefix = prefixes.last().cloned().unwrap_or_default();
                if path.len() > prefix.len() {
                    if path.last() == Some(&"self") && path.len() > 1 {
                        path.pop();
                    }
                    let name = alias.take().or(path.last().copied()).unwrap_or_default();
                    found.push((path, name.to_owned()));
                }
                if *token == "}" {
                    prefixes.pop();
                }
                // Behind a brace comes a comma or another brace: the path is used up.
                path = prefixes.last().cloned().unwrap_or_default();
                (alias, is_alias) = (None, false);
            }
            "as" => is_alias = true,
            name if is_alias => alias = Some(name),
            name => path.push(name),
        }
    }
    found
}

/// The text without its unit tests, and the modules of unit tests that stand in files of their own.
pub fn without_tests(text: &str) -> (String, Vec<String>) {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let (mut kept, mut rest, mut tests) = (String::new(), text, Vec::new());
    while let Some((before, behind)) = rest.split_once(ATTRIBUTE) {
        kept.push_str(before);
        rest = behind;
        let item = behind.trim_start();
        let Some(item) = item.strip_prefix("mod ").or(item.strip_prefix("pub mod ")) else {
            continue;
        };
        let name: String = item.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        match item[name.len()..].trim_start().chars().next() {
            Some(';') => tests.push(name),
            // rustfmt closes an item with a brace at the item's own indentation.
            _ => {
                let line = before.rsplit('\n').next().unwrap_or_default();
                let end = format!("\n{line}}}");
                rest = behind.split_once(&end).map_or("", |(_, rest)| rest);
            }
        }
    }
    kept.push_str(rest);
    (kept, tests)
}

/// Splits text into names, `::` and single signs, without comments and strings. A string that is a path, as in
/// the attributes of serde, is split as well.
pub fn tokens(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            let length = string(rest);
            let inside = rest[1..length].trim_end_matches('"');
            if inside.starts_with("crate::") {
                found.extend(tokens(inside));
            }
            length
        } else if let Some(length) = character(rest) {
            length
        } else if is_name(first) {
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(&rest[..length]);
            length
        } else if rest.starts_with("::") {
            found.push("::");
            2
        } else {
            if !first.is_whitespace() {
                found.push(&rest[..first.len_utf8()]);
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// The length of the raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let quoted = text.strip_prefix("br").or(text.strip_prefix('r'))?;
    let hashes = quoted.chars().take_while(|c| *c == '#').count();
    let inside = quoted[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - inside.len();
    Some(start + inside.find(&end).map_or(inside.len(), |at| at + end.len()))
}

/// The length of the string that begins here.
fn string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal that begins here; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    if let Some(escaped) = inside.strip_prefix('\\') {
        let end = escaped.char_indices().skip(1).find(|(_, c)| *c == '\'')?.0;
        return Some(2 + end + 1);
    }
    let c = inside.chars().next()?;
    inside[c.len_utf8()..].starts_with('\'').then_some(c.len_utf8() + 2)
}
