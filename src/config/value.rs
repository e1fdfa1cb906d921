//! The types of values in a config: secrets, and lengths of time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A secret from the config or the environment. Its `Debug` hides the value and it has no
/// `Display`; compare it with [`Secret::matches`].
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret that did not come from the config.
    pub fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the code that sends it or verifies with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True for the empty secret, which no section accepts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Describes characters of this secret that no service uses in secrets. They were added when
    /// the secret was copied into a file or the environment.
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

/// A length of time from the config, as people write it: `500ms`, `5s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A span of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

/// Writes the span as in the config.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time in quotes, such as \"500ms\", \"5s\" or \"2m\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                humantime::parse_duration(text).map(Span).map_err(|_| {
                    E::custom(format_args!(
                        "`{text}` is not a length of time; write it like \"500ms\", \"5s\" or \"2m\""
                    ))
                })
            }
        }
        deserializer.deserialize_str(Visitor)
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
    fn a_character_copied_along_with_a_secret_is_named() {
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
