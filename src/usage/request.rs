//! The facts of a request that the price depends on, and the record of a call that the ledger
//! stores.

use std::sync::Arc;

use super::tally::Usage;
use crate::credits::Credits;

/// The value of a top-level member of a request, for comparison with the values that prices name.
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
    /// A list or an object. No price names such a value, but some parsers take `["hd"]` for `"hd"`.
    Nested,
}

/// The most that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest of the output limits that are present, in tokens.
    pub output_tokens: Option<u32>,
    /// Whether the provider of this shape of request is known to keep to `output_tokens`. An
    /// unknown provider may ignore the limit.
    pub is_kept: bool,
    /// The largest of `n`, `best_of` and the like; 1 if the request has none of them or only 0.
    pub answers: u32,
}

/// The facts of a metered request that its price depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The model, as the request spells it. `None` if the request names none.
    pub model: Option<Box<str>>,
    /// Whether the answer will be a stream.
    pub is_stream: bool,
    /// The most that the request asks for.
    pub limits: Limits,
    /// The number of bytes that count as text: the whole body without the data of `images`.
    pub text_bytes: u64,
    /// The number of images in places where their data does not count as text.
    pub images: u32,
    /// Whether the request has images or documents. Their bytes do not limit how many tokens they
    /// have.
    pub expands: bool,
    /// A member that names input that is not in the body, such as `previous_response_id`.
    pub input_elsewhere: Option<&'static str>,
    /// Whether the request may write to the provider's cache.
    pub writes_cache: bool,
    /// Whether the request sends audio.
    pub sends_audio: bool,
    /// Whether the request asks for audio.
    pub asks_for_audio: bool,
    /// Whether the answer can have audio or images, so that its text does not tell how many tokens
    /// were delivered.
    pub makes_media: bool,
    /// The present top-level members that the price table names in a `when`.
    pub members: Vec<(Box<str>, Scalar)>,
}

/// The part of a metered call that the ledger stores beside the amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// The amount of the hold when it ended.
    pub held: Credits,
    /// The model, as the request spelled it. `None` on a route with unit prices of its own.
    pub model: Option<Arc<str>>,
    /// The usage. It is an estimate if the answer did not report it.
    pub usage: Usage,
    /// The version of the price table by which the call was priced: a hash.
    pub prices: Arc<str>,
}

impl UsageRecord {
    /// A record without usage, for a charge that was not made from a price table.
    pub fn unknown() -> Self {
        Self { held: Credits::ZERO, model: None, usage: Usage::NONE, prices: "".into() }
    }
}
