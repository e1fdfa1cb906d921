//! Reads the answer of a metered call on its way to the client.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora_http::ResponseHeader;

use crate::meter::{AnswerUsage, Decoder, Encoding, JsonMeter, Piece, StreamMeter, StreamOptions};
use crate::proxy::body_memory::Reserved;
use crate::usage::MeterKind;

/// The longest JSON answer that is kept until its usage is known, in bytes.
pub(super) const MAX_KEPT: usize = 1 << 20;

/// The form of an answer, as its head tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Events,
    /// Anything else, such as XML; each byte of it counts as delivered text.
    Text,
    /// Audio, an image, a video or another file. The length of the file says nothing about tokens.
    Media,
}

impl Form {
    /// Reads the form from an answer's `content-type`. Without that header, the answer counts as
    /// events if the request asked for a stream, and as JSON otherwise.
    pub fn of(headers: &HeaderMap, asks_for_stream: bool) -> Self {
        let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = value.unwrap_or_default().split(';').next().unwrap_or_default();
        let kind = kind.trim().to_ascii_lowercase();
        match kind.as_str() {
            "text/event-stream"
            | "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/stream+json" => Self::Events,
            "" if asks_for_stream => Self::Events,
            "" | "application/json" | "text/json" => Self::Json,
            kind if kind.ends_with("+json") => Self::Json,
            kind if kind.starts_with("text/") && asks_for_stream => Self::Events,
            kind => {
                let media = ["audio/", "image/", "video/", "application/octet-stream"];
                let is_media = media.iter().any(|of| kind.starts_with(of));
                if is_media { Self::Media } else { Self::Text }
            }
        }
    }
}

/// The coding of an answer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// The bytes are not encoded.
    Plain,
    /// The bytes are encoded. A copy of them is decoded for the meter.
    Encoded(Encoding),
    /// The coding is unknown, so the answer cannot be decoded and stays unread.
    Unknown,
}

impl Coding {
    /// Reads an answer's `content-encoding`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = lines.next() else { return Self::Plain };
        let value = value.to_str().unwrap_or_default();
        match Encoding::parse(value) {
            _ if lines.next().is_some() => Self::Unknown,
            Some(encoding) => Self::Encoded(encoding),
            None if value.trim().eq_ignore_ascii_case("identity") => Self::Plain,
            None => Self::Unknown,
        }
    }
}

/// Decodes a copy of an answer.
enum Copying {
    Plain,
    Decoding(Box<Decoder>),
    /// The copy cannot be decoded, or not to its end. `unread` is the number of encoded bytes that
    /// were not read. They count as delivered text, because a text is rarely shorter than its
    /// encoded bytes.
    Failed {
        unread: u64,
    },
}

impl Copying {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Plain => Self::Plain,
            Coding::Encoded(encoding) => Self::Decoding(Box::new(Decoder::new(encoding))),
            Coding::Unknown => Self::Failed { unread: 0 },
        }
    }

    /// Decodes `part`, and passes the content to `read`.
    fn feed(&mut self, part: &[u8], mut read: impl FnMut(&[u8])) {
        match self {
            Self::Plain => read(part),
            Self::Failed { unread } => *unread = unread.saturating_add(part.len() as u64),
            Self::Decoding(decoder) => {
                if let Err(error) = decoder.feed(part, read) {
                    tracing::warn!(
                        target: "farebox::anybody",
                        %error,
                        "the usage of an encoded answer is not known"
                    );
                    *self = Self::Failed { unread: part.len() as u64 };
                }
            }
        }
    }

    /// Whether all bytes so far were decoded, and the answer may end here.
    fn is_at_end(&self) -> bool {
        match self {
            Self::Plain => true,
            Self::Decoding(decoder) => decoder.is_at_end(),
            Self::Failed { .. } => false,
        }
    }

    /// The number of encoded bytes that were not read.
    const fn unread(&self) -> u64 {
        if let Self::Failed { unread } = self { *unread } else { 0 }
    }
}

