//! Reads messages of HTTP/1.1 by the strict grammar of RFC 9112. Anything that only a lenient
//! reader would accept is an error.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::random::Random;

/// The longest head or line that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// The head of a request or an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The request line or the status line.
    pub line: String,
    /// The fields in the order in which they came: each name in lower case with its value. A byte
    /// that is not ASCII becomes the character with the same number.
    pub fields: Vec<(String, String)>,
}

/// How a message tells the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The message has no body, whatever its fields say.
    None,
    Length(usize),
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

/// The reason why no more can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The other end closed the connection between two messages.
    Closed,
    /// The connection ended, or broke, within a message.
    Cut,
    /// No bytes came for as long as the reader waits.
    Silent,
    /// The bytes are not a message.
    Malformed(String),
}

impl Head {
    /// Reads a head, which ends with an empty line.
    ///
    /// # Errors
    /// A description of how the head breaks the grammar.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        let text = text.strip_suffix("\r\n\r\n").ok_or("the head has no end")?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let is_control = |text: &str| text.chars().any(|c| c.is_ascii_control() && c != '\t');
        if line.is_empty() || is_control(&line) {
            return Err(format!("the first line is {line:?}"));
        }
        let mut fields = Vec::new();
        for field in lines {
            let (name, value) = field
                .split_once(':')
                .filter(|(name, _)| is_token(name))
                .ok_or_else(|| format!("no field: {field:?}"))?;
            if is_control(value) {
                return Err(format!("a field with more in it: {field:?}"));
            }
            let value = value.trim_matches([' ', '\t']);
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        Ok(Self { line, fields })
    }

    /// The values of a field, in the order in which they came.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| &**value).collect()
    }

    /// The value of a field that occurs exactly once.
    pub fn one(&self, name: &str) -> Option<&str> {
        let [value] = self.all(name)[..] else { return None };
        Some(value)
    }

    /// The method and the target of a request line, if a gateway may send such a line.
    ///
    /// # Errors
    /// The line is not a request line of HTTP/1.1.
    pub fn request(&self) -> Result<(&str, &str), String> {
        let parts: Vec<&str> = self.line.split(' ').collect();
        let [method, target, "HTTP/1.1"] = parts[..] else {
            return Err(format!("no request line: {:?}", self.line));
        };
        let is_path = target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic());
        if !is_token(method) || !is_path {
            return Err(format!("no request line: {:?}", self.line));
        }
        Ok((method, target))
    }

    /// The version and the status of an answer.
    ///
    /// # Errors
    /// The line is not a status line.
    pub fn status(&self) -> Result<(&str, u16), String> {
        let wrong = || format!("no status line: {:?}", self.line);
        let (version, rest) = self.line.split_once(' ').ok_or_else(wrong)?;
        // The space after the code is required, even if no reason follows.
        let (code, _) = rest.split_once(' ').ok_or_else(wrong)?;
        let is_code = code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit());
        if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !is_code {
            return Err(wrong());
        }
        Ok((version, code.parse().map_err(|_| wrong())?))
    }

    fn told(&self) -> Result<Option<Framing>, String> {
        match (&self.all("content-length")[..], &self.all("transfer-encoding")[..]) {
            ([], []) => Ok(None),
            ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| format!("a length of {length}"))?;
                Ok(Some(Framing::Length(length)))
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            (lengths, codings) => Err(format!("not one framing: {lengths:?}, {codings:?}")),
        }
    }

    /// How the body of a request is framed (RFC 9112, 6.3).
    ///
    /// # Errors
    /// The framing is ambiguous.
    pub fn request_framing(&self) -> Result<Framing, String> {
        Ok(self.told()?.unwrap_or(Framing::None))
    }

    /// How the body of a final answer to `method` is framed.
    ///
    /// # Errors
    /// The framing is ambiguous.
    pub fn answer_framing(&self, method: &str) -> Result<Framing, String> {
        let (version, status) = self.status()?;
        let told = self.told()?;
        if told == Some(Framing::Chunked) && version == "HTTP/1.0" {
            return Err("HTTP/1.0 has no chunks".into());
        }
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            return Ok(Framing::None);
        }
        Ok(told.unwrap_or(Framing::UntilClose))
    }
}

/// Whether a text is a token (RFC 9110, 5.6.2).
pub fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Reads the messages of a stream, one after another.
pub struct Reader<R> {
    stream: R,
    unread: Vec<u8>,
    /// The longest time that it waits for more bytes.
    patience: Duration,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(stream: R, patience: Duration) -> Self {
        Self { stream, unread: Vec::new(), patience }
    }

