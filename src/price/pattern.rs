//! The `path` of a price rule: literal segments, `{name}` for one segment, `{name}text` for one
//! segment that ends in `text`, and `{*rest}` for all segments that follow.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use crate::price::path::{CanonicalPath, PathRefusal};

/// A parsed `path` of a rule.
///
/// `{name}` stands for one segment that is not empty. `{*rest}` stands for one or more segments,
/// and may only be at the end. So `/a/{x}` and `/a/{*rest}` do not match `/a/`. Text may follow
/// `{name}` in its segment, as in `/models/{model}:generate`. The parameter then stands for at
/// least one byte before that text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    segments: Box<[Segment]>,
    /// The index of the segment whose parameter is named `model`.
    model: Option<usize>,
}

/// One segment of a [`Pattern`]. The variants are in order, from the most exact to the least.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A segment in canonical form. Only the last one may be empty: it stands for a trailing slash.
    Literal(Box<str>),
    /// `{name}text`: one segment that ends with this text.
    Ending(Box<str>),
    /// `{name}`
    One,
    /// `{*rest}`
    Rest,
}

/// The reason why a text is not a pattern; [`PatternError::hint`] has the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The text is not a path from the root.
    #[error("a path must start with `/`")]
    NotRooted,
    /// The segment has braces that do not form one parameter at its start.
    #[error("`{0}` has braces in the middle of a segment")]
    PartOfASegment(String),
    /// A parameter has no name, or an invalid one.
    #[error("`{0}` has no name, or one with other characters than letters, digits and `_`")]
    BadName(String),
    /// A name is used twice.
    #[error("`{0}` uses a name for the second time")]
    RepeatedName(String),
    /// Something follows `{*rest}`.
    #[error("`{0}` takes the rest of the path, yet more follows")]
    RestNotLast(String),
    /// No request can have this literal segment, because such a request is refused.
    #[error("`{segment}` can never match: a request with it is refused, because {why}")]
    NeverMatches {
        /// The segment as it was written.
        segment: String,
        /// The reason why a request with it is refused.
        why: PathRefusal,
    },
    /// A literal segment is not in the canonical spelling.
    #[error("`{segment}` is not the canonical spelling, so no request would match it")]
    NotCanonical {
        /// The segment as it was written.
        segment: String,
        /// The canonical spelling.
        canonical: String,
    },
}

