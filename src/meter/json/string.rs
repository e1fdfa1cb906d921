//! The state of a string while it is read: its escapes, and its length without them.

use memchr::memchr2;

use super::text::{Text, hex};

/// The state of a string that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct StringState {
    escape: Escape,
    /// Whether the last escape was the first half of a surrogate pair.
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
    /// The state before the first byte.
    pub const NEW: Self = Self {
        escape: Escape::No,
        after_high: false,
        has_escapes: false,
        has_lone_surrogate: false,
        len: 0,
    };

    /// Whether the next byte belongs to an escape.
    pub const fn is_in_escape(&self) -> bool {
        !matches!(self.escape, Escape::No)
    }

    /// Begins an escape, after a backslash.
    pub const fn begin_escape(&mut self) {
        self.escape = Escape::Backslash;
        self.has_escapes = true;
    }

    /// Takes `run` bytes that are not part of an escape.
    pub fn plain(&mut self, run: usize) {
        if run > 0 {
            self.has_lone_surrogate |= std::mem::take(&mut self.after_high);
            self.len += run as u64;
        }
    }

    /// Ends the string.
    pub fn end(&mut self) {
        self.has_lone_surrogate |= std::mem::take(&mut self.after_high);
    }

    /// Takes a byte of an escape. `None` if the escape is not valid.
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

    /// Takes the UTF-16 unit that a `\u` escape names.
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

    /// The string in the form that a reader gets.
    pub const fn as_text<'a>(&self, raw: &'a [u8], is_whole: bool) -> Text<'a> {
        let Self { has_escapes, has_lone_surrogate, len, .. } = *self;
        Text { raw, is_whole, has_escapes, has_lone_surrogate, len }
    }
}

/// The number of bytes before the first one that ends a run of plain characters: a quote, a
/// backslash or a control character.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    // Most names end within the first word.
    if let Some(end) = bytes.first_chunk().and_then(|word| first_stop(*word)) {
        return end;
    }
    // Runs of more than this many chunks are rare. For such runs memchr is faster.
    const CHUNKS: usize = 16;
    let (chunks, _) = bytes.as_chunks::<16>();
    let mut from = 0;
    for chunk in chunks.iter().take(CHUNKS) {
        if has_stop(chunk) {
            return from + run_of_few(chunk);
        }
        from += chunk.len();
    }
    let tail = bytes.get(from..).unwrap_or_default();
    if chunks.len() < CHUNKS {
        return from + run_of_few(tail);
    }
    let run = memchr2(b'"', b'\\', tail).unwrap_or(tail.len());
    let tail = tail.get(..run).unwrap_or(tail);
    // As in `has_stop`, there is no early exit.
    let has_control = |bytes: &[u8]| bytes.iter().fold(false, |any, byte| any | (*byte < b' '));
    match tail.chunks(4096).position(has_control) {
        None => from + run,
        Some(chunk) => {
            let rest = tail.get(chunk * 4096..).unwrap_or_default();
            from + chunk * 4096 + rest.iter().position(is_stop).unwrap_or(rest.len())
        }
    }
}

/// Whether one of the bytes ends a run. There is no early exit, so that the compiler can compare
/// many bytes at once.
fn has_stop(bytes: &[u8]) -> bool {
    bytes.iter().fold(false, |any, byte| any | is_stop(byte))
}

/// The length of the run at the start of a few bytes.
fn run_of_few(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if let Some(end) = first_stop(*word) {
            return at * 8 + end;
        }
    }
    let from = words.len() * 8;
    let tail = bytes.get(from..).unwrap_or_default();
    from + tail.iter().position(is_stop).unwrap_or(tail.len())
}

/// The position of the first of eight bytes that ends a run.
const fn first_stop(word: [u8; 8]) -> Option<usize> {
    match stops(u64::from_le_bytes(word)) {
        0 => None,
        stops => Some((stops.trailing_zeros() / 8) as usize),
    }
}

const fn is_stop(byte: &u8) -> bool {
    *byte < b' ' || *byte == b'"' || *byte == b'\\'
}

/// Marks the bytes of a word that end a run: the highest bit of each such byte is set. The lowest
/// mark is right. Marks above it may be wrong.
const fn stops(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word & HIGHS
    }
    let quote = below(word ^ (ONES * b'"' as u64), 1);
    let backslash = below(word ^ (ONES * b'\\' as u64), 1);
    quote | backslash | below(word, b' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_run_ends_where_a_look_at_each_byte_ends_it(
            mut bytes in prop::collection::vec(prop_oneof![200 => 0x20..=0xff_u8, 1 => any::<u8>()], 0..2000),
            shift in 0..8_usize,
        ) {
            bytes.drain(..shift.min(bytes.len()));
            let expected = bytes.iter().position(is_stop).unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), expected);
        }
    }
}
