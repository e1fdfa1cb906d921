//! A value that is never printed.

use std::fmt;

use serde::Deserialize;

/// A secret from the config or the environment. `Debug` hides it, nothing displays it; compare
/// it with [`Secret::matches`].
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret that did not come from the config.
    pub fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself: for the one place that must send or verify with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for the empty secret, which no section accepts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A description of characters that no service puts into a secret. They came along when the
    /// secret was copied into a file or the environment.
    pub fn stray(&self) -> Option<&'static str> {
        const QUOTES: [char; 7] = ['"', '\'', '`', '\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}'];
        if self.0.contains(['\n', '\r']) {
            Some("a line break")
        } else if self.0.contains(char::is_whitespace) {
            Some("a space")
        } else if self.0.contains(QUOTES) {
            Some("quotes")
        } else {
            None
        }
    }

    /// Compares in constant time.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_bytes(), candidate).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(secret.matches(b"hunter2"));
        assert!(!secret.matches(b"hunter"));
    }

    #[test]
    fn what_came_along_when_a_secret_was_copied_is_named() {
        for (text, stray) in [
            ("hunter2", None),
            ("hunter2\n", Some("a line break")),
            ("hunter2\r\n", Some("a line break")),
            (" hunter2", Some("a space")),
            ("hunter\t2", Some("a space")),
            ("hunter2\u{a0}", Some("a space")),
            ("\"hunter2\"", Some("quotes")),
            ("'hunter2'", Some("quotes")),
            ("\u{201c}hunter2\u{201d}", Some("quotes")),
        ] {
            assert_eq!(Secret::new(text).stray(), stray, "{text:?}");
        }
    }
}
