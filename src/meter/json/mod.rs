//! A scanner of JSON that needs no whole document: it is fed parts that are cut anywhere, and gives its tokens to a
//! [`Sink`]. The scanner keeps one token's first bytes and one bit for each level, whatever the document's length.

mod number;
mod path;
mod scanner;
mod string;
mod text;
mod token;

pub(super) use path::Path;
pub(super) use scanner::Scanner;
pub(super) use text::{SHORT_BYTES, Text, unescape};
pub(super) use token::{Failure, Sink, Span, Token};

#[cfg(test)]
mod tests;
