//! Reads a section of the file into its struct, and finds all of its mistakes.
//!
//! serde stops at the first error. To find the others, the wrong entry is removed from a copy of
//! the section, or a missing entry is filled in, and the copy is read again. This repeats until the
//! copy can be read or no repair is left. A struct from a repaired copy is used only for further
//! checks: a file with a mistake never becomes a `Config`.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::config::Env;
use crate::config::document::Document;
use crate::config::list::List;
use crate::config::repair::StandIns;
use crate::config::report::Report;
use crate::config::{Sections, explain, repair, variables};

/// Reads the sections of one file.
pub(crate) struct Reader<'r, 'd> {
    pub(crate) document: &'r Document<'r>,
    pub(crate) sections: Sections,
    pub(crate) env: Env<'r>,
    pub(crate) report: &'r mut Report<'d>,
}

impl Reader<'_, '_> {
    /// Reads a section that always has a value: its defaults, if the file has no such section or
    /// the command does not read it.
    pub(crate) fn table<T: DeserializeOwned>(&mut self, name: &str, is: Sections) -> Option<T> {
        let written = self.document.table().get(name).filter(|_| self.sections.contains(is));
        let empty = Spanned::new(0..0, DeValue::Table(DeTable::new()));
        self.element(written.unwrap_or(&empty), name)
    }

    /// Reads a section that has a value only if the command reads it.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &str, is: Sections) -> Option<T> {
        if self.sections.contains(is) { self.table(name, is) } else { None }
    }

    /// Reads a section that has a value only if the command reads it and the file has it.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, name: &str, is: Sections) -> Option<T> {
        if self.document.table().contains_key(name) { self.required(name, is) } else { None }
    }

    /// Reads an array of tables.
    pub(crate) fn list<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        is: Sections,
    ) -> List<T> {
        let mut list = List::new(name);
        let written = self.document.table().get(name).filter(|_| self.sections.contains(is));
        match written.map(Spanned::get_ref) {
            None => {}
            Some(DeValue::Array(elements)) => {
                for (place, element) in elements.iter().enumerate() {
                    if let Some(item) = self.element(element, &format!("{name}[{place}]")) {
                        list.items.push(item);
                        list.places.push(place);
                    }
                }
            }
            Some(_) => {
                let message = format!("`{name}` is a list of tables");
                self.report.add(name, None, message, format!("start each with [[{name}]]"));
            }
        }
        list
    }

    /// The names of all upstreams in the file, even if the command does not read them or they have
    /// mistakes. Thus a mistake in an upstream does not cause a second mistake at its routes.
    pub(crate) fn upstream_names(&mut self) -> Vec<String> {
        let written = self.document.table().get("upstreams");
        let upstreams = written.and_then(|list| list.get_ref().as_array());
        let mut names = Vec::new();
        for upstream in upstreams.into_iter().flat_map(|list| list.iter()) {
            if let Some(name) = upstream.get_ref().get("name").and_then(|n| n.get_ref().as_str()) {
                let name = variables::expand(name, self.env);
                name.values.iter().for_each(|value| self.report.hidden.add(value));
                names.push(name.text);
            }
        }
        names
    }

    /// The currency code of the file's prices; if there is no price, that of its costs.
    fn currency(&self) -> String {
        let is_code =
            |code: &&str| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let code_in = |(list, key): (&str, &str)| {
            let elements = self.document.table().get(list)?.get_ref().as_array()?;
            let mut amounts = elements.iter().filter_map(|element| element.get_ref().get(key));
            amounts.find_map(|amount| {
                let text = variables::expand(amount.get_ref().as_str()?, self.env).text;
                text.split(' ').next_back().filter(is_code).map(str::to_owned)
            })
        };
        let code = [("packs", "price"), ("routes", "cost")].into_iter().find_map(code_in);
        code.unwrap_or_else(|| "EUR".to_owned())
    }

    fn element<T: DeserializeOwned>(
        &mut self,
        written: &Spanned<DeValue<'_>>,
        key: &str,
    ) -> Option<T> {
        if !written.get_ref().is_table() {
            let message = format!("`{key}` is a table");
            let hint = format!("write {} on a line of its own", explain::header(key));
            self.report.add(key, None, message, hint);
            return None;
        }
        let mut value = written.clone();
        variables::expand_all(&mut value, key, self.env, self.report);
        read(written, value, key, &StandIns::new(&self.currency()), self.report)
    }
}

