//! The reasons why a metered body is refused with 400.

use crate::problem::Text;

/// The reason why a body is refused with 400. The positions are bytes from the start of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyMistake {
    /// The body is no JSON object.
    NoObject,
    /// The body breaks the rules of JSON at this byte.
    NoJson {
        /// The position.
        at: usize,
    },
}

impl BodyMistake {
    /// The text for the client.
    pub fn text(&self) -> Text {
        todo!()
    }
}
