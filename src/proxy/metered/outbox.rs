//! The part of an answer that is kept in memory until the client takes it.

use bytes::Bytes;

use crate::proxy::body_memory::Reserved;

/// The part of an answer that is not written yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Bytes,
    /// Whether the answer ends after these bytes.
    ends: bool,
    reserved: Option<Reserved>,
}

impl Outbox {
    /// Creates an outbox with these bytes. `ends` says whether the answer ends after them.
    pub fn new(bytes: Bytes, ends: bool, reserved: Option<Reserved>) -> Self {
        Self { bytes, ends, reserved }
    }

    /// The bytes that are left to write.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of bytes that are left to write.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no bytes are left to write.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.ends
    }

    /// Takes the next piece of at most `most` bytes, and says whether the answer ends with it.
    /// `None` if no bytes are left.
    pub fn next(&mut self, most: usize) -> Option<(Bytes, bool)> {
        if self.is_empty() {
            return None;
        }
        let piece = self.bytes.split_to(most.min(self.bytes.len()));
        let is_last = self.bytes.is_empty();
        if is_last {
            self.reserved = None;
        }
        let ends = is_last && std::mem::take(&mut self.ends);
        Some((piece, ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_written_in_pieces_and_ends_once() {
        let mut outbox = Outbox::new(Bytes::from_static(b"abcde"), true, None);
        let mut pieces = Vec::new();
        while let Some((piece, ends)) = outbox.next(2) {
            pieces.push((String::from_utf8(piece.to_vec()).unwrap(), ends));
        }
        let expected = [("ab", false), ("cd", false), ("e", true)];
        assert_eq!(pieces, expected.map(|(piece, ends)| (piece.to_owned(), ends)));
        let mut empty = Outbox::new(Bytes::new(), true, None);
        assert_eq!(empty.next(2), Some((Bytes::new(), true)));
        assert!(empty.is_empty() && empty.next(2).is_none());
    }
}
