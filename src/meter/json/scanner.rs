//! Splits a JSON document, which may arrive in parts, into tokens.

use super::number::Digits;
use super::string::{StringState, plain_run};
use super::text::{SHORT_BYTES, Text};
use super::token::{Failure, Sink, Span, Token};

/// Scans one document.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// One bit for each open level: 1 for an object. The innermost level is the lowest bit.
    levels: u128,
    depth: u32,
    max_depth: u32,
    /// The number of bytes in the parts before this one.
    before: usize,
    /// The position of the first byte of the token that is being read.
    start: usize,
    /// The beginning of a token that the end of a part has cut.
    kept: Vec<u8>,
    kept_all: bool,
    string: StringState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    FirstElement,
    FirstName,
    Name,
    Colon,
    AfterValue,
    Done,
    InString { is_name: bool },
    InNumber(Digits),
    InWord { word: Word, read: u8 },
}

/// A value that is spelled as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    True,
    False,
    Null,
}

/// The state of a scanner between two tokens.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    state: State,
    levels: u128,
    depth: u32,
    position: usize,
}

type Scan<T, S> = Result<T, Failure<S>>;

impl Scanner {
    /// Creates a scanner for a document with at most `max_depth` levels. `max_depth` is at most
    /// 128.
    pub fn new(max_depth: u32) -> Self {
        Self {
            state: State::Value,
            levels: 0,
            depth: 0,
            max_depth: max_depth.min(u128::BITS),
            before: 0,
            start: 0,
            kept: Vec::new(),
            kept_all: true,
            string: StringState::NEW,
        }
    }

    /// Begins a new document.
    pub fn restart(&mut self) {
        self.kept.clear();
        *self = Self { kept: std::mem::take(&mut self.kept), ..Self::new(self.max_depth) };
    }

    /// Whether no byte of the document has been read.
    pub const fn is_at_start(&self) -> bool {
        self.before == 0
    }

    /// The state after the last part, which must have ended between two tokens.
    pub const fn place(&self) -> Place {
        let Self { state, levels, depth, before: position, .. } = *self;
        Place { state, levels, depth, position }
    }

    /// Goes on, at the start of a document, as if it began with the bytes that led to `place`.
    pub const fn go_to(&mut self, place: Place) {
        let Place { state, levels, depth, position } = place;
        (self.state, self.levels, self.depth, self.before) = (state, levels, depth, position);
    }

    /// True once the document is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Scans the next part.
    ///
    /// # Errors
    /// [`Failure`]. After it, the scanner must be restarted.
    pub fn feed<K: Sink>(&mut self, part: &[u8], sink: &mut K) -> Scan<(), K::Stop> {
        let mut at = 0;
        while let Some(&byte) = part.get(at) {
            at = match self.state {
                State::InString { is_name } => self.string(part, at, is_name, sink)?,
                State::InNumber(digits) => self.number(part, at, digits, sink)?,
                State::InWord { word, read } => self.word(part, at, word, read, sink)?,
                _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => at + 1,
                _ if byte == b'"' => self.begin_string(part, at, sink)?,
                _ => {
                    self.structure(byte, self.before + at, sink)?;
                    at + 1
                }
            };
        }
        if matches!(self.state, State::InNumber(_)) {
            let begin = self.start.saturating_sub(self.before);
            self.keep(part.get(begin..).unwrap_or_default());
        }
        self.before += part.len();
        Ok(())
    }

    /// Takes a byte that stands between two tokens, or begins a token other than a string.
    fn structure<K: Sink>(&mut self, byte: u8, at: usize, sink: &mut K) -> Scan<(), K::Stop> {
        self.start = at;
        match (self.state, byte) {
            (State::Colon, b':') => self.state = State::Value,
            (State::AfterValue, b',') if self.is_in_object() => self.state = State::Name,
            (State::AfterValue, b',') => self.state = State::Value,
            (State::Value | State::FirstElement, b'{') => self.open(true, sink)?,
            (State::Value | State::FirstElement, b'[') => self.open(false, sink)?,
            (State::FirstName, b'}') | (State::FirstElement, b']') => self.close(sink)?,
            (State::AfterValue, b'}') if self.is_in_object() => self.close(sink)?,
            (State::AfterValue, b']') if !self.is_in_object() => self.close(sink)?,
            (State::Value | State::FirstElement, _) => self.begin_scalar(byte)?,
            _ => return Err(Failure::Syntax(at)),
        }
        Ok(())
    }

