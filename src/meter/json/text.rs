//! A JSON string: its spelling, and its content.

/// A JSON string without its quotes.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The spelling, with escapes. If `is_whole` is false, it is only the beginning.
    pub raw: &'a [u8],
    /// Whether `raw` is the whole spelling. False if the end of a part cut the string, and the
    /// string is too long to be kept.
    pub is_whole: bool,
    /// Whether the spelling has escapes.
    pub has_escapes: bool,
    /// Whether an escape names one half of a surrogate pair, which is not a character.
    pub has_lone_surrogate: bool,
    /// The length of the whole string in UTF-8 without escapes, in bytes, even if `raw` is only the
    /// beginning.
    pub len: u64,
}

/// The longest string that [`Text::short`] reads, in bytes as spelled.
pub const SHORT_BYTES: usize = 256;

/// Room for a short string once its escapes are decoded. The buffer stays empty for a string
/// without escapes.
pub type ShortBuffer = Option<[u8; SHORT_BYTES]>;

impl<'a> Text<'a> {
    /// A whole string without escapes.
    pub const fn plain(raw: &'a [u8]) -> Self {
        Self {
            raw,
            is_whole: true,
            has_escapes: false,
            has_lone_surrogate: false,
            len: raw.len() as u64,
        }
    }

    /// The string without escapes; `None` if its spelling has more than 256 bytes. The result does
    /// not depend on where the document was cut.
    pub fn short<'b>(&self, buffer: &'b mut ShortBuffer) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        if !self.is_whole || self.raw.len() > SHORT_BYTES {
            return None;
        }
        if !self.has_escapes {
            return Some(self.raw);
        }
        let (mut len, buffer) = (0, buffer.insert([0; SHORT_BYTES]));
        for (place, byte) in buffer.iter_mut().zip(unescape(self.raw)) {
            *place = byte;
            len += 1;
        }
        buffer.get(..len)
    }

    /// The string without escapes, as an owned text; `None` if its spelling has more than 256 bytes
    /// or is not UTF-8.
    pub fn to_owned(self) -> Option<Box<str>> {
        let mut buffer = None;
        let bytes = self.short(&mut buffer)?;
        std::str::from_utf8(bytes).ok().map(Box::from)
    }

    /// Writes the string into `owned`, as [`Text::to_owned`] returns it, unless it is there already.
    pub fn write_to(self, owned: &mut Option<Box<str>>) {
        let mut buffer = None;
        let bytes = self.short(&mut buffer);
        if bytes != owned.as_deref().map(str::as_bytes) {
            *owned = self.to_owned();
        }
    }

    /// Whether the string begins with `plain`. Looks only at the first bytes.
    pub fn starts_with(&self, plain: &[u8]) -> bool {
        if self.has_escapes {
            let mut bytes = unescape(self.raw);
            plain.iter().all(|byte| bytes.next() == Some(*byte))
        } else {
            self.raw.starts_with(plain)
        }
    }
}

/// The bytes of a string in UTF-8. The scanner must have accepted the spelling. A half of a
/// surrogate pair becomes the three bytes that UTF-8 would use for it, which are not valid UTF-8.
pub fn unescape(raw: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw.iter().copied();
    let mut ready = Ready::default();
    std::iter::from_fn(move || {
        if let Some(byte) = ready.next() {
            return Some(byte);
        }
        match rest.next()? {
            b'\\' => {}
            byte => return Some(byte),
        }
        let simple = match rest.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                ready.fill(code_point(&mut rest));
                return ready.next();
            }
            same => same,
        };
        Some(simple)
    })
}

/// Reads the code after `\u`, and the second half of a surrogate pair if it follows.
fn code_point(rest: &mut (impl Iterator<Item = u8> + Clone)) -> u32 {
    let unit = hex4(rest);
    if !(0xd800..0xdc00).contains(&unit) {
        return unit;
    }
    let mut ahead = rest.clone();
    if ahead.next() == Some(b'\\') && ahead.next() == Some(b'u') {
        let low = hex4(&mut ahead);
        if (0xdc00..0xe000).contains(&low) {
            *rest = ahead;
            return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    unit
}

fn hex4(digits: &mut impl Iterator<Item = u8>) -> u32 {
    digits.take(4).fold(0, |value, digit| value * 16 + u32::from(hex(digit).unwrap_or(0)))
}

/// The value of a hexadecimal digit.
pub(super) const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The bytes of a decoded character that the iterator has not returned yet.
#[derive(Default)]
struct Ready {
    bytes: [u8; 4],
    at: usize,
    len: usize,
}

impl Ready {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        if self.at == self.len {
            return None;
        }
        self.at += 1;
        Some(byte)
    }

    fn fill(&mut self, code: u32) {
        let part = |shift: u32, mark: u32, mask: u32| (mark | ((code >> shift) & mask)) as u8;
        (self.bytes, self.len) = match code {
            0..=0x7f => ([code as u8, 0, 0, 0], 1),
            0x80..=0x7ff => ([part(6, 0xc0, 0x1f), part(0, 0x80, 0x3f), 0, 0], 2),
            0x800..=0xffff => {
                ([part(12, 0xe0, 0x0f), part(6, 0x80, 0x3f), part(0, 0x80, 0x3f), 0], 3)
            }
            _ => {
                let tail = [part(12, 0x80, 0x3f), part(6, 0x80, 0x3f), part(0, 0x80, 0x3f)];
                ([part(18, 0xf0, 0x07), tail[0], tail[1], tail[2]], 4)
            }
        };
        self.at = 0;
    }
}
