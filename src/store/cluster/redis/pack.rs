//! A writer for the part of MessagePack that `decide.lua` reads: texts, numbers and arrays.

/// The bytes written so far.
#[derive(Debug)]
pub(crate) struct Pack(Vec<u8>);

impl Pack {
    /// Creates an empty writer with room for this many bytes.
    pub fn with_room_for(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The written bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Begins an array: the next `length` values are its members.
    pub fn array(&mut self, length: usize) {
        self.0.push(0xdd);
        self.0.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }

    /// Writes an array of texts.
    pub fn texts(&mut self, texts: impl ExactSizeIterator<Item = impl AsRef<str>>) {
        self.array(texts.len());
        texts.for_each(|text| self.text(text.as_ref()));
    }

    /// Writes a text.
    pub fn text(&mut self, text: &str) {
        match u8::try_from(text.len()) {
            Ok(length) => self.0.extend([0xd9, length]),
            Err(_) => {
                self.0.push(0xdb);
                self.0.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        self.0.extend(text.as_bytes());
    }

    /// Writes a number: in one byte if it is below 128, otherwise in nine.
    pub fn uint(&mut self, number: u64) {
        match u8::try_from(number) {
            Ok(small @ 0..0x80) => self.0.push(small),
            _ => {
                self.0.push(0xcf);
                self.0.extend(number.to_be_bytes());
            }
        }
    }

    /// Writes a number that may be negative.
    pub fn int(&mut self, number: i64) {
        match u64::try_from(number) {
            Ok(number) => self.uint(number),
            Err(_) => {
                self.0.push(0xd3);
                self.0.extend(number.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_messagepack() {
        let mut pack = Pack::with_room_for(0);
        pack.array(2);
        pack.text("ab");
        pack.text(&"x".repeat(256));
        assert_eq!(pack.finish()[..15], *b"\xdd\0\0\0\x02\xd9\x02ab\xdb\0\0\x01\0x");
        let mut pack = Pack::with_room_for(0);
        pack.int(127);
        pack.uint(128);
        pack.int(-1);
        let expected = b"\x7f\xcf\0\0\0\0\0\0\0\x80\xd3\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(pack.finish(), expected);
    }
}
