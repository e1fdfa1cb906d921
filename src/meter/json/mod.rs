//! A scanner of JSON that does not need a whole document at once. A document may arrive in parts,
//! which may be cut anywhere, and its tokens go to a [`Sink`]. The scanner keeps the first bytes of
//! one token and one bit for each level, however long the document is.

mod number;
mod path;
mod scanner;
mod string;
mod text;
mod token;

pub(super) use path::Path;
pub(super) use scanner::{Place, Scanner};
pub(super) use text::{Text, unescape};
pub(super) use token::{Failure, Sink, Span, Token};

#[cfg(test)]
mod tests;
