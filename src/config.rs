//! gateway.toml.

mod mistake;
mod secret;
mod span;

pub use mistake::Mistake;
pub use secret::Secret;
pub use span::Span;