    const fn is_in_object(&self) -> bool {
        self.levels & 1 == 1
    }

    /// Begins a string, whose opening quote is at index `quote` of the part. Most strings have no
    /// escapes and end in the same part, so they need no state of their own.
    fn begin_string<K: Sink>(
        &mut self,
        part: &[u8],
        quote: usize,
        sink: &mut K,
    ) -> Scan<usize, K::Stop> {
        let is_name = match self.state {
            State::FirstName | State::Name => true,
            State::Value | State::FirstElement => false,
            _ => return Err(Failure::Syntax(self.before + quote)),
        };
        self.start = self.before + quote;
        let rest = part.get(quote + 1..).unwrap_or_default();
        let run = plain_run(rest);
        let end = quote + 1 + run;
        if rest.get(run) == Some(&b'"') {
            self.string_ended(is_name);
            let text = Text::plain(rest.get(..run).unwrap_or_default());
            self.give_string(text, is_name, end, sink)?;
            if is_name && rest.get(run + 1) == Some(&b':') {
                self.state = State::Value;
                return Ok(end + 2);
            }
            return Ok(end + 1);
        }
        self.string = StringState::NEW;
        self.string.plain(run);
        self.kept_all = true;
        self.state = State::InString { is_name };
        self.string(part, end, is_name, sink)
    }

    const fn string_ended(&mut self, is_name: bool) {
        if is_name {
            self.state = State::Colon;
        } else {
            self.value_ended();
        }
    }

    /// Passes a string to the sink. Its closing quote is at index `end` of the part.
    fn give_string<K: Sink>(
        &self,
        text: Text<'_>,
        is_name: bool,
        end: usize,
        sink: &mut K,
    ) -> Scan<(), K::Stop> {
        let token = if is_name { Token::Name(text) } else { Token::Text(text) };
        self.give(token, self.before + end + 1, sink)
    }

    fn begin_scalar<S>(&mut self, byte: u8) -> Scan<(), S> {
        self.state = match byte {
            b't' => State::InWord { word: Word::True, read: 1 },
            b'f' => State::InWord { word: Word::False, read: 1 },
            b'n' => State::InWord { word: Word::Null, read: 1 },
            _ => {
                let digits = Digits::begin(byte).ok_or(Failure::Syntax(self.start))?;
                self.kept_all = true;
                State::InNumber(digits)
            }
        };
        Ok(())
    }

    fn open<K: Sink>(&mut self, is_object: bool, sink: &mut K) -> Scan<(), K::Stop> {
        if self.depth == self.max_depth {
            return Err(Failure::TooDeep);
        }
        self.depth += 1;
        self.levels = self.levels << 1 | u128::from(is_object);
        self.state = if is_object { State::FirstName } else { State::FirstElement };
        self.give(if is_object { Token::Object } else { Token::List }, self.start + 1, sink)
    }

    fn close<K: Sink>(&mut self, sink: &mut K) -> Scan<(), K::Stop> {
        self.depth -= 1;
        self.levels >>= 1;
        self.value_ended();
        self.give(Token::End, self.start + 1, sink)
    }

    const fn value_ended(&mut self) {
        self.state = if self.depth == 0 { State::Done } else { State::AfterValue };
    }

    fn give<K: Sink>(&self, token: Token<'_>, end: usize, sink: &mut K) -> Scan<(), K::Stop> {
        sink.token(token, Span { start: self.start, end }).map_err(Failure::Stopped)
    }

