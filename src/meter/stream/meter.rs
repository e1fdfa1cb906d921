//! The meter of a stream.

use bytes::Bytes;

use super::lines::{Lines, Step};
use super::passing::{Fate, Passing, Piece};
use crate::meter::document::{AnswerUsage, Event};
use crate::meter::reader::Reader;
use crate::usage::MeterKind;

/// The value of OpenAI's last line.
const DONE: &[u8] = b"[DONE]";

/// How a stream is passed on. If no option is set, each part is passed on as it arrives. Otherwise
/// an event is passed on only once it is whole, because a client cannot use a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Whether OpenAI's usage chunk is hidden, because the client did not ask for it.
    pub hides_usage_chunk: bool,
    /// Whether a report is inserted before the last event. [`Piece::Report`] marks the place.
    pub reports: bool,
    /// Whether only whole events are passed on, so that an error event can follow any piece, after
    /// an empty line.
    pub whole_events: bool,
}

/// Reads the usage of a stream of server-sent events that arrives in parts, which may be cut
/// anywhere, and decides which bytes go to the client. The meter's own state takes less than
/// three KiB; `MAX_KEPT_BYTES` limits the bytes that are kept back.
#[derive(Debug)]
pub struct StreamMeter {
    lines: Lines,
    reader: Reader,
    event: EventState,
    passing: Option<Passing>,
    options: StreamOptions,
    has_last_event: bool,
}

/// The state of the event that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct EventState {
    /// How many bytes of the event's data are equal to the beginning of [`DONE`].
    done: usize,
    /// Whether the event's data differs from [`DONE`].
    is_other: bool,
    /// Whether the event has a line that is not a comment.
    has_line: bool,
    /// Whether a document in the event's data has been read to its end.
    is_read: bool,
}

impl StreamMeter {
    /// Creates a meter for the start of a stream.
    pub fn new(kind: &MeterKind, options: StreamOptions) -> Self {
        let keeps = options != StreamOptions::default();
        Self {
            lines: Lines::new(matches!(kind, MeterKind::Pointers(_))),
            reader: Reader::new(kind),
            event: EventState::default(),
            passing: keeps.then(Passing::new),
            options,
            has_last_event: false,
        }
    }

    /// Reads the next part, and appends the pieces that go to the client now to `to_client`.
    pub fn feed(&mut self, part: Bytes, to_client: &mut Vec<Piece>) {
        let Some(mut passing) = self.passing.take() else {
            self.watch(&part);
            if !part.is_empty() {
                to_client.push(Piece::Bytes(part));
            }
            return;
        };
        passing.part_begins();
        let mut at = 0;
        while let Some(step) = self.lines.next(&part, &mut at) {
            let is_inside = self.event.has_line && !self.event.is_read;
            match (step, self.take(step, &part, at)) {
                (Step::LineFeed, _) => passing.rest_of_line_end(&part, at, to_client),
                (Step::CommentEnds, _) if !is_inside => passing.comment(&part, at, to_client),
                (Step::CommentEnds, _) => {}
                (Step::EventEnds, _) => passing.event_ends(&part, at, to_client),
                (_, Some(event)) => {
                    let reports = event == Event::Last && passing.has_whole_event();
                    if reports && std::mem::take(&mut self.options.reports) {
                        passing.report(&part, to_client);
                    }
                    let hides = event == Event::UsageChunk && self.options.hides_usage_chunk;
                    let fate = if hides { Fate::Hidden } else { Fate::Passes };
                    passing.decide(fate, &part, at, to_client);
                }
                _ => passing.line(),
            }
        }
        passing.part_ends(part, to_client);
        self.passing = Some(passing);
    }

    /// Reads the next part of a decoded copy. Nothing of it is passed on, because the client gets
    /// the encoded bytes.
    pub fn watch(&mut self, part: &[u8]) {
        let mut at = 0;
        while let Some(step) = self.lines.next(part, &mut at) {
            self.take(step, part, at);
        }
    }

    /// Ends the stream in the regular way. The bytes that were kept back go to the client.
    pub fn end(&mut self, to_client: &mut Vec<Piece>) {
        if self.reader.is_whole() {
            self.end_document();
        }
        self.reader.finish();
        if let Some(passing) = &mut self.passing {
            passing.end(to_client);
        }
    }

    /// The number of bytes of an unfinished event that are kept back.
    pub fn kept_bytes(&self) -> usize {
        self.passing.as_ref().map_or(0, Passing::kept_bytes)
    }

    /// Passes on the bytes that are kept back. The rest of their event is then passed on as it
    /// arrives.
    pub fn keep_nothing(&mut self, to_client: &mut Vec<Piece>) {
        if let Some(passing) = &mut self.passing {
            passing.keep_nothing(to_client);
        }
    }

    /// The usage that the stream has reported so far.
    pub fn so_far(&self) -> AnswerUsage {
        self.reader.so_far()
    }

    /// The present value of [`AnswerUsage::delivered_text_bytes`], for a hold that grows.
    pub fn delivered_text_bytes(&self) -> u64 {
        self.reader.text_bytes()
    }

    /// The tokens of output that the stream has reported so far, hidden ones included, for a hold
    /// that grows. 0 once the usage is final.
    pub fn running_output(&self) -> u64 {
        self.reader.running_output()
    }

    /// Whether the last event has been read, so that the stream is complete.
    pub const fn has_last_event(&self) -> bool {
        self.has_last_event
    }

    /// Takes a step that ends at `at`. Returns the role of the event, once it is known.
    fn take(&mut self, step: Step, part: &[u8], at: usize) -> Option<Event> {
        match step {
            Step::Data(from) => {
                self.event.has_line = true;
                self.data(part.get(from..at).unwrap_or_default());
                None
            }
            Step::DataEnds => {
                self.event.has_line = true;
                self.data_ends()
            }
            Step::LineEnds => {
                self.event.has_line = true;
                None
            }
            Step::EventEnds => {
                if !self.event.is_read {
                    self.reader.end(true);
                }
                self.event = EventState::default();
                None
            }
            Step::CommentEnds | Step::LineFeed => None,
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.event.is_read) {
            // This server leaves out the empty lines between events.
            self.event = EventState { has_line: true, ..EventState::default() };
        }
        if !self.event.is_other {
            let expected = DONE.get(self.event.done..).unwrap_or_default();
            self.event.is_other = !expected.starts_with(bytes);
            self.event.done += bytes.len();
        }
        self.reader.feed(bytes);
    }

    /// Ends a line of data. If the document is whole it counts at once; otherwise it continues in
    /// the next line.
    fn data_ends(&mut self) -> Option<Event> {
        if !self.event.is_other && self.event.done == DONE.len() {
            self.event.is_read = true;
            self.reader.end(true);
            self.reader.finish();
            self.has_last_event = true;
            return Some(Event::Last);
        }
        if self.reader.is_whole() {
            return Some(self.end_document());
        }
        self.reader.feed(b"\n");
        self.event.is_other = true;
        None
    }

    fn end_document(&mut self) -> Event {
        self.event.is_read = true;
        let event = self.reader.end(true);
        self.has_last_event |= event == Event::Last;
        event
    }
}
