//! What no message may repeat.

/// The values that came from a variable, or that stand in a key whose name says it is secret.
/// A message is cleaned of them on its way out, whoever wrote it.
#[derive(Default)]
pub(super) struct Hidden(Vec<String>);

/// Shorter values are hidden only where they stand as a word of their own, or hiding `a` would
/// make every message unreadable.
const SHORT: usize = 4;

impl Hidden {
    /// Never repeat `value`.
    pub(super) fn add(&mut self, value: &str) {
        // As it is, and as `{:?}` would print it.
        for shape in [value.to_owned(), value.escape_debug().to_string()] {
            if !shape.trim().is_empty() && !self.0.contains(&shape) {
                self.0.push(shape);
            }
        }
        // A value that contains another one goes first.
        self.0.sort_by_key(|value| std::cmp::Reverse(value.len()));
    }

    /// `text` with every hidden value replaced by `…`.
    pub(super) fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, value| without(&text, value))
    }
}

fn without(text: &str, value: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(value) {
        let end = at + value.len();
        let inside_a_word = text[..at].ends_with(char::is_alphanumeric)
            || text[end..].starts_with(char::is_alphanumeric);
        if value.len() >= SHORT || !inside_a_word {
            clean.push_str(&text[done..at]);
            clean.push('…');
            done = end;
        }
    }
    clean.push_str(&text[done..]);
    clean
}

/// True for a key whose value is a secret by its name.
pub(super) fn is_secret_key(name: &str) -> bool {
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
            ("no key is not known", "… key is not known"),
        ] {
            assert_eq!(hidden.clean(message), clean);
        }
    }
}
