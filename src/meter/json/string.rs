//! A string that is being read: its escapes, and how many bytes it has without them.

use memchr::memchr2;

use super::text::{Text, hex};

/// The state of a string that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct StringState {
    escape: Escape,
    /// The last escape was the first half of a surrogate pair.
    after_high: bool,
    has_escapes: bool,
    has_lone_surrogate: bool,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
enum Escape {
    No,
    Backslash,
    Hex { digits: u8, value: u16 },
}

impl StringState {
    /// Nothing has been read.
    pub const NEW: Self = Self {
        escape: Escape::No,
        after_high: false,
        has_escapes: false,
        has_lone_surrogate: false,
        len: 0,
    };

    /// True inside an escape.
    pub const fn is_in_escape(&self) -> bool {
        !matches!(self.escape, Escape::No)
    }

    /// A backslash begins an escape.
    pub const fn begin_escape(&mut self) {
        self.escape = Escape::Backslash;
        self.has_escapes = true;
    }

    /// Takes `run` bytes that stand for themselves.
    pub fn plain(&mut self, run: usize) {
        if run > 0 {
            self.has_lone_surrogate |= std::mem::take(&mut self.after_high);
            self.len += run as u64;
        }
    }

    /// The string ends here.
    pub fn end(&mut self) {
        self.has_lone_surrogate |= std::mem::take(&mut self.after_high);
    }

    /// Takes a byte of an escape. `None` where the escape is malformed.
    pub fn escape(&mut self, byte: u8) -> Option<()> {
        match self.escape {
            Escape::Backslash if byte == b'u' => {
                self.escape = Escape::Hex { digits: 0, value: 0 };
            }
            Escape::Backslash => {
                if !matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') {
                    return None;
                }
                self.plain(1);
                self.escape = Escape::No;
            }
            Escape::Hex { digits, value } => {
                let value = value << 4 | u16::from(hex(byte)?);
                self.escape = if digits == 3 {
                    self.unit(value);
                    Escape::No
                } else {
                    Escape::Hex { digits: digits + 1, value }
                };
            }
            Escape::No => {}
        }
        Some(())
    }

    /// Takes the UTF-16 unit of a `\u` escape.
    fn unit(&mut self, unit: u16) {
        let is_low = (0xdc00..0xe000).contains(&unit);
        if is_low && std::mem::take(&mut self.after_high) {
            self.len += 1; // A pair makes four bytes; three are counted.
            return;
        }
        self.plain(match unit {
            0..=0x7f => 1,
            0x80..=0x7ff => 2,
            _ => 3,
        });
        self.has_lone_surrogate |= is_low;
        self.after_high = (0xd800..0xdc00).contains(&unit);
    }

    /// The string as its reader sees it.
    pub const fn as_text<'a>(&self, raw: &'a [u8], is_whole: bool) -> Text<'a> {
        let Self { has_escapes, has_lone_surrogate, len, .. } = *self;
        Text { raw, is_whole, has_escapes, has_lone_surrogate, len }
    }
}

/// The bytes before the first one that ends a run of plain characters: a quote, a backslash or a control character.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    // Most strings are short, and a call of memchr costs more than their bytes.
    const BY_HAND: usize = 24;
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    let head = bytes.get(..BY_HAND).unwrap_or(bytes);
    if let Some(end) = head.iter().position(|byte| !is_plain(byte)) {
        return end;
    }
    let tail = bytes.get(head.len()..).unwrap_or_default();
    let run = memchr2(b'"', b'\\', tail).unwrap_or(tail.len());
    let tail = tail.get(..run).unwrap_or(tail);
    // Without an early exit, so that the compiler compares many bytes at once.
    let has_control = |bytes: &[u8]| bytes.iter().fold(false, |any, byte| any | (*byte < b' '));
    match tail.chunks(4096).position(has_control) {
        None => head.len() + run,
        Some(chunk) => {
            let from = chunk * 4096;
            let rest = tail.get(from..).unwrap_or_default();
            head.len() + from + rest.iter().position(|byte| *byte < b' ').unwrap_or(rest.len())
        }
    }
}
