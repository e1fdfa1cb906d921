//! Makes the path of a request canonical, once. The price and the upstream then see the same bytes.

use std::fmt;
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// The longest path, in bytes, both as sent and as canonical.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// A path in its one canonical spelling. It starts with `/`. It has no `.` or `..` segment, and
/// only its last segment may be empty. Every byte that RFC 3986 allows in a segment (`pchar`) is
/// written as it is; every other byte is written as `%XX` with capital digits. So two paths that a
/// percent-decoding upstream reads alike are the same bytes here, and no other spelling of a path
/// gets another price.
///
/// RFC 3986, 6.2.2.2, decodes unreserved characters only. This type also decodes `!$&'()*+,:@=`,
/// which have no meaning inside a segment. Otherwise `models/m%3Agenerate` would be another route
/// than `models/m:generate`.
///
/// Case and a trailing slash are kept, and are significant: `/a/` and `/A` are not `/a`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalPath(Box<str>);

/// The reason why a path is ambiguous or broken. The client gets the message with 400
/// `BAD_REQUEST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathRefusal {
    /// The path is longer than [`MAX_PATH_BYTES`].
    #[error("the path is longer than {MAX_PATH_BYTES} bytes; shorten it")]
    TooLong,
    /// The path is empty, `*`, or an absolute URL.
    #[error("the path must start with `/`")]
    NotRooted,
    /// The path has `//`: some servers merge the slashes, others do not.
    #[error("the path has an empty segment; send one `/` in place of `//`")]
    EmptySegment,
    /// The path has `.` or `..` as a segment, plain or encoded.
    #[error("the path has a `.` or `..` segment; resolve it before sending")]
    DotSegment,
    /// The path has `%2F`: some servers read it as a slash, others as an ordinary character.
    #[error("the path has an encoded slash (%2F); send a plain `/`, or leave it out")]
    EncodedSlash,
    /// The path has `\` or `%5C`, which some servers read as a slash.
    #[error("the path has a backslash, plain or encoded (%5C); use `/`")]
    Backslash,
    /// The path has NUL, a line break or another control character, plain or encoded.
    #[error("the path has a control character, plain or encoded; leave it out")]
    ControlCharacter,
    /// The path has a plain space.
    #[error("the path has a space; send it as %20")]
    Space,
    /// The path has `;` or `%3B`: some servers cut off the rest of the segment.
    #[error("the path has a `;`, plain or encoded (%3B); path parameters are not accepted")]
    PathParameter,
    /// The path has `?` or `#`, plain or encoded: a server that decodes first cuts the path there.
    #[error("the path has a `?` or `#`, plain or encoded (%3F, %23); leave it out")]
    Delimiter,
    /// The path has a `%` without two hexadecimal digits after it.
    #[error("the path has a `%` without two hexadecimal digits; send a plain percent sign as %25")]
    BrokenEscape,
    /// The path has `%252E` or the like: decoded once, it becomes an escape again.
    #[error("the path is percent-encoded twice; encode it once")]
    DoubleEncoding,
    /// The decoded path is not UTF-8.
    #[error("the path is not UTF-8 once decoded; encode it as UTF-8")]
    NotUtf8,
}

impl CanonicalPath {
    /// Makes a path canonical. `raw` is the path of the request target, without its query, as sent.
    ///
    /// A path of plain bytes is checked in one pass and copied once. Parsing a canonical path gives
    /// the same bytes again.
    ///
    /// # Errors
    /// [`PathRefusal`] for every path that two servers could read differently.
    pub fn parse(raw: &[u8]) -> Result<Self, PathRefusal> {
        if raw.len() > MAX_PATH_BYTES {
            return Err(PathRefusal::TooLong);
        }
        if raw.first() != Some(&b'/') {
            return Err(PathRefusal::NotRooted);
        }
        let text = match std::str::from_utf8(raw) {
            Ok(text) if raw.iter().all(|&byte| byte == b'/' || is_pchar(byte)) => text.into(),
            _ => respell(raw)?,
        };
        check_segments(&text)?;
        Ok(Self(text))
    }

