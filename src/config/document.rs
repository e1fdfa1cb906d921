//! The parsed file, and the place of each key in the text.

use toml::de::{DeTable, DeValue};

use crate::config::{Located, Mistake};

/// The names of the lists of tables. TOML does not allow a name in single brackets twice, so the
/// hint for that error tells the user to write double ones.
const LISTS: [&str; 5] = ["upstreams", "routes", "models", "packs", "auth.jwt"];

/// A well-formed TOML file, with its values as they were written: variables are not expanded.
pub(crate) struct Document<'t> {
    text: &'t str,
    table: DeTable<'t>,
}

impl<'t> Document<'t> {
    /// Parses `text`.
    ///
    /// # Errors
    /// The first place that is not TOML. The text after it cannot be interpreted safely.
    pub(crate) fn parse(text: &'t str) -> Result<Self, Located> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Self { text, table: table.into_inner() }),
            // `error.message()` never quotes the file. The error's `Display` does, and the quoted
            // line may contain a secret.
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                let message = format!("not valid TOML: {}", error.message());
                let written = line_at(text, offset);
                let list = LISTS.iter().find(|name| written.starts_with(&format!("[{name}]")));
                let hint = match list {
                    Some(name) => {
                        format!("`{name}` is a list of tables: start each with [[{name}]]")
                    }
                    None => {
                        "strings and variables stand in quotes, a section starts with its name \
                             in brackets, no key is written twice"
                            .to_owned()
                    }
                };
                Err(Located {
                    line: Some(line_of(text, offset)),
                    column: Some(column_of(text, offset)),
                    file: None,
                    mistake: Mistake::new("", message, hint),
                })
            }
        }
    }

    /// The whole file.
    pub(crate) fn table(&self) -> &DeTable<'t> {
        &self.table
    }

    /// The line of a byte offset, counted from 1.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        line_of(self.text, offset)
    }

    /// The byte offset at which the key `path` starts. If the file does not have it, the offset of
    /// its nearest parent.
    pub(crate) fn offset_of(&self, path: &str) -> Option<usize> {
        let mut steps = path.split('.').flat_map(split_index);
        let Some(Step::Key(top)) = steps.next() else { return None };
        let (key, value) = self.table.get_key_value(top)?;
        let mut offset = key.span().start;
        let mut value = value.get_ref();
        for step in steps {
            let next = match (step, value) {
                (Step::Key(name), DeValue::Table(table)) => {
                    table.get_key_value(name).map(|(key, value)| (key.span(), value))
                }
                (Step::Index(index), DeValue::Array(array)) => {
                    array.get(index).map(|value| (value.span(), value))
                }
                _ => None,
            };
            let Some((span, inner)) = next else { break };
            offset = span.start;
            value = inner.get_ref();
        }
        Some(offset)
    }
}

enum Step<'p> {
    Key(&'p str),
    Index(usize),
}

/// Splits a part of a path into its key and its indexes: `routes[2]` → `routes`, 2.
fn split_index(part: &str) -> impl Iterator<Item = Step<'_>> {
    let mut pieces = part.split('[');
    let key = pieces.next().map(Step::Key);
    let indexes = pieces
        .map_while(|piece| piece.strip_suffix(']').and_then(|n| n.parse().ok()).map(Step::Index));
    key.into_iter().chain(indexes)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + before(text, offset).matches('\n').count()
}

/// The line at a byte offset, trimmed.
fn line_at(text: &str, offset: usize) -> &str {
    let start = before(text, offset).rfind('\n').map_or(0, |at| at + 1);
    text[start..].lines().next().unwrap_or_default().trim()
}

fn column_of(text: &str, offset: usize) -> usize {
    let head = before(text, offset);
    1 + head.rsplit('\n').next().unwrap_or(head).chars().count()
}

/// The text before a byte offset. The offset may come from an error, and then be past the end or
/// inside a character.
fn before(text: &str, offset: usize) -> &str {
    &text[..text.floor_char_boundary(offset)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_or_else_its_nearest_parent() {
        let text = "[server]\nlisten = 1\n[[routes]]\n[[routes]]\nhow = [\n 1,\n 2]\n[auth.keys]\n";
        let document = Document::parse(text).unwrap();
        let line = |key| document.offset_of(key).map(|offset| document.line_of(offset));
        assert_eq!(line("server"), Some(1));
        assert_eq!(line("server.listen"), Some(2));
        assert_eq!(line("server.listen.deeper[3]"), Some(2));
        assert_eq!(line("server.absent"), Some(1));
        assert_eq!(line("routes"), Some(3));
        assert_eq!(line("routes[0]"), Some(3));
        assert_eq!(line("routes[1].path"), Some(4));
        assert_eq!(line("routes[1].how[1]"), Some(7));
        assert_eq!(line("auth.keys.enabled"), Some(8));
        for nowhere in ["absent", "", "[0]", "..", "absent.key"] {
            assert_eq!(line(nowhere), None, "{nowhere}");
        }
    }
}
