//! The facts that are collected while a request is read.

use super::edit::{Limit, Places, StreamOptions};
use super::mistake::BodyMistake;
use super::outcome::{ReadRequest, UsageChunk};
use crate::meter::json::{Span, Text, Token};
use crate::usage::{Limits, MeterKind, RequestFacts, Scalar};

/// The largest count or limit.
const MAX_COUNT: u32 = i32::MAX as u32;

/// The longest name of a model, in characters.
const MAX_MODEL: usize = 255;

/// The facts that were found so far.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub places: Places,
    pub model: Option<Box<str>>,
    pub is_stream: bool,
    pub asks_for_usage: bool,
    pub answers: u32,
    /// The number of texts and token lists in a list of prompts. Single tokens are not counted,
    /// because together they are one prompt.
    pub prompts: u32,
    pub exempt_bytes: usize,
    pub images: u32,
    pub elsewhere: Option<&'static str>,
    pub writes_cache: bool,
    pub sends_audio: bool,
    pub asks_for_audio: bool,
    pub asks_for_images: bool,
    pub has_documents: bool,
    /// The name of the member that is open and must not name other models.
    pub other_models: &'static str,
    pub members: Vec<(Box<str>, Scalar)>,
    pub has_messages: bool,
    pub has_prompt: bool,
    /// Whether `prompt` is an object: it then names a prompt that the provider stores (responses).
    pub has_stored_prompt: bool,
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

    /// Takes an output limit.
    pub fn limit(
        &mut self,
        name: &'static str,
        token: Token<'_>,
        span: Span,
    ) -> Result<(), BodyMistake> {
        let value = count(name, token)?.filter(|limit| *limit > 0);
        self.places.limits.push(Limit { name, span, value, is_native: true });
        Ok(())
    }

    /// Takes the number of answers that the request asks for.
    pub fn answers(&mut self, name: &'static str, token: Token<'_>) -> Result<(), BodyMistake> {
        self.answers = self.answers.max(count(name, token)?.unwrap_or(0));
        Ok(())
    }

    /// Takes a text or a list of tokens in a list of prompts.
    pub const fn prompt(&mut self) {
        self.prompts = self.prompts.saturating_add(1);
    }

    /// Takes `include_usage`.
    pub fn include_usage(&mut self, token: Token<'_>, span: Span) -> Result<(), BodyMistake> {
        self.asks_for_usage = flag("include_usage", token)?;
        self.places.stream_options = Some(StreamOptions::With(span));
        Ok(())
    }

    /// Takes a member that names input which is not in the body. The first such member is
    /// remembered.
    pub const fn elsewhere(&mut self, name: &'static str) {
        if self.elsewhere.is_none() {
            self.elsewhere = Some(name);
        }
    }

    /// Takes a member on which the prices depend.
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

    /// Returns the request that was read.
    pub fn read(mut self, kind: &MeterKind, body_bytes: usize) -> ReadRequest {
        let makes_images = self.model.as_deref().is_some_and(makes_images);
        let is_for_images = self.is_for_images || makes_images;
        let has_text_prompt = self.has_prompt && !self.has_stored_prompt;
        let has_completion =
            self.has_messages || (has_text_prompt && !self.has_input && !is_for_images);
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
            MeterKind::OpenAi if self.is_response() => Some("max_output_tokens"),
            _ => None,
        };
        let makes_images = self.asks_for_images
            || makes_images
            || (self.is_for_images && !self.has_messages && !self.has_input);
        let answers = self.answers.max(1).saturating_mul(self.prompts.max(1));
        let (output_tokens, is_kept) = self.output_limit(kind);
        let facts = RequestFacts {
            model: self.model,
            is_stream: self.is_stream,
            limits: Limits { output_tokens, is_kept, answers },
            text_bytes: body_bytes.saturating_sub(self.exempt_bytes) as u64,
            images: self.images,
            expands: self.images > 0 || self.has_documents,
            input_elsewhere: self.elsewhere,
            writes_cache: self.writes_cache,
            sends_audio: self.sends_audio,
            asks_for_audio: self.asks_for_audio,
            makes_media: self.asks_for_audio || makes_images,
            members: self.members,
        };
        ReadRequest { facts, usage_chunk, places: self.places }
    }
}

impl Facts {
    /// Whether this may be a request of OpenAI's responses.
    const fn is_response(&self) -> bool {
        self.has_input || self.has_stored_prompt
    }

    /// For each shape that the request may have, the limits that its provider knows. A provider
    /// reads the members of its own shape and ignores all others, limits among them.
    const fn known_limits(&self, kind: &MeterKind) -> [&'static [&'static str]; 3] {
        const fn of(shape: bool, names: &'static [&'static str]) -> &'static [&'static str] {
            if shape { names } else { &[] }
        }
        match kind {
            MeterKind::Anthropic => [&["max_tokens"], &[], &[]],
            MeterKind::OpenAi => [
                of(self.has_messages, &["max_tokens", "max_completion_tokens"]),
                of(self.has_prompt && !self.has_stored_prompt, &["max_tokens"]),
                of(self.is_response(), &["max_output_tokens"]),
            ],
            MeterKind::Pointers(_) => [&[]; 3],
        }
    }

    /// The largest output limit, and whether the provider is known to keep to it. The limit is
    /// `None` if, for one of the shapes that the request may have, no limit is set that the
    /// provider knows.
    fn output_limit(&mut self, kind: &MeterKind) -> (Option<u32>, bool) {
        let known = self.known_limits(kind);
        let shapes = || known.iter().filter(|names| !names.is_empty());
        let limits = &mut self.places.limits;
        for limit in limits.iter_mut().filter(|_| shapes().next().is_some()) {
            limit.is_native = shapes().any(|names| names.contains(&limit.name));
        }
        let is_set = |names: &[&str]| {
            limits.iter().any(|limit| limit.value.is_some() && names.contains(&limit.name))
        };
        let is_limited = shapes().all(|names| is_set(names));
        let largest = limits.iter().filter_map(|limit| limit.value).max();
        // One added limit cannot limit two shapes.
        self.places.can_limit = is_limited || shapes().count() < 2;
        (largest.filter(|_| is_limited), shapes().next().is_some())
    }
}

/// Reads a count or limit: null, or a whole number that is written with digits only.
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

/// Reads a boolean. Null counts as false.
pub(super) fn flag(name: &'static str, token: Token<'_>) -> Result<bool, BodyMistake> {
    match token {
        Token::Bool(value) => Ok(value),
        Token::Null => Ok(false),
        _ => Err(BodyMistake::Flag(name)),
    }
}

/// Checks `background`. It either says that a call of the responses API runs on after its answer,
/// or describes the background of an image.
pub(super) fn background(token: Token<'_>) -> Result<(), BodyMistake> {
    let is_colour = |text: Text<'_>| {
        let mut buffer = None;
        matches!(text.short(&mut buffer), Some(b"transparent" | b"opaque" | b"auto"))
    };
    match token {
        Token::Bool(false) | Token::Null => Ok(()),
        Token::Text(text) if is_colour(text) => Ok(()),
        _ => Err(BodyMistake::Background),
    }
}

/// Whether this is one of OpenAI's image models, whose streams have no usage chunk.
fn makes_images(model: &str) -> bool {
    let model = model.to_ascii_lowercase();
    model.contains("image") || model.contains("dall-e")
}
