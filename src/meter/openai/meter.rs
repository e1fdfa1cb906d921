//! The meter of OpenAI's answers.

use std::convert::Infallible;

use super::counts::{Field, OpenAiCounts, usage};
use super::shape::{Member, Node, child, member};
use crate::meter::counts::{seconds, whole};
use crate::meter::document::{AnswerUsage, Event, Meter};
use crate::meter::json::{Path, Sink, Span, Text, Token};

/// The meter of one answer.
#[derive(Debug)]
pub struct OpenAi {
    path: Path<Node>,
    member: Member,
    document: Document,
    counts: Option<OpenAiCounts>,
    is_final: bool,
    service_tier: Option<Box<str>>,
    text_bytes: u64,
    images: u32,
    /// Images that a tool of the provider's made. Their tokens are not in the usage.
    tool_images: u32,
    searches: u64,
    has_media: bool,
    mark: Mark,
}

/// A state to which the meter can return, at the start of a document.
#[derive(Debug)]
struct Mark {
    path: Path<Node>,
    member: Member,
    document: Document,
    /// The service tier, if the document has named it by then.
    service_tier: Option<Box<str>>,
}

/// The state of the document that is being read.
#[derive(Clone, Copy, Debug)]
struct Document {
    counts: OpenAiCounts,
    has_usage: bool,
    has_choices: bool,
    has_choice: bool,
    has_tier: bool,
    kind: Kind,
    /// The position at which the first delivered text begins.
    text_begins: Option<usize>,
    delta_bytes: u64,
    text_bytes: u64,
    /// The bytes of reasoning under each of its two names. Some servers send the same text under
    /// both.
    reasoning_bytes: [u64; 2],
    images: u32,
    is_image: bool,
    tool_images: u32,
    searches: u64,
}

/// The `type` of an event, as far as the meter needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Another type.
    Other,
    /// The event ends a response.
    ResponseEnds,
    /// The event has a complete image.
    Image,
    /// The event's `delta` is audio and not text.
    Audio,
}

const NOTHING: Document = Document {
    counts: OpenAiCounts::NONE,
    has_usage: false,
    has_choices: false,
    has_choice: false,
    has_tier: false,
    kind: Kind::Other,
    text_begins: None,
    delta_bytes: 0,
    text_bytes: 0,
    reasoning_bytes: [0; 2],
    images: 0,
    is_image: false,
    tool_images: 0,
    searches: 0,
};

impl OpenAi {
    /// Creates a meter for the start of an answer.
    pub const fn new() -> Self {
        Self {
            path: Path::new(Node::Top),
            member: Member::Other,
            document: NOTHING,
            counts: None,
            is_final: false,
            service_tier: None,
            text_bytes: 0,
            images: 0,
            tool_images: 0,
            searches: 0,
            has_media: false,
            mark: Mark {
                path: Path::new(Node::Top),
                member: Member::Other,
                document: NOTHING,
                service_tier: None,
            },
        }
    }

    const fn has_usage(&self) -> bool {
        self.counts.is_some() || self.images > 0
    }

    fn open(&mut self, is_object: bool) {
        self.document.counts.is_false |= matches!(self.member, Member::Count(_));
        if self.path.is_top() {
            self.path.open(is_object.then_some(Node::Top));
            return;
        }
        let node = self.path.here().and_then(|parent| child(parent, self.member, is_object));
        match node {
            Some(Node::Usage) => self.document.has_usage = true,
            Some(Node::Choices) => self.document.has_choices = true,
            Some(Node::Choice) => self.document.has_choice = true,
            _ => {}
        }
        self.path.open(node);
    }

    fn close(&mut self) {
        if self.path.close() == Some(Node::Datum) && std::mem::take(&mut self.document.is_image) {
            self.document.images = self.document.images.saturating_add(1);
        }
        self.member = Member::Other;
    }

    fn text(&mut self, text: Text<'_>, begins: usize) {
        let document = &mut self.document;
        if matches!(
            self.member,
            Member::Text | Member::TextOr(_) | Member::Reasoning(_) | Member::Delta
        ) {
            document.text_begins.get_or_insert(begins);
        }
        match self.member {
            Member::Text | Member::TextOr(_) => document.text_bytes += text.len,
            Member::Reasoning(name) => {
                if let Some(bytes) = document.reasoning_bytes.get_mut(name) {
                    *bytes += text.len;
                }
            }
            Member::Delta => document.delta_bytes += text.len,
            Member::Image => document.is_image = true,
            Member::Media => self.has_media = true,
            Member::Tier => {
                document.has_tier = true;
                text.write_to(&mut self.service_tier);
            }
            Member::Type => document.kind = Kind::of(text),
            Member::ItemType => match text.raw {
                b"web_search_call" => document.searches += 1,
                b"image_generation_call" => {
                    document.tool_images = document.tool_images.saturating_add(1);
                }
                _ => {}
            },
            Member::Count(_) => document.counts.is_false = true,
            Member::Other | Member::Open(_) => {}
        }
    }