/// A JSON answer that is read while it is passed on.
pub(super) struct Json {
    meter: JsonMeter,
    copying: Copying,
}

impl Json {
    pub fn new(kind: &MeterKind, coding: Coding) -> Self {
        Self { meter: JsonMeter::new(kind), copying: Copying::new(coding) }
    }

    pub fn feed(&mut self, part: &[u8]) {
        let Self { meter, copying } = self;
        copying.feed(part, |content| meter.feed(content));
    }

    /// The usage of the whole answer.
    pub fn end(self) -> AnswerUsage {
        let usage = self.meter.end();
        let has_failed = matches!(self.copying, Copying::Failed { .. });
        if self.copying.is_at_end() || usage.usage.is_some() && !has_failed {
            return usage;
        }
        // The counts are not known. The length of the text is: the part that was read, plus the
        // unread bytes.
        let read = usage.delivered_text_bytes;
        let delivered_text_bytes = read.saturating_add(self.copying.unread());
        AnswerUsage { delivered_text_bytes, is_unread: true, ..AnswerUsage::default() }
    }
}

/// An answer that is neither JSON nor a stream of events. Only the length of its text is counted.
pub(super) struct Plain {
    copying: Copying,
    text_bytes: u64,
}

impl Plain {
    pub fn new(coding: Coding) -> Self {
        Self { copying: Copying::new(coding), text_bytes: 0 }
    }

    pub fn feed(&mut self, part: &[u8]) {
        let Self { copying, text_bytes } = self;
        copying.feed(part, |content| {
            *text_bytes = text_bytes.saturating_add(content.len() as u64);
        });
    }

    /// The usage of the answer up to here.
    pub fn so_far(&self) -> AnswerUsage {
        AnswerUsage {
            delivered_text_bytes: self.text_bytes.saturating_add(self.copying.unread()),
            is_unread: !self.copying.is_at_end(),
            ..AnswerUsage::default()
        }
    }
}

/// The most bytes of an unfinished event that a stream keeps back without reserving memory. A
/// connection has about as many in its own buffers anyway.
const FREELY_KEPT: usize = 16 << 10;

/// A stream of events that is read as it passes.
pub(super) struct Events {
    meter: StreamMeter,
    copying: Copying,
    /// The memory for the pieces that are kept back.
    memory: Reserved,
    has_ended: bool,
}

impl Events {
    /// Creates the state of a stream. The pieces that it keeps back are counted in `memory`.
    pub fn new(kind: &MeterKind, coding: Coding, options: StreamOptions, memory: Reserved) -> Self {
        let (meter, copying) = (StreamMeter::new(kind, options), Copying::new(coding));
        Self { meter, copying, memory, has_ended: false }
    }

    /// Whether Farebox can put its own events between those of the upstream.
    pub fn is_plain(&self) -> bool {
        matches!(self.copying, Copying::Plain)
    }

    /// Reads the next part, and appends the pieces for the client to `pieces`.
    pub fn feed(&mut self, part: &[u8], pieces: &mut Vec<Piece>) {
        let Self { meter, copying, memory, .. } = self;
        let part = Bytes::copy_from_slice(part);
        if !matches!(copying, Copying::Plain) {
            copying.feed(&part, |content| meter.watch(content));
            pieces.push(Piece::Bytes(part));
            return;
        }
        if meter.kept_bytes() == 0 {
            // The pieces of the previous part have been passed on by now.
            memory.give_back();
        }
        meter.feed(part, pieces);
        let kept = meter.kept_bytes();
        let more = kept.saturating_sub(memory.bytes());
        if kept > FREELY_KEPT && more > 0 && !memory.grow(more) {
            meter.keep_nothing(pieces);
        }
    }

    /// Ends the stream, and appends the pieces that were kept back.
    pub fn end(&mut self, pieces: &mut Vec<Piece>) {
        self.has_ended = true;
        self.meter.end(pieces);
    }

