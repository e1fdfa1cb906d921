//! The `match` of a model: a name, or a pattern with `*`.

use std::borrow::Cow;
use std::fmt;

/// The longest name of a model, in bytes.
pub const MAX_MODEL_BYTES: usize = 255;

/// A pattern for names of models, in lower case. `*` stands for any text at that place, or for
/// none. Names are compared without regard to ASCII case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPattern(Box<str>);

/// The reason why a text is not a pattern. The part after the semicolon is the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelPatternError {
    /// The text is empty, too long, or has characters other than visible ASCII.
    #[error(
        "a model's name is 1 to 255 visible ASCII characters; write it as requests do, with `*` for any text"
    )]
    NotAName,
    /// Two `*` stand side by side.
    #[error("`**` means the same as `*`; write one `*`")]
    TwoStars,
}

/// Whether a request may use `name` as the name of its model: 1 to 255 visible ASCII characters.
pub fn is_model_name(name: &str) -> bool {
    (1..=MAX_MODEL_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl ModelPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`ModelPatternError`] if no model can match the pattern, or if it is not written in the
    /// simplest way.
    pub fn parse(text: &str) -> Result<Self, ModelPatternError> {
        if !is_model_name(text) {
            return Err(ModelPatternError::NotAName);
        }
        if text.contains("**") {
            return Err(ModelPatternError::TwoStars);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The pattern in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern is the name of a single model.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// The number of characters that are not `*`. Among patterns that match, the longest wins.
    pub(super) fn length(&self) -> usize {
        self.0.bytes().filter(|byte| *byte != b'*').count()
    }

    /// The number of `*`.
    pub(super) fn stars(&self) -> usize {
        self.0.len() - self.length()
    }

    /// Whether `model`, which must be in lower case, matches.
    pub(super) fn matches(&self, model: &str) -> bool {
        let (pattern, model) = (self.0.as_bytes(), model.as_bytes());
        let (mut p, mut m) = (0, 0);
        // The position of the last `*` so far, and the end of the text that it stands for.
        let mut star = None;
        while let Some(letter) = model.get(m) {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, m));
                    p += 1;
                }
                Some(wanted) if wanted == letter => {
                    p += 1;
                    m += 1;
                }
                // The last `*` takes one more character.
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        p = at + 1;
                        m = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern.iter().skip(p).all(|rest| *rest == b'*')
    }

    /// Whether some name matches both patterns.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.0.as_bytes(), other.0.as_bytes());
        // `reach[j]` says whether some text matches both `one[..i]` and `two[..j]`.
        let mut reach = vec![false; two.len() + 1];
        for i in 0..=one.len() {
            let mut next = vec![false; two.len() + 1];
            for j in 0..=two.len() {
                let mine = i.checked_sub(1).and_then(|i| one.get(i));
                let theirs = j.checked_sub(1).and_then(|j| two.get(j));
                let before_both = j > 0 && reach.get(j - 1) == Some(&true);
                let before_mine = i > 0 && reach.get(j) == Some(&true);
                let before_theirs = j > 0 && next.get(j - 1) == Some(&true);
                let is_reached = match (mine, theirs) {
                    (None, None) => true,
                    (Some(b'*'), Some(b'*')) => before_both || before_mine || before_theirs,
                    (Some(b'*'), _) => before_mine || before_theirs,
                    (_, Some(b'*')) => before_mine || before_theirs,
                    (Some(mine), Some(theirs)) => mine == theirs && before_both,
                    _ => false,
                };
                if let Some(place) = next.get_mut(j) {
                    *place = is_reached;
                }
            }
            reach = next;
        }
        reach.last() == Some(&true)
    }

    /// The part of `model` that the first `*` of the pattern stands for, as `model` spells it.
    fn taken<'m>(&self, model: &'m str) -> Option<&'m str> {
        let (before, after) = self.0.split_once('*')?;
        model.get(before.len()..model.len().checked_sub(after.len())?)
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The model's name at an upstream: a name, or a text with `*` for the part that the `*` of the
/// pattern stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rename(Box<str>);

impl Rename {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as written.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The new name for `model`, which must match `pattern`.
    pub(super) fn apply(&self, pattern: &ModelPattern, model: &str) -> Cow<'_, str> {
        match (self.0.split_once('*'), pattern.taken(model)) {
            (Some((before, after)), Some(taken)) => [before, taken, after].concat().into(),
            _ => Cow::Borrowed(&self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> ModelPattern {
        ModelPattern::parse(text).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_text_at_any_place() {
        for (text, model, matches) in [
            ("gpt-5", "gpt-5", true),
            ("gpt-5", "gpt-50", false),
            ("GPT-5", "gpt-5", true),
            ("gpt-5*", "gpt-5", true),
            ("gpt-5*", "gpt-5-mini", true),
            ("*-mini", "gpt-5-mini", true),
            ("*-mini", "gpt-5-minix", false),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxc", false),
            ("*", "anything", true),
            ("openai/*:free", "openai/x:free", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(pattern(text).matches(model), matches, "{text} {model}");
        }
        for text in ["", "a b", "caf\u{e9}", "a\n", &"a".repeat(256)] {
            assert_eq!(ModelPattern::parse(text), Err(ModelPatternError::NotAName), "{text:?}");
        }
        assert_eq!(ModelPattern::parse("a**"), Err(ModelPatternError::TwoStars));
    }

    #[test]
    fn patterns_that_share_a_name_overlap() {
        for (one, two, overlap) in [
            ("gpt-*", "*-mini", true),
            ("gpt-*", "claude-*", false),
            ("a*b", "b*a", false),
            ("a*b", "ab*", true),
            ("*", "x", true),
            ("ab", "ab", true),
            ("a*c", "abd", false),
            ("*a*", "*b*", true),
        ] {
            assert_eq!(pattern(one).overlaps(&pattern(two)), overlap, "{one} {two}");
            assert_eq!(pattern(two).overlaps(&pattern(one)), overlap, "{two} {one}");
        }
    }

    #[test]
    fn a_rename_keeps_what_the_star_stands_for_as_it_was_spelled() {
        for (text, rename, model, renamed) in [
            ("gpt-5", "gpt-5-2026-08-01", "GPT-5", "gpt-5-2026-08-01"),
            ("openai/*", "*", "openai/GPT-5", "GPT-5"),
            ("*-latest", "eu.*-v1", "claude-latest", "eu.claude-v1"),
            ("my-*", "plain", "my-own", "plain"),
        ] {
            assert_eq!(Rename::new(rename).apply(&pattern(text), model), renamed, "{model}");
        }
    }

    proptest! {
        /// Two patterns overlap exactly if a short name matches both.
        #[test]
        fn overlapping_is_what_names_say(one in "[ab*]{1,4}", two in "[ab*]{1,4}") {
            let (Ok(one), Ok(two)) = (ModelPattern::parse(&one), ModelPattern::parse(&two)) else {
                return Ok(());
            };
            let mut names = vec![String::new()];
            let mut shared = false;
            for _ in 0..9 {
                shared |= names.iter().any(|name| one.matches(name) && two.matches(name));
                names = names.iter().flat_map(|n| [format!("{n}a"), format!("{n}b")]).collect();
            }
            prop_assert_eq!(one.overlaps(&two), shared);
        }
    }
}
