//! A request that was read.

use bytes::Bytes;

use super::edit::{Changes, Places};
use crate::usage::RequestFacts;

/// Whether the answer will have OpenAI's extra chunk with the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageChunk {
    /// The request's shape knows no such chunk: it does not stream, or its events have the usage anyway.
    NotNeeded,
    /// The client asked for it, and it is shown to the client.
    Asked,
    /// The client did not ask: [`Changes::include_usage`] does, and the chunk is then hidden from the client.
    NotAsked,
}

/// A request that the price can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The facts that the price is made of.
    pub facts: RequestFacts,
    /// Whether the usage chunk has to be asked for.
    pub usage_chunk: UsageChunk,
    pub(super) places: Places,
}

impl ReadRequest {
    /// The body with these changes; `body` is the one that was read. `None` where nothing changes.
    pub fn rewrite(&self, body: &[u8], changes: &Changes<'_>) -> Option<Bytes> {
        self.places.rewrite(body, changes)
    }

    /// True where [`Changes::output_limit`] has a place in this request.
    pub const fn can_limit_output(&self) -> bool {
        self.places.can_limit_output()
    }
}