/// Reads `value`, which is `written` after expansion. `None` only if a mistake was reported.
fn read<T: DeserializeOwned>(
    written: &Spanned<DeValue<'_>>,
    mut value: Spanned<DeValue<'_>>,
    key: &str,
    stand_ins: &StandIns,
    report: &mut Report<'_>,
) -> Option<T> {
    let mut filled = 0;
    loop {
        let mut ignored = Vec::new();
        let attempt = serde_ignored::deserialize(ValueDeserializer::from(value.clone()), |path| {
            ignored.push(key_of(&path, key));
        });
        let error = match attempt {
            Ok(read) => {
                for key in ignored {
                    report.add(&key, None, explain::unknown_key(&key), explain::NO_SUCH_KEY);
                }
                return Some(read);
            }
            Err(error) => error,
        };
        let span = error.span().unwrap_or_else(|| written.span());
        if repair::is_stand_in(&span) {
            if !repair::fill_in_otherwise(&mut value, &span, stand_ins) {
                return None;
            }
            continue;
        }
        let (place, found) = repair::find(written, &span, key).unwrap_or((key.to_owned(), written));
        let explained = explain::explain(error.message(), &place, found.get_ref());
        if !report.covers(&explained.key) {
            let offset = (span != (0..0)).then_some(span.start);
            report.add(&explained.key, offset, explained.message, explained.hint);
        }
        let repaired = match explained.missing {
            Some(name) => {
                filled += 1;
                repair::fill_in(&mut value, &span, &name, repair::stand_in(filled))
            }
            None => repair::take_out(&mut value, &span),
        };
        if !repaired {
            return None;
        }
    }
}

fn key_of(path: &serde_ignored::Path<'_>, root: &str) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => root.to_owned(),
        Path::Seq { parent, index } => format!("{}[{index}]", key_of(parent, root)),
        Path::Map { parent, key } => format!("{}.{key}", key_of(parent, root)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => key_of(parent, root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct that does not refuse unknown keys by itself.
    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Loose {
        sure: bool,
        inner: Vec<Inner>,
        second: String,
    }

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        count: u8,
        list: Vec<u8>,
        last: String,
    }

    fn messages(text: &str) -> Vec<String> {
        let document = Document::parse(text).unwrap();
        let mut report = Report::new(&document);
        let env = |_: &str| None;
        let sections = Sections::ALL;
        let mut reader = Reader { document: &document, sections, env: &env, report: &mut report };
        let _: Option<Loose> = reader.table("server", Sections::SERVER);
        let found = report.finish().into_iter();
        found.map(|f| format!("{:?} {}", f.line, f.mistake.message)).collect()
    }

    #[test]
    fn no_unknown_key_is_ignored() {
        let text = "[server]\nsure = true\nsecond = \"\"\nfree = 1\n\
                    [[server.inner]]\ncount = 1\nlist = []\nlast = \"\"\nloose.end = 2";
        assert_eq!(messages(text), ["Some(4) unknown key `free`", "Some(9) unknown key `loose`"]);
    }

    #[test]
    fn all_missing_keys_are_found_whatever_their_types() {
        let text = "[server]\n[[server.inner]]\n[[server.inner]]\ncount = 1";
        let missing = [
            "Some(1) missing key `sure`",
            "Some(1) missing key `second`",
            "Some(2) missing key `count`",
            "Some(2) missing key `list`",
            "Some(2) missing key `last`",
            "Some(3) missing key `list`",
            "Some(3) missing key `last`",
        ];
        let mut found = messages(text);
        found.sort();
        let mut missing = missing.map(str::to_owned).to_vec();
        missing.sort();
        assert_eq!(found, missing);
    }
}