    pub fn so_far(&self) -> AnswerUsage {
        let usage = self.meter.so_far();
        let has_failed = matches!(self.copying, Copying::Failed { .. });
        let is_cut = self.has_ended && !usage.is_final && !self.copying.is_at_end();
        AnswerUsage { is_unread: has_failed || is_cut, ..usage }
    }

    pub fn delivered_text_bytes(&self) -> u64 {
        self.meter.delivered_text_bytes().saturating_add(self.copying.unread())
    }

    /// The tokens of output that the hold must cover by now: one for every two bytes of the
    /// delivered text, or the number that the stream reports if that is more.
    pub fn output_tokens(&self) -> u64 {
        let delivered = self.delivered_text_bytes().div_ceil(2);
        delivered.max(self.meter.running_output())
    }
}

/// A JSON answer that is kept until its usage is known.
pub(super) struct Kept {
    pub head: ResponseHeader,
    pub body: BytesMut,
    pub json: Json,
    pub reserved: Reserved,
}

impl Kept {
    /// Keeps another part. `is_last` is true if the part is the last one. Returns false if the
    /// answer is too long to be kept, or there is no memory for it. An answer that arrives in one
    /// part is passed on at once, so no memory is reserved for it.
    #[must_use]
    pub fn keep(&mut self, part: &[u8], is_last: bool) -> bool {
        let is_all = is_last && self.body.is_empty();
        let is_too_long = self.body.len() + part.len() > MAX_KEPT;
        if is_too_long || !is_all && !self.reserved.grow(part.len()) {
            return false;
        }
        self.body.extend_from_slice(part);
        self.json.feed(part);
        true
    }
}

/// The way in which an answer is read.
pub(super) enum Reading {
    /// The head of the answer has not arrived yet.
    Awaited,
    /// The answer is not charged by its usage, so it is passed on unread.
    Unread,
    /// The answer is kept until its usage is known.
    Kept(Box<Kept>),
    /// One JSON document, read while it is passed on.
    Json(Box<Json>),
    /// A stream of events, read while it is passed on.
    Events(Box<Events>),
    /// Any other text.
    Plain(Box<Plain>),
    /// A file, which is passed on unread.
    Media,
    /// The usage has been taken.
    Done,
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_form_of_an_answer_is_in_its_content_type() {
        for (value, asks_for_stream, form) in [
            (Some("application/json"), true, Form::Json),
            (Some("Application/JSON; charset=utf-8"), false, Form::Json),
            (Some("application/problem+json"), false, Form::Json),
            (Some("text/event-stream; charset=utf-8"), false, Form::Events),
            (Some("text/plain"), true, Form::Events),
            (Some("text/plain"), false, Form::Text),
            (Some("application/x-ndjson"), false, Form::Events),
            (Some("audio/mpeg"), true, Form::Media),
            (Some("Image/PNG"), false, Form::Media),
            (Some("application/xml"), false, Form::Text),
            (Some("application/octet-stream"), true, Form::Media),
            (None, true, Form::Events),
            (None, false, Form::Json),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            assert_eq!(Form::of(&headers, asks_for_stream), form, "{value:?} {asks_for_stream}");
        }
    }

    #[test]
    fn an_encoding_that_cannot_be_decoded_is_not_taken_for_none() {
        let coding = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            Coding::of(&headers)
        };
        assert_eq!(coding(&[]), Coding::Plain);
        assert_eq!(coding(&["Identity"]), Coding::Plain);
        assert_eq!(coding(&["gzip"]), Coding::Encoded(Encoding::Gzip));
        assert_eq!(coding(&["br"]), Coding::Encoded(Encoding::Brotli));
        for other in [&["deflate"][..], &["gzip, br"], &["gzip", "br"], &["identity", "gzip"]] {
            assert_eq!(coding(other), Coding::Unknown, "{other:?}");
        }
    }
}
