//! JSON arrays of rows, written without serde because every call writes some.

use std::fmt::Write as _;

/// Rows as a JSON array of arrays: `[[…],[…]]`.
#[derive(Default)]
pub(crate) struct Rows(String);

impl Rows {
    /// Creates an empty list of rows.
    pub const fn new() -> Self {
        Self(String::new())
    }

    /// Starts a row.
    pub fn row(&mut self) -> Row<'_> {
        self.0.push(if self.0.is_empty() { '[' } else { ',' });
        self.0.push('[');
        Row { out: &mut self.0, first: true }
    }

    /// The length so far, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The finished array.
    pub fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('[');
        }
        self.0.push(']');
        self.0
    }

    /// Adds the finished array to a text.
    pub fn push_onto(&self, text: &mut String) {
        text.push_str(if self.0.is_empty() { "[" } else { &self.0 });
        text.push(']');
    }
}

/// A row, which is written value by value.
#[must_use = "a row ends with `end`"]
pub(crate) struct Row<'a> {
    out: &'a mut String,
    first: bool,
}

impl Row<'_> {
    fn next(&mut self) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
    }

    /// Adds a number.
    pub fn int(mut self, value: i64) -> Self {
        self.next();
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
        self
    }

    /// Adds an amount, a sequence number or a ledger time, which are all far below 2^63.
    pub fn count(self, value: u64) -> Self {
        self.int(i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// Adds a text.
    pub fn text(mut self, value: &str) -> Self {
        self.next();
        self.out.push('"');
        if value.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
            self.out.push_str(value);
        } else {
            for c in value.chars() {
                match c {
                    '"' | '\\' => self.out.extend(['\\', c]),
                    c if c < ' ' => drop(write!(self.out, "\\u{:04x}", u32::from(c))),
                    c => self.out.push(c),
                }
            }
        }
        self.out.push('"');
        self
    }

    /// Adds a text or null.
    pub fn optional(mut self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => {
                self.next();
                self.out.push_str("null");
                self
            }
        }
    }

    /// Ends the row.
    pub fn end(self) {
        self.out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_reads_back_as_it_was(texts in prop::collection::vec(".*", 0..5), n: i64) {
            let mut rows = Rows::default();
            for text in &texts {
                rows.row().text(text).int(n).optional(None).end();
            }
            let read: Vec<(String, i64, Option<String>)> =
                serde_json::from_str(&rows.finish()).unwrap();
            let expected: Vec<_> = texts.into_iter().map(|text| (text, n, None)).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
