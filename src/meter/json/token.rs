//! The tokens of a document, and the trait for their reader.

use super::text::Text;

/// The position of a token, in bytes from the start of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The position of the token's first byte.
    pub start: usize,
    /// The position after the token's last byte.
    pub end: usize,
}

/// A token. Commas and colons are checked but not passed on.
#[derive(Clone, Copy, Debug)]
pub enum Token<'a> {
    /// `{`
    Object,
    /// `[`
    List,
    /// `}` or `]`
    End,
    /// The name of a member.
    Name(Text<'a>),
    /// A string that is a value.
    Text(Text<'a>),
    /// A number in its spelling. `None` if the end of a part cut the number, and it is too long to
    /// be kept.
    Number(Option<&'a [u8]>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`
    Null,
}

/// A reader of tokens.
pub trait Sink {
    /// The reason why the reader stops.
    type Stop;

    /// Takes the next token.
    ///
    /// # Errors
    /// The reason why the reader stops. The scan then ends.
    fn token(&mut self, token: Token<'_>, span: Span) -> Result<(), Self::Stop>;
}

/// The reason why a scan ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<S> {
    /// The document breaks the grammar of JSON at this byte.
    Syntax(usize),
    /// Objects and lists are nested too deeply.
    TooDeep,
    /// The reader has stopped.
    Stopped(S),
}
