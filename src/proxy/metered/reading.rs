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
    /// Another kind of text. Each of its bytes counts as delivered text.
    Text,
    /// Audio, an image or another file.
    Other,
}

impl Form {
    /// Reads the form from an answer's `content-type`. An answer without one is JSON, or events where the
    /// request asked for a stream.
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
            kind if kind.starts_with("text/") => Self::Text,
            _ => Self::Other,
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
    /// The encoding is unknown, so the usage cannot be read.
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
    /// The copy could not be decoded, or not to its end.
    Failed,
}

impl Copying {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Plain => Self::Plain,
            Coding::Encoded(encoding) => Self::Decoding(Box::new(Decoder::new(encoding))),
            Coding::Unknown => Self::Failed,
        }
    }

    /// Decodes `part`, and gives the content to `read`.
    fn feed(&mut self, part: &[u8], mut read: impl FnMut(&[u8])) {
        match self {
            Self::Plain => read(part),
            Self::Failed => {}
            Self::Decoding(decoder) => {
                if let Err(error) = decoder.feed(part, read) {
                    tracing::warn!(
                        target: "farebox::anybody",
                        %error,
                        "the usage of an encoded answer is not known"
                    );
                    *self = Self::Failed;
                }
            }
        }
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
        match self.copying {
            Copying::Plain | Copying::Decoding(_) => usage,
            // Only the text that was delivered before the failure is known.
            Copying::Failed => AnswerUsage {
                delivered_text_bytes: usage.delivered_text_bytes,
                ..AnswerUsage::default()
            },
        }
    }
}

/// A stream of events that is read while it is passed on.
pub(super) struct Events {
    meter: StreamMeter,
    copying: Copying,
}

impl Events {
    pub fn new(kind: &MeterKind, coding: Coding, options: StreamOptions) -> Self {
        Self { meter: StreamMeter::new(kind, options), copying: Copying::new(coding) }
    }

    /// Whether Farebox can put its own events between those of the upstream.
    pub fn is_plain(&self) -> bool {
        matches!(self.copying, Copying::Plain)
    }

    /// Reads the next part, and appends the pieces for the client to `pieces`.
    pub fn feed(&mut self, part: &[u8], pieces: &mut Vec<Piece>) {
        let Self { meter, copying } = self;
        let part = Bytes::copy_from_slice(part);
        if matches!(copying, Copying::Plain) {
            return meter.feed(part, pieces);
        }
        copying.feed(&part, |content| meter.watch(content));
        pieces.push(Piece::Bytes(part));
    }

    /// Ends the stream, and appends the pieces that were kept back.
    pub fn end(&mut self, pieces: &mut Vec<Piece>) {
        if self.is_plain() {
            self.meter.end(pieces);
        }
    }

    pub fn so_far(&self) -> AnswerUsage {
        self.meter.so_far()
    }

    pub fn delivered_text_bytes(&self) -> u64 {
        self.meter.delivered_text_bytes()
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
    /// Keeps another part. Returns false if the answer is too long to be kept, or if there is no
    /// memory for it.
    #[must_use]
    pub fn keep(&mut self, part: &[u8]) -> bool {
        if self.body.len() + part.len() > MAX_KEPT || !self.reserved.grow(part.len()) {
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
    /// Another text, of which this many bytes were passed on, or a file.
    Bytes { text_bytes: u64, is_text: bool },
    /// The usage was read already.
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
            (Some("audio/mpeg"), true, Form::Other),
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
