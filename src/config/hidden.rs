//! Values that no message may repeat.

use std::ops::Range;

/// The values that came from a variable, or whose key is secret by its name. They are removed from
/// every message before it is shown.
#[derive(Default)]
pub(crate) struct Hidden(Vec<String>);

/// Values shorter than this are hidden only as a whole word in quotes. If a value such as `a` were
/// hidden everywhere, every message would be unreadable.
const SHORT: usize = 4;

/// Values of this length or longer are hidden outside of quotes as well, even if they consist of
/// letters only. No message of Farebox's own has such a long word.
const LONG: usize = 16;

impl Hidden {
    /// Adds a value to those that are hidden.
    pub(crate) fn add(&mut self, value: &str) {
        // A message may contain the value as it is, or as `{:?}` prints it.
        for shape in [value.to_owned(), value.escape_debug().to_string()] {
            if !shape.trim().is_empty() && !self.0.contains(&shape) {
                self.0.push(shape);
            }
        }
        // Longer values are replaced first, since one value may contain another.
        self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
    }

    /// Returns `text`, a message about the key `key`, with every hidden value replaced by `…`.
    ///
    /// If a value is also one of the message's own words, the value is replaced only in quotes,
    /// because a gap in a fixed sentence would reveal it.
    pub(crate) fn clean(&self, text: &str, key: &str) -> String {
        let name = key.rsplit('.').next().unwrap_or(key);
        self.0.iter().fold(text.to_owned(), |text, value| without(&text, value, name))
    }
}

/// Returns `text`, a message about the key `name`, without `value`.
fn without(text: &str, value: &str, name: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let quotes = quotes(text);
    let is_word = value.len() < LONG && value.chars().all(char::is_alphabetic);
    let mut done = 0;
    for (at, _) in text.match_indices(value) {
        let end = at + value.len();
        let inside_a_word = text[..at].ends_with(char::is_alphanumeric)
            || text[end..].starts_with(char::is_alphanumeric);
        let is_hidden = match quotes.iter().find(|quote| quote.start <= at && end <= quote.end) {
            Some(quote) => text[quote.clone()] != *name && (value.len() >= SHORT || !inside_a_word),
            None => value.len() >= SHORT && !is_word && value != name,
        };
        if is_hidden {
            clean.push_str(&text[done..at]);
            clean.push('…');
            done = end;
        }
    }
    clean.push_str(&text[done..]);
    clean
}

/// The ranges of the text that are between quotes.
fn quotes(text: &str) -> Vec<Range<usize>> {
    let mut quotes = Vec::new();
    let mut open = None;
    for (at, mark) in text.match_indices(['`', '"']) {
        match open {
            None => open = Some((at + 1, mark)),
            Some((start, opened)) if opened == mark => {
                quotes.push(start..at);
                open = None;
            }
            Some(_) => {}
        }
    }
    quotes
}

/// True for a key whose name marks its value as secret.
pub(crate) fn is_secret_key(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "token", "password", "headers"].iter().any(|word| name.contains(word))
        || name.starts_with("redis_")
        || name.starts_with("postgres_") && name.ends_with("_url")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_values_are_cleaned_out_of_any_message() {
        let mut hidden = Hidden::default();
        for value in ["hunter2", "hunter2-live", "a\"b\"c", "no", ""] {
            hidden.add(value);
        }
        for (message, clean) in [
            ("got hunter2-live", "got …"),
            ("got `hunter2`, xhunter2x", "got `…`, x…x"),
            (r#"got "a\"b\"c""#, r#"got "…""#),
            ("`no` is no key, nor is \"no\" or `not`", "`…` is no key, nor is \"…\" or `not`"),
        ] {
            assert_eq!(hidden.clean(message, "routes[0].path"), clean);
        }
    }
}
