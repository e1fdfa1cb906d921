//! The documents of an answer. A JSON answer is one document; in a stream, each event is one.

use std::convert::Infallible;

use super::json::Sink;
use crate::usage::Usage;

/// The usage that an answer has reported so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerUsage {
    /// The usage by kinds. `None` if the answer has not reported any, or if [`Self::is_false`].
    /// Unless [`Self::is_final`], more text may have been delivered than the output tokens count.
    pub usage: Option<Usage>,
    /// Whether no later part of the answer can change `usage`. If so, the call is charged even if
    /// the upstream breaks off now.
    pub is_final: bool,
    /// Whether a count was negative, above 2^40, or not a whole number. The usage then counts as
    /// unknown, and the hold is charged.
    pub is_false: bool,
    /// Whether a total was smaller than the sum of its parts. The parts then count, and the
    /// remainder of the total is 0.
    pub is_clamped: bool,
    /// The service tier that the answer names.
    pub service_tier: Option<Box<str>>,
    /// The bytes of text that went to the client: the answer's text, its reasoning, and the
    /// arguments of its tool calls, in UTF-8 and without JSON's escapes. Estimates are made from
    /// this number.
    pub delivered_text_bytes: u64,
    /// The number of images in the answer. `usage` counts them too.
    pub images: u32,
    /// Whether a part of the answer could not be read, so that more may have been delivered than is
    /// known.
    pub is_unread: bool,
    /// Whether a stream has delivered audio, or an image or a part of one. The length of its text
    /// then does not tell how much was delivered.
    pub has_media: bool,
}

/// The role of a document in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An event without a special role.
    Ordinary,
    /// OpenAI's extra chunk, which has the usage and nothing else.
    UsageChunk,
    /// The provider's last event.
    Last,
}

/// The reader of one provider's documents. A meter takes the tokens of a document, and counts the
/// document once it is whole.
pub trait Meter: Sink<Stop = Infallible> {
    /// Ends a document that is whole: a JSON answer, or an event.
    fn ended(&mut self, is_event: bool) -> Event;

    /// Ends a document that was cut off or is not JSON. Nothing in it counts.
    fn dropped(&mut self);

    /// The position at which the first text that is delivered begins in the document, in bytes.
    /// `None` if there is no text so far, or if the meter cannot mark its state.
    fn text_begins(&self) -> Option<usize> {
        None
    }

    /// Marks the state that the document has here, before its text.
    fn mark(&mut self) {}

    /// Goes on from the mark, at the start of a document that begins with the same bytes as the
    /// document that was marked.
    fn go_to_mark(&mut self) {}

    /// Ends the stream in the regular way. Its usage no longer changes.
    fn finished(&mut self);

    /// The usage that has been reported so far.
    fn so_far(&self) -> AnswerUsage;

    /// The present value of [`AnswerUsage::delivered_text_bytes`].
    fn text_bytes(&self) -> u64;

    /// The tokens of output that a stream has reported so far, hidden ones included. 0 once the
    /// usage is final, because the hold need not grow any more.
    fn running_output(&self) -> u64;
}
