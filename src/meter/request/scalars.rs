//! Takes the values of members that are strings, numbers or literals.

use super::edit::StreamOptions;
use super::facts::{background, flag};
use super::frame::{Frame, NOTHING, Next};
use super::members::Role;
use super::mistake::BodyMistake;
use super::place::Place;
use super::reader::Reader;
use crate::meter::json::{Span, Text, Token};

/// The beginnings of the types of tools that add input of their own.
const SERVER_TOOLS: [&str; 7] = [
    "web_search",
    "file_search",
    "code_interpreter",
    "mcp",
    "web_fetch",
    "code_execution",
    "tool_search",
];

type Taken = Result<(), BodyMistake>;

impl Reader<'_> {
    /// Takes a member that matters by its presence alone.
    pub(super) const fn is_present(&mut self, next: Next<'_>) {
        match next.role {
            Role::Elsewhere => self.facts.elsewhere(next.name),
            Role::StoredPrompt => self.facts.elsewhere("prompt.id"),
            Role::Cache => self.facts.writes_cache = true,
            Role::Document => self.facts.has_documents = true,
            Role::SendsAudio => self.facts.sends_audio = true,
            Role::AsksForAudio => self.facts.asks_for_audio = true,
            _ => {}
        }
        // `cachedContent` names input that is not in the body. It also counts as a write to the
        // cache.
        if matches!(next.name.as_bytes(), b"cachedContent") {
            self.facts.writes_cache = true;
        }
    }

    /// Takes an image whose data has `data_bytes` bytes. If `is_exempt`, the image stands in a
    /// place where its data does not count as text. Elsewhere it is counted as text.
    pub(super) fn image(&mut self, is_exempt: bool, data_bytes: usize) {
        if is_exempt {
            self.facts.images = self.facts.images.saturating_add(1);
            self.facts.exempt_bytes += data_bytes;
        }
    }

    /// Takes a value that is neither an object nor a list.
    pub(super) fn scalar(&mut self, token: Token<'_>, span: Span) -> Taken {
        let here = self.here();
        if here.place == Place::OtherModels {
            return Err(BodyMistake::OtherModels(self.facts.other_models));
        }
        if here.is_list {
            self.element(here.place, token, span);
            return Ok(());
        }
        let next = std::mem::replace(&mut self.next, NOTHING);
        if let Some(name) = next.watched {
            self.facts.member(name, token);
        }
        match next.role {
            // Most strings are the text of a message, or of a member that is not known.
            Role::None | Role::Open(_) => Ok(()),
            Role::Model => self.facts.model(token, span),
            Role::Stream => flag("stream", token).map(|value| self.facts.is_stream = value),
            Role::IncludeUsage => self.facts.include_usage(token, span),
            Role::StreamOptions if matches!(token, Token::Null) => {
                self.facts.places.stream_options = Some(StreamOptions::Null(span));
                Ok(())
            }
            Role::StreamOptions => Err(BodyMistake::StreamOptions),
            Role::Limit => self.facts.limit(next.name, token, span),
            Role::Answers => self.facts.answers(next.name, token),
            Role::Background => background(token),
            Role::OtherModels if !matches!(token, Token::Null) => {
                Err(BodyMistake::OtherModels(next.name))
            }
            _ => {
                if !matches!(token, Token::Null) {
                    self.is_present(next);
                }
                if let Token::Text(text) = token {
                    self.text(here, next.role, text);
                }
                Ok(())
            }
        }
    }

    /// Takes a value in a list.
    fn element(&mut self, list: Place, token: Token<'_>, span: Span) {
        match (list, token) {
            (Place::Images, Token::Text(_)) => {
                self.image(self.images.others(), span.end - span.start - 2);
            }
            (Place::Prompts, Token::Text(_)) => self.facts.prompt(),
            (Place::Modalities, Token::Text(text)) => {
                let text = text.to_owned().map(|text| text.to_ascii_lowercase());
                let has = |kind| text.as_ref().is_none_or(|text| text.contains(kind));
                self.facts.asks_for_audio |= has("audio");
                self.facts.asks_for_images |= has("image");
            }
            _ => {}
        }
    }

    /// Takes a string that is the value of a member.
    fn text(&mut self, here: Frame, role: Role, text: Text<'_>) {
        match role {
            Role::ImageUrl => {
                let within = if let Place::Part(within) = here.place { Some(within) } else { None };
                self.address(self.images.image_url(within), text, "image_url");
            }
            Role::MediaUrl => self.media(text),
            Role::Url if here.place == Place::MediaUrl => self.media(text),
            Role::Url => {
                let Place::ImageUrl(within) = here.place else { return };
                self.address(self.images.url(within), text, "image_url");
            }
            Role::ToolType => {
                self.facts.asks_for_images |= text.starts_with(b"image_generation");
                let tool = SERVER_TOOLS.iter().find(|tool| text.starts_with(tool.as_bytes()));
                if let Some(tool) = tool {
                    self.facts.elsewhere(tool);
                }
            }
            Role::ItemType if text.starts_with(b"item_reference") => {
                self.facts.elsewhere("item_reference");
            }
            _ => self.frame_text(role, text),
        }
    }

    /// Takes a string that is needed once its object is whole.
    fn frame_text(&mut self, role: Role, text: Text<'_>) {
        let mut buffer = None;
        let short = match role {
            Role::SourceType | Role::MediaType => text.short(&mut buffer).unwrap_or_default(),
            _ => &[],
        };
        if role == Role::SourceType && matches!(short, b"url" | b"file") {
            self.facts.elsewhere("source");
        }
        let Some(frame) = self.frame() else { return };
        match role {
            Role::SourceType => frame.is_base64 = short == b"base64",
            Role::MediaType => {
                frame.is_image = short.starts_with(b"image/");
                frame.is_audio = short.starts_with(b"audio/");
            }
            Role::Data => frame.data_bytes = text.raw.len(),
            Role::ItemType => frame.has_type = true,
            Role::ItemId => frame.has_id = true,
            Role::ItemContent => frame.has_content = true,
            _ => {}
        }
    }

    /// Takes the URL of video, audio or a document: a data URL, or an address outside the body.
    fn media(&mut self, text: Text<'_>) {
        self.facts.has_documents = true;
        self.address(false, text, "url");
    }

    /// Takes a URL: a data URL, whose data counts as an image if `is_exempt`, or an address outside
    /// the body.
    fn address(&mut self, is_exempt: bool, text: Text<'_>, name: &'static str) {
        if !text.starts_with(b"data:") {
            self.facts.elsewhere(name);
            return;
        }
        let data = memchr::memchr(b',', text.raw).map_or(0, |comma| text.raw.len() - comma - 1);
        self.image(is_exempt, data);
    }
}
