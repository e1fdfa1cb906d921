//! Streams of server-sent events: usage is read as they pass.

use bytes::Bytes;

use super::answer::AnswerUsage;
use crate::usage::MeterKind;

/// The most that a stream keeps back of an event that is not whole yet. A longer event passes on as it comes: it is
/// never hidden, and no report goes before it.
pub const MAX_KEPT_BYTES: usize = 1 << 20;

/// How a stream is passed on. Where nothing is set, each part passes on as it came. Otherwise an event passes on once
/// it is whole, since a client can make nothing of its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// OpenAI's usage chunk is not shown to the client, which did not ask for it.
    pub hides_usage_chunk: bool,
    /// A report goes right before the last event: [`Piece::Report`] tells where.
    pub reports: bool,
    /// Whole events only, so that an error event can be put after any part.
    pub whole_events: bool,
}

/// What goes to the client next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes. They share the memory of the part that they came in.
    Bytes(Bytes),
    /// The report of the call, if there is one: the last event begins after it. The meter has read that event
    /// already, so [`StreamMeter::so_far`] has all of the usage. Comes at most once, and never where the stream ends
    /// without its last event.
    Report,
}

/// Reads the usage of a stream of server-sent events that comes in parts, cut anywhere, and tells which bytes go on to
/// the client. The meter's own state is a few hundred bytes; [`MAX_KEPT_BYTES`] bounds what is kept back.
#[derive(Debug)]
pub struct StreamMeter;

impl StreamMeter {
    /// A meter at the start of a stream.
    pub fn new(_kind: &MeterKind, _options: StreamOptions) -> Self {
        todo!()
    }

    /// Reads the next part, and appends to `to_client` what goes on to the client now.
    pub fn feed(&mut self, _part: Bytes, _to_client: &mut Vec<Piece>) {
        todo!()
    }

    /// Reads the next part of a decoded copy. Nothing is passed on: the client gets the encoded bytes.
    pub fn watch(&mut self, _part: &[u8]) {
        todo!()
    }

    /// The stream has ended: what was kept back goes on to the client.
    pub fn end(&mut self, _to_client: &mut Vec<Piece>) {
        todo!()
    }

    /// What the stream has said so far.
    pub fn so_far(&self) -> AnswerUsage {
        todo!()
    }

    /// [`AnswerUsage::delivered_text_bytes`] so far, for a hold that grows.
    pub fn delivered_text_bytes(&self) -> u64 {
        todo!()
    }

    /// True once the last event has passed: the stream is complete.
    pub fn has_last_event(&self) -> bool {
        todo!()
    }
}
