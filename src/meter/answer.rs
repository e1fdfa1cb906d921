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
pub struct JsonMeter(Reader);

impl JsonMeter {
    /// A meter at the start of an answer.
    pub fn new(kind: &MeterKind) -> Self {
        Self(Reader::new(kind))
    }

    /// Reads the next part.
    pub fn feed(&mut self, part: &[u8]) {
        self.0.feed(part);
    }

    /// The usage of the answer that ended here. An answer that was cut off has none.
    pub fn end(mut self) -> AnswerUsage {
        self.0.end(false);
        self.0.so_far()
    }
}
