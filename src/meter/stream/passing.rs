//! The bytes that go on to the client, and those of an event that is not whole, which are kept back.

use bytes::{Bytes, BytesMut};

/// The most that a stream keeps back of an event that is not whole yet. A longer event passes on as it comes: it is
/// never hidden, and no report goes before it.
pub const MAX_KEPT_BYTES: usize = 1 << 20;

/// A step of the answer to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes. They share the memory of the part that they came in, where they came in one.
    Bytes(Bytes),
    /// The report of the call, if there is one: the last event begins after it. The meter has read that event
    /// already, so its `so_far` has all of the usage. Comes at most once, and never where the stream ends without its
    /// last event.
    Report,
}

/// Whether bytes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The client gets them.
    Passes,
    /// The client does not see them.
    Hidden,
}

/// Passes events on, or keeps them back until it is known what they are.
#[derive(Debug)]
pub(super) struct Passing {
    /// The beginning of an event, of the parts before.
    kept: BytesMut,
    /// The event was too long to be kept: it passes on.
    is_too_long: bool,
    /// The fate of the last event that was decided.
    last_fate: Fate,
    /// The fate of the last line: a line feed may still belong to it.
    line_fate: Fate,
    /// All lines of the event are decided: its empty line shares their fate.
    is_settled: bool,
    /// The byte of the part from which on nothing was passed on or kept.
    from: usize,
}

impl Passing {
    /// The start of a stream.
    pub fn new() -> Self {
        Self {
            kept: BytesMut::new(),
            is_too_long: false,
            last_fate: Fate::Passes,
            line_fate: Fate::Passes,
            is_settled: false,
            from: 0,
        }
    }

    /// A part begins.
    pub const fn part_begins(&mut self) {
        self.from = 0;
    }

    /// True where all of the event is still here.
    pub const fn has_whole_event(&self) -> bool {
        !self.is_too_long
    }

    /// A line of the event was read that does not tell what the event is.
    pub const fn line(&mut self) {
        self.is_settled = false;
    }

    /// The event is known, up to the end of its line at `at`.
    pub fn decide(&mut self, fate: Fate, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        let fate = if std::mem::take(&mut self.is_too_long) { Fate::Passes } else { fate };
        self.flush(fate, part, at, to_client);
        (self.last_fate, self.is_settled) = (fate, true);
    }

    /// A comment between events passes on.
    pub fn comment(&mut self, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        self.flush(Fate::Passes, part, at, to_client);
    }

    /// The event ends at `at`. One that was not decided passes on.
    pub fn event_ends(&mut self, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        let fate = if self.is_settled { self.last_fate } else { Fate::Passes };
        self.decide(fate, part, at, to_client);
        self.is_settled = false;
    }

    /// The bytes before `at` belong to the end of the line before.
    pub fn rest_of_line_end(&mut self, part: &Bytes, at: usize, to_client: &mut Vec<Piece>) {
        if self.kept.is_empty() {
            self.flush(self.line_fate, part, at, to_client);
        }
    }

    /// The part ends: the rest of it is kept, or passes on where it is too long.
    pub fn part_ends(&mut self, part: &Bytes, to_client: &mut Vec<Piece>) {
        let rest = part.get(self.from..).unwrap_or_default();
        self.is_too_long |= self.kept.len() + rest.len() > MAX_KEPT_BYTES;
        if self.is_too_long {
            self.flush(Fate::Passes, part, part.len(), to_client);
        } else {
            self.kept.extend_from_slice(rest);
        }
    }

    /// How many bytes are kept.
    pub fn kept_bytes(&self) -> usize {
        self.kept.len()
    }

    /// The event passes on as one that is too long to be kept.
    pub fn keep_nothing(&mut self, to_client: &mut Vec<Piece>) {
        self.is_too_long = true;
        self.end(to_client);
    }

    /// The stream ends.
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
        if from >= at {
            return;
        }
        match to_client.last_mut() {
            // Events that follow each other in one part go on as one piece.
            Some(Piece::Bytes(last)) if follows(last, part, from) => {
                let start = from - last.len();
                *last = part.slice(start..at);
            }
            _ => to_client.push(Piece::Bytes(part.slice(from..at))),
        }
    }
}

/// True where `last` is the bytes of `part` right before `from`: the same memory, not only the same bytes.
fn follows(last: &Bytes, part: &Bytes, from: usize) -> bool {
    let Some(start) = from.checked_sub(last.len()) else { return false };
    part.get(start..from).is_some_and(|before| std::ptr::eq(before.as_ptr(), last.as_ptr()))
}