    /// Reads on in a word, of which `read` bytes were read.
    fn word<K: Sink>(
        &mut self,
        part: &[u8],
        from: usize,
        word: Word,
        read: u8,
        sink: &mut K,
    ) -> Scan<usize, K::Stop> {
        let missing = word.spelling().get(usize::from(read)..).unwrap_or_default();
        let here = part.get(from..).unwrap_or_default();
        if !here.starts_with(missing) {
            let same = here.iter().zip(missing).take_while(|(byte, other)| byte == other).count();
            if same < here.len() {
                return Err(Failure::Syntax(self.before + from + same));
            }
            // The part ends within the word.
            self.state = State::InWord { word, read: read + same as u8 };
            return Ok(from + same);
        }
        let end = from + missing.len();
        self.value_ended();
        self.give(word.token(), self.before + end, sink)?;
        Ok(end)
    }

    fn number<K: Sink>(
        &mut self,
        part: &[u8],
        from: usize,
        mut digits: Digits,
        sink: &mut K,
    ) -> Scan<usize, K::Stop> {
        let mut at = from;
        while let Some(&byte) = part.get(at) {
            let Some(next) = digits.next(byte) else {
                if !digits.may_end() {
                    return Err(Failure::Syntax(self.before + at));
                }
                self.value_ended();
                let begin = self.start.saturating_sub(self.before);
                self.with_spelling(part, begin, at, |scanner, raw, is_whole| {
                    let number = Token::Number(is_whole.then_some(raw));
                    scanner.give(number, scanner.before + at, sink)
                })?;
                return Ok(at);
            };
            digits = next;
            at += 1;
        }
        self.state = State::InNumber(digits);
        Ok(at)
    }

    fn string<K: Sink>(
        &mut self,
        part: &[u8],
        mut at: usize,
        is_name: bool,
        sink: &mut K,
    ) -> Scan<usize, K::Stop> {
        let begin = (self.start + 1).saturating_sub(self.before);
        while let Some(&byte) = part.get(at) {
            if self.string.is_in_escape() {
                self.string.escape(byte).ok_or(Failure::Syntax(self.before + at))?;
                at += 1;
                continue;
            }
            let run = plain_run(part.get(at..).unwrap_or_default());
            self.string.plain(run);
            at += run;
            match part.get(at) {
                Some(b'"') => {
                    self.string.end();
                    self.string_ended(is_name);
                    let string = self.string;
                    self.with_spelling(part, begin, at, |scanner, raw, is_whole| {
                        scanner.give_string(string.as_text(raw, is_whole), is_name, at, sink)
                    })?;
                    return Ok(at + 1);
                }
                Some(b'\\') => {
                    self.string.begin_escape();
                    at += 1;
                }
                Some(_) => return Err(Failure::Syntax(self.before + at)),
                None => {}
            }
        }
        self.keep(part.get(begin..).unwrap_or_default());
        Ok(at)
    }

    /// Keeps the bytes of a token that continues in the next part, as far as they may be needed.
    fn keep(&mut self, bytes: &[u8]) {
        // One byte more than the limit is kept, so that a token that is too long can be recognized.
        let room = SHORT_BYTES - self.kept.len().min(SHORT_BYTES);
        self.kept_all &= bytes.len() <= room;
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Calls `then` with the spelling of the token that ends at `end`, even if it began in an
    /// earlier part.
    fn with_spelling<T>(
        &mut self,
        part: &[u8],
        begin: usize,
        end: usize,
        then: impl FnOnce(&Self, &[u8], bool) -> T,
    ) -> T {
        let here = part.get(begin..end).unwrap_or_default();
        if self.start >= self.before {
            return then(self, here, true);
        }
        self.keep(here);
        let mut kept = std::mem::take(&mut self.kept);
        let result = then(self, &kept, self.kept_all);
        kept.clear();
        self.kept = kept;
        result
    }
}

impl Word {
    const fn spelling(self) -> &'static [u8] {
        match self {
            Self::True => b"true",
            Self::False => b"false",
            Self::Null => b"null",
        }
    }

    const fn token(self) -> Token<'static> {
        match self {
            Self::True => Token::Bool(true),
            Self::False => Token::Bool(false),
            Self::Null => Token::Null,
        }
    }
}
