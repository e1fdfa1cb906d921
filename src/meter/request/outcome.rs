//! A request that was read.

use bytes::Bytes;

use super::edit::{Changes, Places};
use crate::usage::RequestFacts;

/// Whether the answer will have OpenAI's extra chunk with the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageChunk {
    /// This request has no such chunk: it does not stream, or the events of its stream have the
    /// usage anyway.
    NotNeeded,
    /// The client asked for the chunk, so it is passed on to the client.
    Asked,
    /// The client did not ask for the chunk. [`Changes::include_usage`] asks for it, and it is then
    /// hidden from the client.
    NotAsked,
}

/// A request that can be priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The facts from which the price is made.
    pub facts: RequestFacts,
    /// Whether the usage chunk must be asked for.
    pub usage_chunk: UsageChunk,
    pub(super) places: Places,
}

impl ReadRequest {
    /// Returns the body with these changes; `None` if nothing changes. `body` must be the one that
    /// was read.
    pub fn rewrite(&self, body: &[u8], changes: &Changes<'_>) -> Option<Bytes> {
        self.places.rewrite(body, changes)
    }

    /// Whether [`Changes::output_limit`] can be set in this request.
    pub const fn can_limit_output(&self) -> bool {
        self.places.can_limit_output()
    }
}
