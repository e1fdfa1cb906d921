//! Encoded answers, decoded for the meter only: the client gets the bytes as they are.

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation, OutBuffer};

/// The most that one answer is decoded to.
pub const MAX_DECODED_BYTES: u64 = 64 << 20;

/// The largest window is 8 MiB: 2^23 bytes.
const MAX_WINDOW_LOG: u32 = 23;

/// The bytes that come out at a time.
const OUT_BYTES: usize = 32 << 10;

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
    pub fn parse(header: &str) -> Option<Self> {
        let name = header.trim();
        let is = |coding: &str| name.eq_ignore_ascii_case(coding);
        match () {
            () if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            () if is("br") => Some(Self::Brotli),
            () if is("zstd") => Some(Self::Zstd),
            () => None,
        }
    }
}

/// Decodes a copy of an answer that comes in parts. The memory is at most the window and some tens of KiB.
#[derive(Debug)]
pub struct Decoder {
    coding: Coding,
    out: Box<[u8]>,
    decoded: u64,
    failed: Option<DecodeError>,
}

enum Coding {
    Gzip(Decompress),
    Brotli {
        state: Box<Brotli>,
        is_first: bool,
    },
    Zstd(Box<Zstd<'static>>),
    /// Nothing follows.
    Done,
    Broken,
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// How far one step came.
struct Progress {
    read: usize,
    written: usize,
    is_done: bool,
}

impl Decoder {
    /// A decoder at the start of an answer.
    pub fn new(encoding: Encoding) -> Self {
        let coding = match encoding {
            // 16 + 15: a gzip header, and the largest window that gzip knows, 32 KiB.
            Encoding::Gzip => Coding::Gzip(Decompress::new_gzip(15)),
            Encoding::Brotli => {
                let alloc = StandardAlloc::default;
                let state = Box::new(BrotliState::new(alloc(), alloc(), alloc()));
                Coding::Brotli { state, is_first: true }
            }
            Encoding::Zstd => zstd().map_or(Coding::Broken, Coding::Zstd),
        };
        Self { coding, out: vec![0; OUT_BYTES].into(), decoded: 0, failed: None }
    }

    /// Decodes the next part, and gives what comes out to `out`, in parts of at most 32 KiB.
    ///
    /// # Errors
    /// [`DecodeError`]; the rest of the answer cannot be decoded then, and each later part gives the same error.
    pub fn feed(&mut self, part: &[u8], mut out: impl FnMut(&[u8])) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut rest = part;
        loop {
            let step = self.coding.step(rest, &mut self.out).inspect_err(|error| {
                self.failed = Some(*error);
            })?;
            rest = rest.get(step.read..).unwrap_or_default();
            let written = self.out.get(..step.written).unwrap_or_default();
            self.decoded += written.len() as u64;
            if self.decoded > MAX_DECODED_BYTES {
                self.failed = Some(DecodeError::TooLong);
                return Err(DecodeError::TooLong);
            }
            if !written.is_empty() {
                out(written);
            }
            if step.is_done {
                self.coding = Coding::Done;
            }
            let is_full = written.len() == self.out.len();
            if step.is_done
                || (rest.is_empty() && !is_full)
                || (step.read == 0 && step.written == 0)
            {
                return Ok(());
            }
        }
    }
}

impl Coding {
    fn step(&mut self, part: &[u8], out: &mut [u8]) -> Result<Progress, DecodeError> {
        match self {
            Self::Gzip(gzip) => {
                let before = (gzip.total_in(), gzip.total_out());
                let status = gzip
                    .decompress(part, out, FlushDecompress::None)
                    .map_err(|_| DecodeError::Malformed)?;
                Ok(Progress {
                    read: moved(before.0, gzip.total_in()),
                    written: moved(before.1, gzip.total_out()),
                    is_done: status == Status::StreamEnd,
                })
            }
            Self::Brotli { state, is_first } => {
                if let (true, Some(first)) = (*is_first, part.first()) {
                    *is_first = false;
                    if asks_for_large_window(*first) {
                        return Err(DecodeError::Window);
                    }
                }
                let (mut left, mut read) = (part.len(), 0);
                let (mut room, mut written, mut total) = (out.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut read,
                    part,
                    &mut room,
                    &mut written,
                    out,
                    &mut total,
                    state,
                );
                match result {
                    BrotliResult::ResultFailure => Err(DecodeError::Malformed),
                    result => {
                        let is_done = matches!(result, BrotliResult::ResultSuccess);
                        Ok(Progress { read, written, is_done })
                    }
                }
            }
            Self::Zstd(zstd) => {
                let mut input = InBuffer::around(part);
                let mut output = OutBuffer::around(out);
                // Frames may follow each other: the end of one is not the end of the answer.
                zstd.run(&mut input, &mut output).map_err(|error| {
                    let is_window = error.to_string().contains("too much memory");
                    if is_window { DecodeError::Window } else { DecodeError::Malformed }
                })?;
                Ok(Progress { read: input.pos(), written: output.pos(), is_done: false })
            }
            Self::Done => Ok(Progress { read: part.len(), written: 0, is_done: true }),
            Self::Broken => Err(DecodeError::Malformed),
        }
    }
}

fn zstd() -> Option<Box<Zstd<'static>>> {
    let mut zstd = Zstd::new().ok()?;
    zstd.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).ok()?;
    Some(Box::new(zstd))
}

/// True where the first byte of a brotli stream (RFC 7932, 9.1) asks for a window of 2^24 bytes, or is of the form with
/// even larger ones.
const fn asks_for_large_window(first: u8) -> bool {
    first & 0x0f == 0x0f || first & 0x7f == 0x11
}

fn moved(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

impl fmt::Debug for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Brotli { .. } => "Brotli",
            Self::Zstd(_) => "Zstd",
            Self::Done => "Done",
            Self::Broken => "Broken",
        })
    }
}
