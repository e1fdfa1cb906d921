//! Encoded answers, decoded for the meter only: the client gets the bytes as they are.

/// The most that one answer is decoded to.
pub const MAX_DECODED_BYTES: u64 = 64 << 20;

/// A content coding that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `gzip`, or `x-gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
}

/// The reason why a copy cannot be decoded: its usage is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not in this coding.
    #[error("the answer is not in the encoding that it declares")]
    Malformed,
    /// More than [`MAX_DECODED_BYTES`] came out.
    #[error("the answer is longer than 64 MiB once it is decoded")]
    TooLong,
    /// The coding asks for a window above 8 MiB.
    #[error("the answer needs a window above 8 MiB to be decoded")]
    Window,
}

impl Encoding {
    /// Reads the value of a `content-encoding` header. `None` for `identity`, an unknown coding, or several codings.
    pub fn parse(_header: &str) -> Option<Self> {
        todo!()
    }
}

/// Decodes a copy of an answer that comes in parts.
#[derive(Debug)]
pub struct Decoder;

impl Decoder {
    /// A decoder at the start of an answer.
    pub fn new(_encoding: Encoding) -> Self {
        todo!()
    }

    /// Decodes the next part, and gives what comes out to `out`, in parts of at most 32 KiB.
    ///
    /// # Errors
    /// [`DecodeError`]; the rest of the answer cannot be decoded then.
    pub fn feed(&mut self, _part: &[u8], _out: impl FnMut(&[u8])) -> Result<(), DecodeError> {
        todo!()
    }
}
