//! Meters read what a request asks for, and how much its answer says was used. They are pure: they
//! only see bytes.
//!
//! | task | where |
//! |---|---|
//! | read what the price needs of a request, and rewrite it | [`read_request`], [`ReadRequest::rewrite`] |
//! | read the usage of a whole JSON answer, at once or in parts | [`read_answer`], [`JsonMeter`] |
//! | read the usage of a stream as it passes | [`StreamMeter`] |
//! | decode a copy of an encoded answer for the meter | [`Decoder`] |
//! | end a stream with an error that the provider's SDK reads | [`error_event`] |
//!
//! `openai/`, `anthropic/` and `pointers.rs` have one meter each, which knows the places of the
//! counts in an answer. All of them read the tokens of one JSON scanner, `json/`, which keeps no
//! more than a few hundred bytes, however long the answer is.

mod answer;
mod anthropic;
mod beginning;
mod counts;
mod decode;
mod document;
mod error_event;
mod json;
mod openai;
mod pointers;
mod reader;
mod request;
mod stream;

pub use answer::{JsonMeter, read_answer};
pub use decode::{DecodeError, Decoder, Encoding, MAX_DECODED_BYTES};
pub use document::AnswerUsage;
pub use error_event::error_event;
pub use request::{BodyMistake, Changes, ReadRequest, UsageChunk, Watched, read_request};
pub use stream::{MAX_KEPT_BYTES, Piece, StreamMeter, StreamOptions};
