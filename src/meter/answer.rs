//! JSON answers, whole or in parts.

use super::document::AnswerUsage;
use super::reader::Reader;
use crate::usage::MeterKind;

/// Reads the usage of a whole JSON answer. An answer that is no JSON has none.
pub fn read_answer(kind: &MeterKind, body: &[u8]) -> AnswerUsage {
    let mut meter = JsonMeter::new(kind);
    meter.feed(body);
    meter.end()
}

/// Reads the usage of a JSON answer that comes in parts, cut anywhere. The state is bounded, whatever the answer's
/// length.
#[derive(Debug)]
pub struct JsonMeter {
    reader: Reader,
    bytes: u64,
}

impl JsonMeter {
    /// A meter at the start of an answer.
    pub fn new(kind: &MeterKind) -> Self {
        Self { reader: Reader::new(kind), bytes: 0 }
    }

    /// Reads the next part.
    pub fn feed(&mut self, part: &[u8]) {
        self.reader.feed(part);
        self.bytes = self.bytes.saturating_add(part.len() as u64);
    }

    /// The usage of the answer that ended here. An answer that was cut off, or is no JSON that can be read, has none, and
    /// all its bytes count as delivered text.
    pub fn end(mut self) -> AnswerUsage {
        if !self.reader.is_whole() {
            return AnswerUsage { delivered_text_bytes: self.bytes, ..AnswerUsage::default() };
        }
        self.reader.end(false);
        self.reader.so_far()
    }
}