    /// This path with `text` in place of the bytes `range`, which must be within one segment.
    /// `text` is the operator's own, from the config. Characters of it that cannot stand in a
    /// segment, a slash too, are encoded. `None` if the segment would become empty, `.` or `..`, or
    /// if the range is outside the path.
    pub(super) fn replaced(&self, range: Range<usize>, text: &str) -> Option<Self> {
        let (before, after) = (self.0.get(..range.start)?, self.0.get(range.end..)?);
        let mut path = before.to_owned();
        for byte in text.bytes() {
            if is_pchar(byte) {
                path.push(char::from(byte));
            } else {
                push_escape(&mut path, byte);
            }
        }
        path.push_str(after);
        let is_sound = path.len() <= MAX_PATH_BYTES && check_segments(&path).is_ok();
        (is_sound && !text.is_empty()).then(|| Self(path.into()))
    }

    /// The path, always ASCII and starting with `/`. Send these bytes upstream.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// True for `pchar` of RFC 3986 without `;` and without escapes.
const fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'@')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=')
}

/// Handles a path that is not canonical as sent: decodes every escape, then encodes the bytes that
/// need it.
fn respell(raw: &[u8]) -> Result<Box<str>, PathRefusal> {
    let mut canonical = String::with_capacity(raw.len());
    let mut ascii = true;
    let mut rest = raw.iter();
    while let Some(&first) = rest.next() {
        let escaped = first == b'%';
        let byte = if escaped { unescape(&mut rest)? } else { first };
        if byte == b'/' && !escaped || is_pchar(byte) {
            canonical.push(char::from(byte));
        } else {
            refuse_ambiguous(byte, escaped)?;
            ascii &= byte.is_ascii();
            push_escape(&mut canonical, byte);
        }
    }
    if canonical.len() > MAX_PATH_BYTES {
        return Err(PathRefusal::TooLong);
    }
    if encodes_an_escape(canonical.as_bytes()) {
        return Err(PathRefusal::DoubleEncoding);
    }
    if !ascii {
        let decoded = percent_decode_str(&canonical).decode_utf8();
        let decoded = decoded.map_err(|_| PathRefusal::NotUtf8)?;
        // U+0080 to U+009F are control characters as well.
        if decoded.chars().any(char::is_control) {
            return Err(PathRefusal::ControlCharacter);
        }
    }
    Ok(canonical.into())
}

/// Adds `byte` as `%XX`.
fn push_escape(path: &mut String, byte: u8) {
    path.push('%');
    path.push(HEX[usize::from(byte >> 4)]);
    path.push(HEX[usize::from(byte & 0xf)]);
}

const HEX: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

/// Reads the two hexadecimal digits of a byte.
fn unescape(rest: &mut std::slice::Iter<'_, u8>) -> Result<u8, PathRefusal> {
    let mut digit = || {
        let digit = char::from(*rest.next()?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    match (digit(), digit()) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(PathRefusal::BrokenEscape),
    }
}

fn refuse_ambiguous(byte: u8, escaped: bool) -> Result<(), PathRefusal> {
    match byte {
        b'/' => Err(PathRefusal::EncodedSlash),
        b'\\' => Err(PathRefusal::Backslash),
        b';' => Err(PathRefusal::PathParameter),
        b'?' | b'#' => Err(PathRefusal::Delimiter),
        b' ' if !escaped => Err(PathRefusal::Space),
        _ if byte.is_ascii_control() => Err(PathRefusal::ControlCharacter),
        _ => Ok(()),
    }
}

/// True if decoding the text twice would decode an escape the second time: it has `%25` followed by
/// two hexadecimal digits. In the canonical text these digits are plain, even if they were sent
/// encoded.
fn encodes_an_escape(canonical: &[u8]) -> bool {
    canonical
        .windows(5)
        .any(|w| w.starts_with(b"%25") && w[3].is_ascii_hexdigit() && w[4].is_ascii_hexdigit())
}

/// Refuses `.` and `..` as segments, and empty segments before the last.
fn check_segments(path: &str) -> Result<(), PathRefusal> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_some() => return Err(PathRefusal::EmptySegment),
            "." | ".." => return Err(PathRefusal::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
