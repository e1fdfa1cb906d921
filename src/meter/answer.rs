//! JSON answers, whole or in parts.

use super::document::AnswerUsage;
use super::reader::Reader;
use crate::usage::MeterKind;

/// Reads the usage of a whole JSON answer. Bytes that are not JSON have no usage.
pub fn read_answer(kind: &MeterKind, body: &[u8]) -> AnswerUsage {
    let mut meter = JsonMeter::new(kind);
    meter.feed(body);
    meter.end()
}

/// Reads the usage of a JSON answer that arrives in parts, which may be cut anywhere. The size of
/// the state is limited, however long the answer is.
#[derive(Debug)]
pub struct JsonMeter {
    reader: Reader,
    bytes: u64,
}

impl JsonMeter {
    /// Creates a meter for the start of an answer.
    pub fn new(kind: &MeterKind) -> Self {
        Self { reader: Reader::new(kind), bytes: 0 }
    }

    /// Reads the next part.
    pub fn feed(&mut self, part: &[u8]) {
        self.reader.feed(part);
        self.bytes = self.bytes.saturating_add(part.len() as u64);
    }

    /// The usage of the answer, which has ended here. If the answer was cut off or cannot be read
    /// as JSON, it has no usage, and all of its bytes count as delivered text.
    pub fn end(mut self) -> AnswerUsage {
        if !self.reader.is_whole() {
            return AnswerUsage { delivered_text_bytes: self.bytes, ..AnswerUsage::default() };
        }
        self.reader.end(false);
        self.reader.so_far()
    }
}