    fn number(&mut self, spelled: Option<&[u8]>) {
        if let Member::Count(field) = self.member {
            let count = if field == Field::Seconds { seconds(spelled) } else { whole(spelled) };
            self.document.counts.take(field as usize, count);
        }
    }
}

impl Kind {
    fn of(text: Text<'_>) -> Self {
        let mut buffer = None;
        match text.short(&mut buffer) {
            Some(b"response.completed" | b"response.incomplete" | b"response.failed") => {
                Self::ResponseEnds
            }
            Some(b"image_generation.completed" | b"image_edit.completed") => Self::Image,
            Some(name) if has(name, b"audio") && !has(name, b"transcript") => Self::Audio,
            _ => Self::Other,
        }
    }
}

/// Whether `word` stands somewhere in `name`.
fn has<const N: usize>(name: &[u8], word: &[u8; N]) -> bool {
    name.windows(N).any(|part| part == word)
}

impl Sink for OpenAi {
    type Stop = Infallible;

    fn token(&mut self, token: Token<'_>, span: Span) -> Result<(), Infallible> {
        match token {
            Token::Object => self.open(true),
            Token::List => self.open(false),
            Token::End => self.close(),
            _ => {
                let Some(node) = self.path.here() else { return Ok(()) };
                match token {
                    Token::Name(name) => {
                        let mut buffer = None;
                        let name = name.short(&mut buffer).unwrap_or_default();
                        self.member = member(node, name);
                    }
                    Token::Text(text) => self.text(text, span.start),
                    Token::Number(spelled) => self.number(spelled),
                    Token::Bool(_) if matches!(self.member, Member::Count(_)) => {
                        self.document.counts.is_false = true;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Meter for OpenAi {
    fn ended(&mut self, is_event: bool) -> Event {
        let document = std::mem::replace(&mut self.document, NOTHING);
        self.path.clear();
        let [first, second] = document.reasoning_bytes;
        self.text_bytes += document.text_bytes + first.max(second);
        if document.kind != Kind::Audio {
            self.text_bytes += document.delta_bytes;
        }
        self.has_media |= document.kind == Kind::Audio || is_event && document.is_image;
        let images = u32::from(document.kind == Kind::Image && document.is_image);
        self.images = self.images.saturating_add(document.images).saturating_add(images);
        self.tool_images = self.tool_images.saturating_add(document.tool_images);
        self.searches += document.searches;
        let has_counts = document.has_usage && document.counts.is_any();
        if has_counts {
            self.counts = Some(document.counts);
        }
        // A server that sends counts with every chunk sends the final ones in a chunk without a
        // choice.
        let is_last_word = !is_event || (has_counts && !document.has_choice);
        let ends = document.kind == Kind::ResponseEnds;
        self.is_final |= (is_last_word || ends) && self.has_usage();
        match document {
            _ if !is_event => Event::Ordinary,
            _ if ends => Event::Last,
            Document { has_usage: true, has_choices: true, has_choice: false, .. } => {
                Event::UsageChunk
            }
            _ => Event::Ordinary,
        }
    }

    fn dropped(&mut self) {
        self.document = NOTHING;
        self.path.clear();
    }

    fn text_begins(&self) -> Option<usize> {
        self.document.text_begins
    }

    fn mark(&mut self) {
        let Self { path, member, document, mark, .. } = self;
        (mark.path, mark.member, mark.document) = (*path, *member, *document);
        mark.service_tier = self.service_tier.clone().filter(|_| document.has_tier);
    }

    fn go_to_mark(&mut self) {
        let Self { path, member, document, mark, .. } = self;
        (*path, *member, *document) = (mark.path, mark.member, mark.document);
        if document.has_tier && self.service_tier != mark.service_tier {
            self.service_tier.clone_from(&mark.service_tier);
        }
    }

    fn finished(&mut self) {
        self.is_final |= self.has_usage();
    }

    fn so_far(&self) -> AnswerUsage {
        let counts = self.counts.unwrap_or(OpenAiCounts::NONE);
        let (usage, is_clamped) = usage(&counts, self.images, self.tool_images, self.searches);
        let has_usage = self.has_usage() && !counts.is_false;
        AnswerUsage {
            usage: has_usage.then_some(usage),
            is_final: self.is_final,
            is_false: counts.is_false,
            is_clamped,
            service_tier: self.service_tier.clone(),
            delivered_text_bytes: self.text_bytes,
            images: self.images,
            is_unread: false,
            has_media: self.has_media,
        }
    }

    fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    fn running_output(&self) -> u64 {
        let counts = self.counts.as_ref().filter(|_| !self.is_final);
        counts.map_or(0, |counts| usage(counts, 0, 0, 0).0.output_tokens())
    }
}
