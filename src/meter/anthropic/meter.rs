//! The meter of Anthropic's answers.

use std::convert::Infallible;

use super::shape::{AnthropicCounts, Field, Member, Node, child, member, usage};
use crate::meter::counts::whole;
use crate::meter::document::{AnswerUsage, Event, Meter};
use crate::meter::json::{Path, Sink, Span, Text, Token};

/// The meter of one answer.
#[derive(Debug)]
pub struct Anthropic {
    path: Path<Node>,
    member: Member,
    document: Document,
    counts: AnthropicCounts,
    is_final: bool,
    service_tier: Option<Box<str>>,
    text_bytes: u64,
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
    counts: AnthropicCounts,
    text_bytes: u64,
    /// The position at which the arguments of a tool call begin, in bytes.
    input_from: usize,
    has_stop_reason: bool,
    is_message_stop: bool,
    has_tier: bool,
    /// The position at which the first delivered text begins.
    text_begins: Option<usize>,
}

const NOTHING: Document = Document {
    counts: AnthropicCounts::NONE,
    text_bytes: 0,
    input_from: 0,
    has_stop_reason: false,
    is_message_stop: false,
    has_tier: false,
    text_begins: None,
};

impl Anthropic {
    /// Creates a meter for the start of an answer.
    pub const fn new() -> Self {
        Self {
            path: Path::new(Node::Top),
            member: Member::Other,
            document: NOTHING,
            counts: AnthropicCounts::NONE,
            is_final: false,
            service_tier: None,
            text_bytes: 0,
            mark: Mark {
                path: Path::new(Node::Top),
                member: Member::Other,
                document: NOTHING,
                service_tier: None,
            },
        }
    }

    fn open(&mut self, is_object: bool, span: Span) {
        self.document.counts.is_false |= matches!(self.member, Member::Count(_));
        if self.path.is_top() {
            self.path.open(is_object.then_some(Node::Top));
            return;
        }
        let node = self.path.here().and_then(|parent| child(parent, self.member, is_object));
        if node == Some(Node::ToolInput) {
            self.document.input_from = span.end;
        }
        self.path.open(node);
    }

    fn close(&mut self, span: Span) {
        if self.path.close() == Some(Node::ToolInput) {
            // The arguments count as the client sees them, except for their braces: in a stream
            // they begin as an empty object.
            self.document.text_bytes += span.start.saturating_sub(self.document.input_from) as u64;
        }
        self.member = Member::Other;
    }

    fn text(&mut self, text: Text<'_>, begins: usize) {
        match self.member {
            Member::Text => {
                self.document.text_bytes += text.len;
                self.document.text_begins.get_or_insert(begins);
            }
            Member::Type => {
                self.document.is_message_stop = !text.has_escapes && text.raw == b"message_stop";
            }
            Member::Tier => {
                self.document.has_tier = true;
                text.write_to(&mut self.service_tier);
            }
            Member::StopReason => self.document.has_stop_reason = true,
            Member::Count(_) => self.document.counts.is_false = true,
            Member::Other | Member::Open(_) => {}
        }
    }
}

impl Sink for Anthropic {
    type Stop = Infallible;

    fn token(&mut self, token: Token<'_>, span: Span) -> Result<(), Infallible> {
        match token {
            Token::Object => self.open(true, span),
            Token::List => self.open(false, span),
            Token::End => self.close(span),
            _ => {
                let Some(node) = self.path.here() else { return Ok(()) };
                match (token, self.member) {
                    (Token::Name(name), _) => {
                        let mut buffer = None;
                        let name = name.short(&mut buffer).unwrap_or_default();
                        self.member = member(node, name);
                    }
                    (Token::Text(text), _) => self.text(text, span.start),
                    (Token::Number(spelled), Member::Count(field)) => {
                        self.document.counts.take(field as usize, whole(spelled));
                    }
                    (Token::Bool(_), Member::Count(_)) => self.document.counts.is_false = true,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Meter for Anthropic {
    fn ended(&mut self, is_event: bool) -> Event {
        let document = std::mem::replace(&mut self.document, NOTHING);
        self.path.clear();
        self.text_bytes += document.text_bytes;
        // The counts of a stream are cumulative, so each count replaces the one before.
        self.counts.overwrite(&document.counts);
        let is_last_word = !is_event
            || document.is_message_stop
            || (document.has_stop_reason && document.counts.is_any());
        self.is_final |= is_last_word && self.counts.is_any();
        if is_event && document.is_message_stop { Event::Last } else { Event::Ordinary }
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
        self.is_final |= self.counts.is_any();
    }

    fn so_far(&self) -> AnswerUsage {
        let (usage, is_clamped) = usage(&self.counts);
        let is_false = self.counts.is_false;
        AnswerUsage {
            usage: (self.counts.is_any() && !is_false).then_some(usage),
            is_final: self.is_final,
            is_false,
            is_clamped,
            service_tier: self.service_tier.clone(),
            delivered_text_bytes: self.text_bytes,
            ..AnswerUsage::default()
        }
    }

    fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    fn running_output(&self) -> u64 {
        if self.is_final { 0 } else { self.counts.or_zero(Field::Output as usize) }
    }
}
