//! Streams of server-sent events: their lines, what is kept back of them, and the meter that reads them.

mod lines;
mod meter;
mod passing;

pub use meter::{StreamMeter, StreamOptions};
pub use passing::{MAX_KEPT_BYTES, Piece};

#[cfg(test)]
mod tests;