    /// The bytes that have come and are not part of a message that was read.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// The stream that is read.
    pub fn stream(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Waits for more bytes, and returns how many came.
    ///
    /// # Errors
    /// No bytes came.
    pub async fn more(&mut self) -> Result<usize, Stop> {
        let mut buffer = [0; 16 * 1024];
        match tokio::time::timeout(self.patience, self.stream.read(&mut buffer)).await {
            Err(_) => Err(Stop::Silent),
            Ok(Err(_)) => Err(Stop::Cut),
            Ok(Ok(0)) if self.unread.is_empty() => Err(Stop::Closed),
            Ok(Ok(0)) => Err(Stop::Cut),
            Ok(Ok(read)) => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(read)
            }
        }
    }

    async fn up_to(&mut self, mark: &[u8]) -> Result<Vec<u8>, Stop> {
        let mut from = 0;
        loop {
            let found = self.unread[from..].windows(mark.len()).position(|window| window == mark);
            if let Some(at) = found {
                let rest = self.unread.split_off(from + at + mark.len());
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            if self.unread.len() > LONGEST {
                return Err(Stop::Malformed(format!("a line of {} bytes", self.unread.len())));
            }
            from = self.unread.len().saturating_sub(mark.len() - 1);
            self.more().await?;
        }
    }

    /// Reads the next head.
    ///
    /// # Errors
    /// There is no further head.
    pub async fn head(&mut self) -> Result<Head, Stop> {
        let bytes = self.up_to(b"\r\n\r\n").await?;
        Head::parse(&bytes).map_err(Stop::Malformed)
    }

    /// Reads a body and appends it to `body`. If the body is cut off, the part that came is
    /// appended.
    ///
    /// # Errors
    /// The body has no end.
    pub async fn body(&mut self, framing: Framing, body: &mut Vec<u8>) -> Result<(), Stop> {
        match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.take(length, body).await,
            Framing::Chunked => self.chunks(body).await,
            Framing::UntilClose => loop {
                body.append(&mut self.unread);
                match self.more().await {
                    Ok(_) => {}
                    Err(Stop::Closed) => return Ok(()),
                    Err(stop) => return Err(stop),
                }
            },
        }
    }

    /// Reads this number of bytes and appends them to `into`.
    async fn take(&mut self, mut bytes: usize, into: &mut Vec<u8>) -> Result<(), Stop> {
        loop {
            let here = bytes.min(self.unread.len());
            into.extend(self.unread.drain(..here));
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.more().await.map_err(within)?;
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), Stop> {
        loop {
            let line = self.up_to(b"\r\n").await.map_err(within)?;
            let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
            let is_size = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
            let size = usize::from_str_radix(&line, 16).ok().filter(|_| is_size);
            let size = size.ok_or_else(|| Stop::Malformed(format!("no chunk: {line:?}")))?;
            self.take(size, body).await?;
            let mut end = Vec::new();
            self.take(2, &mut end).await?;
            if end != b"\r\n" {
                return Err(Stop::Malformed(format!("a chunk of {size} is followed by {end:?}")));
            }
            if size == 0 {
                return Ok(());
            }
        }
    }
}

/// The reason to report if reading stops within a message. A closed connection then means that the
/// message is cut off.
fn within(stop: Stop) -> Stop {
    if stop == Stop::Closed { Stop::Cut } else { stop }
}

/// A body that differs from the bodies of all other calls.
pub fn content(nonce: &str, length: usize) -> Vec<u8> {
    format!("<{nonce}>").into_bytes().into_iter().cycle().take(length).collect()
}

/// Writes all bytes at once, or in pieces with pauses. False if the other end is gone.
pub async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    wild: &mut Option<Random>,
) -> bool {
    let Some(random) = wild else { return to.write_all(bytes).await.is_ok() };
    let most = random.one_of(&[3, 50, 2000, 40_000, 1_000_000]);
    let mut pieces = 0;
    while !bytes.is_empty() {
        pieces += 1;
        let most = if pieces > 20 { usize::MAX } else { most };
        let piece = if most == usize::MAX { bytes.len() } else { 1 + random.below(most) };
        let (part, rest) = bytes.split_at(piece.min(bytes.len()));
        if to.write_all(part).await.is_err() || to.flush().await.is_err() {
            return false;
        }
        bytes = rest;
        match random.below(8) {
            0 => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => tokio::task::yield_now().await,
        }
    }
    true
}
