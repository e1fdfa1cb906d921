//! The facts that are gathered while a request is read.

use super::edit::{Places, StreamOptions};
use super::mistake::BodyMistake;
use super::outcome::{ReadRequest, UsageChunk};
use crate::meter::json::{SHORT_BYTES, Span, Text, Token};
use crate::usage::{Limits, MeterKind, RequestFacts, Scalar};

/// The largest count or limit.
const MAX_COUNT: u32 = i32::MAX as u32;

/// The longest model, in characters.
const MAX_MODEL: usize = 255;

/// The facts so far.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub places: Places,
    pub model: Option<Box<str>>,
    pub is_stream: bool,
    pub asks_for_usage: bool,
    pub answers: u32,
    pub exempt_bytes: usize,
    pub images: u32,
    pub elsewhere: Option<&'static str>,
    pub writes_cache: bool,
    pub sends_audio: bool,
    pub asks_for_audio: bool,
    pub members: Vec<(Box<str>, Scalar)>,
    pub has_messages: bool,
    pub has_prompt: bool,
    pub has_input: bool,
    pub is_for_images: bool,
}

impl Facts {
    /// Takes the model.
    pub fn model(&mut self, token: Token<'_>, span: Span) -> Result<(), BodyMistake> {
        let Token::Text(text) = token else { return Err(BodyMistake::Model) };
        let model = text.to_owned().ok_or(BodyMistake::Model)?;
        let is_plain = model.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain || model.is_empty() || model.len() > MAX_MODEL {
            return Err(BodyMistake::Model);
        }
        self.model = Some(model);
        self.places.model = Some(span);
        Ok(())
    }

    /// Takes a limit of the output.
    pub fn limit(
        &mut self,
        name: &'static str,
        token: Token<'_>,
        span: Span,
    ) -> Result<(), BodyMistake> {
        let limit = count(name, token)?.filter(|limit| *limit > 0);
        self.places.limits.push((span, limit));
        Ok(())
    }

    /// Takes a number of answers.
    pub fn answers(&mut self, name: &'static str, token: Token<'_>) -> Result<(), BodyMistake> {
        self.answers = self.answers.max(count(name, token)?.unwrap_or(0));
        Ok(())
    }

    /// Takes `include_usage`.
    pub fn include_usage(&mut self, token: Token<'_>, span: Span) -> Result<(), BodyMistake> {
        self.asks_for_usage = flag("include_usage", token)?;
        self.places.stream_options = Some(StreamOptions::With(span));
        Ok(())
    }

    /// The first member that names input which is not in the body is remembered.
    pub const fn elsewhere(&mut self, name: &'static str) {
        if self.elsewhere.is_none() {
            self.elsewhere = Some(name);
        }
    }

    /// Takes a member that the prices look at.
    pub fn member(&mut self, name: &str, token: Token<'_>) {
        let scalar = match token {
            Token::Text(text) => match text.to_owned() {
                Some(text) => Scalar::Text(text),
                None => return,
            },
            Token::Number(Some(raw)) => match std::str::from_utf8(raw) {
                Ok(number) => Scalar::Number(number.into()),
                Err(_) => return,
            },
            Token::Bool(value) => Scalar::Bool(value),
            Token::Null => Scalar::Null,
            _ => return,
        };
        self.members.push((name.into(), scalar));
    }

    /// The whole request was read.
    pub fn read(mut self, kind: &MeterKind, body_bytes: usize) -> ReadRequest {
        let is_for_images = self.is_for_images || self.model.as_deref().is_some_and(makes_images);
        let has_completion =
            self.has_messages || (self.has_prompt && !self.has_input && !is_for_images);
        let usage_chunk = match kind {
            MeterKind::OpenAi if self.is_stream && has_completion => {
                if self.asks_for_usage {
                    UsageChunk::Asked
                } else {
                    UsageChunk::NotAsked
                }
            }
            _ => UsageChunk::NotNeeded,
        };
        self.places.new_limit = match kind {
            MeterKind::Anthropic if self.has_messages => Some("max_tokens"),
            MeterKind::OpenAi if self.has_messages => Some("max_completion_tokens"),
            MeterKind::OpenAi if has_completion => Some("max_tokens"),
            MeterKind::OpenAi if self.has_input => Some("max_output_tokens"),
            _ => None,
        };
        let limits = self.places.limits.iter().filter_map(|(_, limit)| *limit);
        let facts = RequestFacts {
            model: self.model,
            is_stream: self.is_stream,
            limits: Limits { output_tokens: limits.max(), answers: self.answers.max(1) },
            text_bytes: body_bytes.saturating_sub(self.exempt_bytes) as u64,
            images: self.images,
            input_elsewhere: self.elsewhere,
            writes_cache: self.writes_cache,
            sends_audio: self.sends_audio,
            asks_for_audio: self.asks_for_audio,
            members: self.members,
        };
        ReadRequest { facts, usage_chunk, places: self.places }
    }
}

/// Reads a count or limit: null, or a whole number in digits only.
fn count(name: &'static str, token: Token<'_>) -> Result<Option<u32>, BodyMistake> {
    let mistake = BodyMistake::Count(name);
    match token {
        Token::Null => Ok(None),
        Token::Number(Some(raw)) if raw.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(raw).ok().and_then(|text| text.parse().ok());
            number.filter(|number| *number <= MAX_COUNT).map(Some).ok_or(mistake)
        }
        _ => Err(mistake),
    }
}

/// Reads a boolean; null is false.
pub(super) fn flag(name: &'static str, token: Token<'_>) -> Result<bool, BodyMistake> {
    match token {
        Token::Bool(value) => Ok(value),
        Token::Null => Ok(false),
        _ => Err(BodyMistake::Flag(name)),
    }
}

/// Checks `background`: a call of responses that runs on, or how an image's background is to be.
pub(super) fn background(token: Token<'_>) -> Result<(), BodyMistake> {
    let is_colour = |text: Text<'_>| {
        let mut buffer = [0; SHORT_BYTES];
        matches!(text.short(&mut buffer), Some(b"transparent" | b"opaque" | b"auto"))
    };
    match token {
        Token::Bool(false) | Token::Null => Ok(()),
        Token::Text(text) if is_colour(text) => Ok(()),
        _ => Err(BodyMistake::Background),
    }
}

/// True for the models of OpenAI's images, whose streams have no usage chunk.
fn makes_images(model: &str) -> bool {
    let model = model.to_ascii_lowercase();
    model.contains("image") || model.contains("dall-e")
}
