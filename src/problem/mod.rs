//! Every error that a client can see: `application/problem+json` (RFC 9457), with an `error` member in the
//! [`Shape`] that the official SDKs read, so that both kinds of client show the same message.

mod code;
mod document;
mod language;
mod render;
pub(crate) mod texts;

pub use code::Code;
pub use document::{Offer, Problem};
pub use language::{Language, Text};
pub use render::{Rendered, Shape};
