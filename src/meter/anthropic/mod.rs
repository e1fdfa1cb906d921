//! Anthropic's messages, whole and streamed.

mod meter;
mod shape;

pub use meter::Anthropic;

#[cfg(test)]
mod tests;
