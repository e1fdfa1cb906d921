//! The mistakes of one `[[auth.jwt]]`, which are noted while it is checked.

use crate::config::Mistake;

/// The check of one `[[auth.jwt]]`. A method that finds a mistake notes it and returns `None`.
pub(super) struct Entry {
    /// The place in the config: `auth.jwt[0]`.
    pub(super) key: String,
    pub(super) mistakes: Vec<Mistake>,
}

impl Entry {
    /// Starts a check that has found no mistake yet. `key` is the place in the config.
    pub(super) fn new(key: String) -> Self {
        Self { key, mistakes: Vec::new() }
    }

    /// Notes a mistake, like [`Entry::note`], and returns `None`.
    pub(super) fn refuse<T>(&mut self, name: &str, problem: &str, hint: &str) -> Option<T> {
        self.note(name, problem, hint);
        None
    }

    /// Notes a mistake. `problem` continues a sentence that begins with the key `name`; the empty
    /// name stands for the whole entry.
    pub(super) fn note(&mut self, name: &str, problem: &str, hint: &str) {
        let (key, message) = match name {
            "" => (self.key.clone(), format!("this [[auth.jwt]] {problem}")),
            name => (format!("{}.{name}", self.key), format!("`{name}` {problem}")),
        };
        self.mistakes.push(Mistake::new(key, message, hint));
    }
}
