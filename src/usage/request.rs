//! What the price reads of a request, and what the ledger stores of a call.

use std::sync::Arc;

use super::tally::Usage;
use crate::credits::Credits;

/// The value of a top-level member of a request that is not an object or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A text, unescaped.
    Text(Box<str>),
    /// A number, as it is spelled.
    Number(Box<str>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// A list or an object: no value that a price names, though some parsers take `["hd"]` for `"hd"`.
    Nested,
}

/// How much a request asks for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest of the output limits that are present, in tokens.
    pub output_tokens: Option<u32>,
    /// The largest of `n`, `best_of` and their like; 1 where none is present, and at least 1.
    pub answers: u32,
}

/// What the price reads of a metered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The model, as the request spells it. `None` where the request names none.
    pub model: Option<Box<str>>,
    /// The answer will come as a stream.
    pub is_stream: bool,
    /// How much is asked for at most.
    pub limits: Limits,
    /// The bytes that count as text: the whole body less the data of `images`.
    pub text_bytes: u64,
    /// Images in the places where their data does not count as text.
    pub images: u32,
    /// The request has images or documents, whose bytes do not bound their tokens.
    pub expands: bool,
    /// A member that names input that is not in the body, such as `previous_response_id`.
    pub input_elsewhere: Option<&'static str>,
    /// The request may write to the provider's cache.
    pub writes_cache: bool,
    /// The request sends audio.
    pub sends_audio: bool,
    /// The request asks for audio.
    pub asks_for_audio: bool,
    /// The answer can have sound or images, so its text does not tell how many tokens were delivered.
    pub makes_media: bool,
    /// The top-level members that the price table names in a `when`, where they are present.
    pub members: Vec<(Box<str>, Scalar)>,
}

/// What the ledger stores of a metered call beside its amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// The credits that the hold had at its end.
    pub held: Credits,
    /// The model, as the request spelled it. `None` on a route with unit prices of its own.
    pub model: Option<Arc<str>>,
    /// What was used; an estimate where the answer did not say.
    pub usage: Usage,
    /// The version of the price table that priced the call: a hash.
    pub prices: Arc<str>,
}

impl UsageRecord {
    /// A record without usage, for a charge that no price table made.
    pub fn unknown() -> Self {
        Self { held: Credits::ZERO, model: None, usage: Usage::NONE, prices: "".into() }
    }
}
