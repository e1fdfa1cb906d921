//! Passes the bytes of a stream on to the client, and keeps back those of an unfinished event.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The most bytes of an unfinished event that are kept back. A longer event is passed on as it
/// arrives. It is never hidden, and no report is inserted before it.
pub const MAX_KEPT_BYTES: usize = 1 << 20;

/// A part of the answer to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes. If they arrived in one part, they share its memory.
    Bytes(Bytes),
    /// The place of the report. The last event begins after it. The meter has already read that
    /// event, so `so_far` has the whole usage. There is at most one report, and none if the stream
    /// ends without its last event.
    Report,
}

/// Whether the client gets certain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The client gets the bytes.
    Passes,
    /// The bytes are dropped.
    Hidden,
}

/// Passes events on, or keeps them back until their role is known.
#[derive(Debug)]
pub(super) struct Passing {
    /// The beginning of the present event, from earlier parts.
    kept: BytesMut,
    /// Whether the event was too long to be kept, so that it is passed on.
    is_too_long: bool,
    /// The fate of the newest event that was decided.
    last_fate: Fate,
    /// The fate of the last line. A line feed that follows shares it.
    line_fate: Fate,
    /// Whether all lines of the event are decided. The empty line after them shares their fate.
    is_settled: bool,
    /// The position in the part from which on no byte was passed on or kept.
    from: usize,
    /// The bytes of the part that are passed on, and are not among the pieces yet. Events that
    /// follow each other in one part are passed on as one piece.
    run: Range<usize>,
}

impl Passing {
    /// Creates the state for the start of a stream.
    pub fn new() -> Self {
        Self {
            kept: BytesMut::new(),
            is_too_long: false,
            last_fate: Fate::Passes,
            line_fate: Fate::Passes,
            is_settled: false,
            from: 0,
            run: 0..0,
        }
    }

    /// Begins the next part of the stream.
    pub const fn part_begins(&mut self) {
        self.from = 0;
        self.run = 0..0;
    }

    /// Marks the place of the report, which follows the bytes that were passed on.
    pub fn report(&mut self, part: &Bytes, to_client: &mut Vec<Piece>) {
        self.run_ends(part, to_client);
        to_client.push(Piece::Report);
    }

    /// Whether no byte of the event has been passed on.
    pub const fn has_whole_event(&self) -> bool {
        !self.is_too_long
    }

    /// Takes a line that does not tell the role of its event.
    pub const fn line(&mut self) {
        self.is_settled = false;
    }

    /// Decides the fate of the event, up to the end of the line at `at`.
    pub fn decide(&mut self, fate: Fate, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        let fate = if std::mem::take(&mut self.is_too_long) { Fate::Passes } else { fate };
        self.flush(fate, part, at, to_client);
        (self.last_fate, self.is_settled) = (fate, true);
    }

    /// Passes on a comment between two events.
    pub fn comment(&mut self, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        self.flush(Fate::Passes, part, at, to_client);
    }

    /// Ends the event at `at`. If its fate was not decided, it is passed on.
    pub fn event_ends(&mut self, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        let fate = if self.is_settled { self.last_fate } else { Fate::Passes };
        self.decide(fate, part, at, to_client);
        self.is_settled = false;
    }

    /// Takes the line feed before `at`, which belongs to the end of the previous line.
    pub fn rest_of_line_end(&mut self, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        if self.kept.is_empty() {
            self.flush(self.line_fate, part, at, to_client);
        }
    }

    /// Ends the part. The rest of it is kept, or passed on if it is too long.
    pub fn part_ends(&mut self, part: Bytes, to_client: &mut Vec<Piece>) {
        let rest = part.get(self.from..).unwrap_or_default();
        self.is_too_long |= self.kept.len() + rest.len() > MAX_KEPT_BYTES;
        if self.is_too_long {
            self.flush(Fate::Passes, &part, part.len(), to_client);
        } else {
            self.kept.extend_from_slice(rest);
        }
        if !part.is_empty() && self.run == (0..part.len()) {
            to_client.push(Piece::Bytes(part));
        } else {
            self.run_ends(&part, to_client);
        }
    }

    /// The number of bytes that are kept back.
    pub fn kept_bytes(&self) -> usize {
        self.kept.len()
    }

    /// Passes on the kept bytes, and the rest of the event as it arrives, as for an event that is
    /// too long.
    pub fn keep_nothing(&mut self, to_client: &mut Vec<Piece>) {
        self.is_too_long = true;
        self.end(to_client);
    }

    /// Ends the stream, and passes on the kept bytes.
    pub fn end(&mut self, to_client: &mut Vec<Piece>) {
        if !self.kept.is_empty() {
            to_client.push(Piece::Bytes(self.kept.split().freeze()));
        }
    }

    fn flush(&mut self, fate: Fate, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        self.line_fate = fate;
        let from = std::mem::replace(&mut self.from, at);
        if fate == Fate::Hidden {
            self.kept.clear();
            return;
        }
        if !self.kept.is_empty() {
            to_client.push(Piece::Bytes(self.kept.split().freeze()));
        }
        if self.run.end != from {
            self.run_ends(part, to_client);
            self.run.start = from;
        }
        self.run.end = at;
    }

    /// Adds the bytes that are passed on to the pieces.
    fn run_ends(&mut self, part: &Bytes, to_client: &mut Vec<Piece>) {
        let run = std::mem::take(&mut self.run);
        if !run.is_empty() {
            to_client.push(Piece::Bytes(part.slice(run)));
        }
    }
}
