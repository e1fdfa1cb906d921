//! The meter of a stream.

use bytes::Bytes;

use super::lines::{Lines, Step};
use super::passing::{Fate, Passing, Piece};
use crate::meter::document::{AnswerUsage, Event};
use crate::meter::reader::Reader;
use crate::usage::MeterKind;

/// The value of OpenAI's last line.
const DONE: &[u8] = b"[DONE]";

/// How a stream is passed on. Where nothing is set, each part passes on as it came. Otherwise an event passes on once
/// it is whole, since a client can make nothing of its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// OpenAI's usage chunk is not shown to the client, which did not ask for it.
    pub hides_usage_chunk: bool,
    /// A report goes right before the last event: [`Piece::Report`] tells where.
    pub reports: bool,
    /// Whole events only, so that an error event can be put after any part, behind an empty line.
    pub whole_events: bool,
}

/// Reads the usage of a stream of server-sent events that comes in parts, cut anywhere, and tells which bytes go on to
/// the client. The meter's own state is less than two KiB; `MAX_KEPT_BYTES` bounds what is kept back.
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
    /// The bytes of the event's data that are those of [`DONE`].
    done: usize,
    /// The event's data has other bytes.
    is_other: bool,
    /// The event has a line that is no comment.
    has_line: bool,
    /// The event's data was read to the end of a document.
    is_read: bool,
}

impl StreamMeter {
    /// A meter at the start of a stream.
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

    /// Reads the next part, and appends to `to_client` what goes on to the client now.
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
                        to_client.push(Piece::Report);
                    }
                    let hides = event == Event::UsageChunk && self.options.hides_usage_chunk;
                    let fate = if hides { Fate::Hidden } else { Fate::Passes };
                    passing.decide(fate, &part, at, to_client);
                }
                _ => passing.line(),
            }
        }
        passing.part_ends(&part, to_client);
        self.passing = Some(passing);
    }

    /// Reads the next part of a decoded copy. Nothing is passed on: the client gets the encoded bytes.
    pub fn watch(&mut self, part: &[u8]) {
        let mut at = 0;
        while let Some(step) = self.lines.next(part, &mut at) {
            self.take(step, part, at);
        }
    }

    /// The stream has ended as it should: what was kept back goes on to the client.
    pub fn end(&mut self, to_client: &mut Vec<Piece>) {
        if self.reader.is_whole() {
            self.end_document();
        }
        self.reader.finish();
        if let Some(passing) = &mut self.passing {
            passing.end(to_client);
        }
    }

    /// How many bytes of an event that is not whole yet are kept back.
    pub fn kept_bytes(&self) -> usize {
        self.passing.as_ref().map_or(0, Passing::kept_bytes)
    }

    /// Passes on what is kept back, and the rest of its event as it comes.
    pub fn keep_nothing(&mut self, to_client: &mut Vec<Piece>) {
        if let Some(passing) = &mut self.passing {
            passing.keep_nothing(to_client);
        }
    }

    /// The usage that the stream has told so far.
    pub fn so_far(&self) -> AnswerUsage {
        self.reader.so_far()
    }

    /// [`AnswerUsage::delivered_text_bytes`] so far, for a hold that grows.
    pub fn delivered_text_bytes(&self) -> u64 {
        self.reader.text_bytes()
    }

    /// True once the last event has been read: the stream is complete.
    pub const fn has_last_event(&self) -> bool {
        self.has_last_event
    }

    /// Takes a step that ends at `at`. Returns what the event is, once that is known.
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
            // A server that leaves out the empty lines between events.
            self.event = EventState { has_line: true, ..EventState::default() };
        }
        if !self.event.is_other {
            let expected = DONE.get(self.event.done..).unwrap_or_default();
            self.event.is_other = !expected.starts_with(bytes);
            self.event.done += bytes.len();
        }
        self.reader.feed(bytes);
    }

    /// A line of data ends. A document that is whole counts at once; else it goes on in the next line.
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
