//! Streams of server-sent events: their lines, the bytes that are kept back, and the meter that
//! reads them.

mod lines;
mod meter;
mod passing;

pub use meter::{StreamMeter, StreamOptions};
pub use passing::{MAX_KEPT_BYTES, Piece};

#[cfg(test)]
mod tests;