impl PatternError {
    /// The remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::NotRooted => "write it like `/jobs/{id}`".to_owned(),
            Self::PartOfASegment(_) => {
                "start the segment with them, as in `/jobs/{id}` or `/models/{model}:generate`; a \
                 literal brace is %7B or %7D"
                    .to_owned()
            }
            Self::BadName(_) => "write `{id}` for one segment, `{*rest}` for the rest".to_owned(),
            Self::RepeatedName(_) => "give each parameter a name of its own".to_owned(),
            Self::RestNotLast(_) => "make it the last segment".to_owned(),
            Self::NeverMatches { .. } => "leave it out".to_owned(),
            Self::NotCanonical { canonical, .. } => format!("write `{canonical}`"),
        }
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`] if the text is malformed, or if no canonical path can match it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let path = text.strip_prefix('/').ok_or(PatternError::NotRooted)?;
        let mut names = HashSet::new();
        let mut segments = Vec::new();
        let mut model = None;
        let mut pieces = path.split('/').peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            let segment = match parameter(piece)? {
                None => literal(piece, last)?,
                Some((segment, name)) if names.insert(name) => {
                    if name == "model" && segment != Segment::Rest {
                        model = Some(segments.len());
                    }
                    segment
                }
                Some(_) => return Err(PatternError::RepeatedName(piece.to_owned())),
            };
            if segment == Segment::Rest && !last {
                return Err(PatternError::RestNotLast(piece.to_owned()));
            }
            segments.push(segment);
        }
        Ok(Self { text: text.into(), segments: segments.into(), model })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments from the root on. Two patterns with the same segments match the same paths,
    /// whatever the names of their parameters.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// True if the pattern matches `path` as it is spelled.
    pub(super) fn matches(&self, path: &str) -> bool {
        let mut left = path.strip_prefix('/');
        for segment in &self.segments {
            let Some(path) = left else { return false };
            let (first, after) = match path.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (path, None),
            };
            match segment {
                Segment::Rest => return !first.is_empty(),
                Segment::One if first.is_empty() => return false,
                Segment::Literal(text) if **text != *first => return false,
                Segment::Ending(text) if !ends_with(first, text) => return false,
                Segment::One | Segment::Literal(_) | Segment::Ending(_) => left = after,
            }
        }
        left.is_none()
    }

    /// Whether the pattern has `{model}`, so that the path names the request's model.
    pub fn has_model(&self) -> bool {
        self.model.is_some()
    }

    /// The range of bytes in a matching path for which `{model}` stands.
    pub(super) fn model_in(&self, path: &CanonicalPath) -> Option<Range<usize>> {
        let place = self.model?;
        let mut start = 1;
        for (index, segment) in path.as_str().strip_prefix('/')?.split('/').enumerate() {
            if index == place {
                let model = match self.segments.get(place)? {
                    Segment::Ending(text) => segment.strip_suffix(&**text)?,
                    _ => segment,
                };
                return Some(start..start + model.len());
            }
            start += segment.len() + 1;
        }
        None
    }

    /// True if the pattern has no parameters, so that it matches only the path that is its own
    /// text.
    pub fn is_exact(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `segment` ends with `text` after at least one other byte. The text must not begin inside
/// a percent-escape.
pub(super) fn ends_with(segment: &str, text: &str) -> bool {
    let before = segment.strip_suffix(text).map(str::as_bytes).unwrap_or_default();
    !before.is_empty() && !before.iter().rev().take(2).any(|byte| *byte == b'%')
}

/// Reads `{name}`, `{name}text` or `{*rest}`. Returns the segment and the parameter's name; `None`
/// for literal text.
fn parameter(piece: &str) -> Result<Option<(Segment, &str)>, PatternError> {
    if !piece.contains(['{', '}']) {
        return Ok(None);
    }
    let inner = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let inner = inner.filter(|(name, text)| ![*name, *text].concat().contains(['{', '}']));
    let Some((inner, text)) = inner else {
        return Err(PatternError::PartOfASegment(piece.to_owned()));
    };
    let (segment, name) = match (inner.strip_prefix('*'), text) {
        (Some(name), "") => (Segment::Rest, name),
        (Some(_), _) => return Err(PatternError::RestNotLast(piece.to_owned())),
        (None, "") => (Segment::One, inner),
        (None, text) => (ending(text)?, inner),
    };
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(PatternError::BadName(piece.to_owned()));
    }
    Ok(Some((segment, name)))
}

/// Reads the text after `{name}`. It must be in canonical form, like a literal segment.
fn ending(text: &str) -> Result<Segment, PatternError> {
    // A letter is put before the text, because `.` alone would be another kind of segment.
    let without = |whole: &str| whole.strip_prefix('x').unwrap_or(whole).to_owned();
    match literal(&format!("x{text}"), true) {
        Ok(_) => Ok(Segment::Ending(text.into())),
        Err(PatternError::NotCanonical { segment, canonical }) => Err(PatternError::NotCanonical {
            segment: without(&segment),
            canonical: without(&canonical),
        }),
        Err(PatternError::NeverMatches { segment, why }) => {
            Err(PatternError::NeverMatches { segment: without(&segment), why })
        }
        Err(other) => Err(other),
    }
}

/// Reads a literal segment. It must be spelled as in a [`CanonicalPath`]. No request would match
/// another spelling, so calls meant for this rule would have no price, or a wildcard's price.
fn literal(piece: &str, last: bool) -> Result<Segment, PatternError> {
    let never = |why| PatternError::NeverMatches { segment: piece.to_owned(), why };
    if piece.is_empty() {
        let segment = Segment::Literal("".into());
        return if last { Ok(segment) } else { Err(never(PathRefusal::EmptySegment)) };
    }
    let path = CanonicalPath::parse(format!("/{piece}").as_bytes()).map_err(never)?;
    match path.as_str().strip_prefix('/') {
        Some(canonical) if canonical != piece => Err(PatternError::NotCanonical {
            segment: piece.to_owned(),
            canonical: canonical.to_owned(),
        }),
        _ => Ok(Segment::Literal(piece.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_read_segment_by_segment() {
        use Segment::*;
        let segments = |text: &str| Pattern::parse(text).unwrap().segments().to_vec();
        assert_eq!(segments("/"), [Literal("".into())]);
        assert_eq!(segments("/a/{id}"), [Literal("a".into()), One]);
        assert_eq!(segments("/a/"), [Literal("a".into()), Literal("".into())]);
        assert_eq!(segments("/{a}/{*b}"), [One, Rest]);
        assert_eq!(segments("/a%20b"), [Literal("a%20b".into())]);
        assert_eq!(segments("/{a}/x"), segments("/{b}/x"));
        assert_eq!(segments("/m/{model}:go"), [Literal("m".into()), Ending(":go".into())]);
        assert_eq!(segments("/{a}.x/{b}"), [Ending(".x".into()), One]);
    }

    #[test]
    fn the_model_of_a_path_is_found_and_ends_before_the_text_that_follows_it() {
        for (pattern, path, model) in [
            ("/m/{model}:go", "/m/gemini-3:go", Some("gemini-3")),
            ("/m/{model}:go", "/m/a:b:go", Some("a:b")),
            ("/{x}/{model}/go", "/eu/llama/go", Some("llama")),
            ("/{model}", "/llama", Some("llama")),
            ("/m/{x}", "/m/llama", None),
            ("/m/{*model}", "/m/llama", None),
        ] {
            let (pattern, path) =
                (Pattern::parse(pattern).unwrap(), CanonicalPath::parse(path.as_bytes()).unwrap());
            assert!(pattern.matches(path.as_str()), "{pattern} {path}");
            let found = pattern.model_in(&path).map(|range| &path.as_str()[range]);
            assert_eq!(found, model, "{pattern} {path}");
            assert_eq!(pattern.has_model(), model.is_some());
        }
        let pattern = Pattern::parse("/m/{model}9").unwrap();
        for (path, matches) in
            [("/m/a9", true), ("/m/9", false), ("/m/caf%C3%A9", false), ("/m/%C3%A99", true)]
        {
            assert_eq!(pattern.matches(path), matches, "{path}");
        }
    }

    #[test]
    fn a_bad_pattern_is_refused_with_its_reason() {
        for (text, says) in [
            ("", "must start with `/`"),
            ("a/b", "must start with `/`"),
            ("/a{id}", "middle of a segment"),
            ("/{a}{b}", "middle of a segment"),
            ("/{a}b{c", "middle of a segment"),
            ("/{a", "middle of a segment"),
            ("/{*a}:b", "yet more follows"),
            ("/{a}%3ab", "spelling"),
            ("/{a}b;c", "path parameters are not accepted"),
            ("/{a b}:c", "has no name"),
            ("/{}", "has no name"),
            ("/{*}", "has no name"),
            ("/{a-b}", "has no name"),
            ("/{a}/{a}", "second time"),
            ("/{*rest}/a", "yet more follows"),
            ("/a//b", "empty segment"),
            ("/a/../b", "`..` segment"),
            ("/a;b", "path parameters are not accepted"),
            ("/a b", "send it as %20"),
            ("/a?b=c", "leave it out"),
            ("/%61", "spelling"),
            ("/caf\u{e9}", "spelling"),
        ] {
            let message = Pattern::parse(text).unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn a_spelling_that_no_request_has_is_corrected() {
        let hint = |text: &str| Pattern::parse(text).unwrap_err().hint();
        assert_eq!(hint("/%61"), "write `a`");
        assert_eq!(hint("/m%3agenerate"), "write `m:generate`");
        assert_eq!(hint("/caf\u{e9}"), "write `caf%C3%A9`");
    }
}
