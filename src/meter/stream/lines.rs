//! Splits a stream of server-sent events into lines (WHATWG HTML, 9.2.6). The stream may be cut
//! anywhere.

use memchr::memchr2;

/// The longest beginning of a line that must be read to know its field, in bytes: a byte order
/// mark, and `data:`.
const LONGEST_FIELD: usize = 8;

/// One step through a part. [`Lines::next`] moves its position past the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the value of a `data` line, from this index to the position.
    Data(usize),
    /// A `data` line ends.
    DataEnds,
    /// A comment ends.
    CommentEnds,
    /// Another line ends.
    LineEnds,
    /// An empty line: the event ends.
    EventEnds,
    /// A line feed that belongs to the carriage return at the end of the previous part.
    LineFeed,
}

/// Splits a stream into lines.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    within: Within,
    field: [u8; LONGEST_FIELD],
    field_len: usize,
    /// Whether the last byte was a carriage return.
    after_return: bool,
    /// Whether a line that begins with `{` is a document of its own, as in NDJSON.
    takes_ndjson: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// The name of the field.
    Field,
    /// After the colon of `data`, where one space may follow.
    Colon,
    /// The value of `data`.
    Data,
    /// A comment.
    Comment,
    /// Any other field.
    Other,
}

impl Lines {
    /// Creates the splitter for the start of a stream.
    pub const fn new(takes_ndjson: bool) -> Self {
        Self {
            within: Within::Field,
            field: [0; LONGEST_FIELD],
            field_len: 0,
            after_return: false,
            takes_ndjson,
        }
    }

    /// Reads the next step of `part` from the index `at`, and moves `at` past it. `None` at the end
    /// of `part`.
    pub fn next(&mut self, part: &[u8], at: &mut usize) -> Option<Step> {
        loop {
            let byte = *part.get(*at)?;
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                *at += 1;
                return Some(Step::LineFeed);
            }
            match self.within {
                Within::Field => {
                    if !self.begins_as_usual(part, at)
                        && let Some(step) = self.field(byte, part, at)
                    {
                        return Some(step);
                    }
                }
                Within::Colon => {
                    self.within = Within::Data;
                    *at += usize::from(byte == b' ');
                }
                Within::Data | Within::Comment | Within::Other => {
                    let from = *at;
                    let rest = part.get(from..).unwrap_or_default();
                    let len = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    *at += len;
                    if self.within == Within::Data && len > 0 {
                        return Some(Step::Data(from));
                    }
                    if let Some(byte) = part.get(*at) {
                        return Some(self.line_ends(*byte, part, at));
                    }
                }
            }
        }
    }

    /// Takes the name of a field that most lines have, if all of it is in this part.
    fn begins_as_usual(&mut self, part: &[u8], at: &mut usize) -> bool {
        let rest = part.get(*at..).unwrap_or_default();
        let (within, len) = match rest {
            _ if self.field_len > 0 => return false,
            [b'd', b'a', b't', b'a', b':', b' ', ..] => (Within::Data, b"data: ".len()),
            [b'e', b'v', b'e', b'n', b't', b':', ..] => (Within::Other, b"event:".len()),
            _ => return false,
        };
        self.within = within;
        *at += len;
        true
    }

    /// Takes a byte of a field's name.
    fn field(&mut self, byte: u8, part: &[u8], at: &mut usize) -> Option<Step> {
        if self.takes_ndjson && self.field_len == 0 && byte == b'{' {
            self.within = Within::Data;
            return None;
        }
        if matches!(byte, b'\n' | b'\r') {
            return Some(self.line_ends(byte, part, at));
        }
        *at += 1;
        let len = self.field_len;
        if let Some(place) = self.field.get_mut(len) {
            *place = byte;
            self.field_len += 1;
        }
        let name = self.field.get(..self.field_len).unwrap_or_default();
        // The stream may begin with a byte order mark.
        let name = name.strip_prefix(b"\xef\xbb\xbf").unwrap_or(name);
        match (name, byte) {
            (b":", _) => self.within = Within::Comment,
            (b"data:", _) => self.within = Within::Colon,
            (_, b':') => self.within = Within::Other,
            _ if self.field_len == LONGEST_FIELD => self.within = Within::Other,
            _ => {}
        }
        None
    }

    fn line_ends(&mut self, byte: u8, part: &[u8], at: &mut usize) -> Step {
        let name = self.field.get(..self.field_len).unwrap_or_default();
        let step = match self.within {
            Within::Field if name.is_empty() => Step::EventEnds,
            // A field without a colon has an empty value.
            Within::Field if name == b"data" => Step::DataEnds,
            Within::Data | Within::Colon => Step::DataEnds,
            Within::Comment => Step::CommentEnds,
            Within::Field | Within::Other => Step::LineEnds,
        };
        (self.within, self.field_len) = (Within::Field, 0);
        *at += 1;
        if byte == b'\r' {
            match part.get(*at) {
                Some(b'\n') => *at += 1,
                Some(_) => {}
                None => self.after_return = true,
            }
        }
        step
    }
}
