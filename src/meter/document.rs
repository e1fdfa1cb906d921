//! The documents of an answer: the one of a JSON answer, or those of a stream's events.

use std::convert::Infallible;

use super::json::Sink;
use crate::usage::Usage;

/// The usage that an answer has told so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerUsage {
    /// How much of each kind. `None` where the answer has not said, or [`Self::is_false`]. Where it is not
    /// [`Self::is_final`], the tokens of the answer may be behind the text that was delivered.
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
    /// Images that the answer has. `usage` counts them as well.
    pub images: u32,
    /// The answer could not be read, or not all of it: more may have been delivered than is known.
    pub is_unread: bool,
    /// A stream has delivered sound, or an image or a part of one: its text does not tell how much was delivered.
    pub has_media: bool,
}

/// The part that a document plays in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Any event but those below.
    Ordinary,
    /// OpenAI's extra chunk, which has the usage and nothing else.
    UsageChunk,
    /// The provider's last event.
    Last,
}

/// The reader of one provider's documents. A meter takes their tokens, and counts a document once that is whole.
pub trait Meter: Sink<Stop = Infallible> {
    /// The document is whole: a JSON answer, or an event.
    fn ended(&mut self, is_event: bool) -> Event;

    /// The document was cut off, or is no JSON: nothing of it counts.
    fn dropped(&mut self);

    /// The stream ended as it should: its usage does not change any more.
    fn finished(&mut self);

    /// The usage so far.
    fn so_far(&self) -> AnswerUsage;

    /// [`AnswerUsage::delivered_text_bytes`].
    fn text_bytes(&self) -> u64;
}
