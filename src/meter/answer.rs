//! What an answer used, read whole or in parts.

use crate::usage::{MeterKind, Usage};

/// What an answer has said of its usage so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerUsage {
    /// How much of each kind. `None` where the answer has not said, or [`Self::is_false`].
    pub usage: Option<Usage>,
    /// No later part of the answer changes `usage`: an upstream that breaks off now is charged.
    pub is_final: bool,
    /// A count was negative, above 2^40, or no whole number. The usage counts as missing, and the hold is charged.
    pub is_false: bool,
    /// A total was smaller than its parts. The parts count; the rest of the total is 0.
    pub is_clamped: bool,
    /// The tier that the answer says it was served in.
    pub service_tier: Option<Box<str>>,
    /// Bytes of text that went to the client: of the answer, its reasoning, and the arguments of its tool calls,
    /// as UTF-8 without JSON's escapes. Estimates are made of them.
    pub delivered_text_bytes: u64,
    /// Images that the answer has. `usage` counts them as well, where it is there.
    pub images: u32,
}

/// Reads the usage of a whole JSON answer. An answer that is no JSON has none.
pub fn read_answer(kind: &MeterKind, body: &[u8]) -> AnswerUsage {
    let mut meter = JsonMeter::new(kind);
    meter.feed(body);
    meter.end()
}

/// Reads the usage of a JSON answer that comes in parts, cut anywhere. The state is bounded, whatever the answer's
/// length.
#[derive(Debug)]
pub struct JsonMeter;

impl JsonMeter {
    /// A meter at the start of an answer.
    pub fn new(_kind: &MeterKind) -> Self {
        todo!()
    }

    /// Reads the next part.
    pub fn feed(&mut self, _part: &[u8]) {
        todo!()
    }

    /// The usage of the answer that ended here. An answer that was cut off has none.
    pub fn end(self) -> AnswerUsage {
        todo!()
    }
}
