//! The tokens of a document, and who takes them.

use super::text::Text;

/// Where a token stands, in bytes from the start of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The token's first byte.
    pub start: usize,
    /// The byte after its last one.
    pub end: usize,
}

/// A token. Commas and colons are checked, and not given.
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
    /// A number as it is spelled. `None` where it was cut by the end of a part and is too long to be kept.
    Number(Option<&'a [u8]>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`
    Null,
}

/// The reader of the tokens.
pub trait Sink {
    /// The reason why the reader wants no more.
    type Stop;

    /// Takes the next token.
    ///
    /// # Errors
    /// The reason why the scan ends here.
    fn token(&mut self, token: Token<'_>, span: Span) -> Result<(), Self::Stop>;
}

/// The reason why a scan ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<S> {
    /// The document breaks the grammar of JSON at this byte.
    Syntax(usize),
    /// Objects and lists are nested too deeply.
    TooDeep,
    /// The reader wants no more.
    Stopped(S),
}
