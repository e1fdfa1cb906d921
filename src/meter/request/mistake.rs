//! The reasons why a metered body is refused with 400.

use crate::problem::{Text, texts};

/// The reason why a body is refused with 400. Positions are bytes from the start of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyMistake {
    /// The bytes from this position on are not UTF-8.
    NotUtf8(usize),
    /// The body breaks the grammar of JSON at this position, or ends too early.
    NotJson(usize),
    /// The body is JSON, but not an object.
    NotAnObject,
    /// Objects and lists are nested more than 64 times.
    TooDeep,
    /// An escape at this place names half of a surrogate pair.
    LoneSurrogate(usize),
    /// A member that the price depends on stands twice in one object.
    Twice(Box<str>),
    /// A member that the price depends on is spelled differently from this name.
    Spelling(Box<str>),
    /// `model` is not a string of 1 to 255 visible ASCII characters.
    Model,
    /// A count or limit is neither null nor a whole number from 0 to 2^31−1.
    Count(&'static str),
    /// A member is neither a boolean nor null.
    Flag(&'static str),
    /// `stream_options` is neither an object nor null.
    StreamOptions,
    /// The call would run in the background, and its answer would not have the usage.
    Background,
    /// A member names models beside `model`.
    OtherModels(&'static str),
    /// The route's config denies this member.
    Denied(Box<str>),
}

impl BodyMistake {
    /// The text for the client.
    pub fn text(&self) -> Text {
        match self {
            Self::NotUtf8(at) => texts::body_not_utf8(*at),
            Self::NotJson(at) => texts::body_not_json(*at),
            Self::NotAnObject => texts::BODY_NOT_AN_OBJECT,
            Self::TooDeep => texts::BODY_TOO_DEEP,
            Self::LoneSurrogate(at) => texts::body_lone_surrogate(*at),
            Self::Twice(name) => texts::member_twice(name),
            Self::Spelling(name) => texts::member_misspelled(name),
            Self::Model => texts::BAD_MODEL,
            Self::Count(name) => texts::bad_count(name),
            Self::Flag(name) => texts::bad_flag(name),
            Self::StreamOptions => texts::BAD_STREAM_OPTIONS,
            Self::Background => texts::NO_BACKGROUND,
            Self::OtherModels(name) => texts::other_models(name),
            Self::Denied(name) => texts::member_denied(name),
        }
    }
}
