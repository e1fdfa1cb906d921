//! Decodes a copy of an encoded answer for the meter. The client gets the encoded bytes.

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation, OutBuffer};

/// The most bytes to which one answer is decoded.
pub const MAX_DECODED_BYTES: u64 = 64 << 20;

/// The largest window for zstd, as a power of two: 2^23 bytes (8 MiB).
const MAX_WINDOW_LOG: u32 = 23;

/// The most bytes that are decoded at a time.
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

/// The reason why a copy cannot be decoded. The usage of the answer is then unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not in this coding.
    #[error("the answer is not in the encoding that it declares")]
    Malformed,
    /// The decoded bytes are more than [`MAX_DECODED_BYTES`].
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

/// Decodes a copy of an answer that arrives in parts. The memory used is at most the window and
/// some tens of KiB.
#[derive(Debug)]
pub struct Decoder {
    coding: Coding,
    out: Box<[u8]>,
    decoded: u64,
    failed: Option<DecodeError>,
}

enum Coding {
    /// The answer is one gzip member after another (RFC 1952, 2.2).
    Gzip {
        member: Decompress,
        has_ended: bool,
    },
    Brotli {
        state: Box<Brotli>,
        is_first: bool,
    },
    /// The answer is one zstd frame after another (RFC 8878, 3).
    Zstd {
        frame: Box<Zstd<'static>>,
        has_ended: bool,
    },
    /// The encoded answer has ended.
    Done,
    Broken,
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// The progress of one step.
struct Progress {
    read: usize,
    written: usize,
    is_done: bool,
}

impl Decoder {
    /// Creates a decoder for the start of an answer.
    pub fn new(encoding: Encoding) -> Self {
        let coding = match encoding {
            Encoding::Gzip => Coding::Gzip { member: gzip_member(), has_ended: false },
            Encoding::Brotli => {
                let alloc = StandardAlloc::default;
                let state = Box::new(BrotliState::new(alloc(), alloc(), alloc()));
                Coding::Brotli { state, is_first: true }
            }
            Encoding::Zstd => {
                zstd().map_or(Coding::Broken, |frame| Coding::Zstd { frame, has_ended: false })
            }
        };
        Self { coding, out: vec![0; OUT_BYTES].into(), decoded: 0, failed: None }
    }

    /// Whether the answer may end here: all bytes so far were decoded, and no member or frame is
    /// unfinished.
    pub const fn is_at_end(&self) -> bool {
        match &self.coding {
            Coding::Gzip { has_ended, .. } | Coding::Zstd { has_ended, .. } => *has_ended,
            Coding::Done => self.failed.is_none(),
            Coding::Brotli { .. } | Coding::Broken => false,
        }
    }

    /// Decodes the next part, and passes the decoded bytes to `out`, in parts of at most 32 KiB.
    ///
    /// # Errors
    /// [`DecodeError`]. The rest of the answer can then not be decoded, and each later part returns
    /// the same error.
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
            if (rest.is_empty() && (step.is_done || !is_full))
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
            Self::Gzip { member, has_ended } => {
                if *has_ended {
                    // Some writers pad the end of the last block with zeros.
                    let zeros = part.iter().take_while(|byte| **byte == 0).count();
                    if zeros > 0 || part.is_empty() {
                        return Ok(Progress { read: zeros, written: 0, is_done: false });
                    }
                    (*member, *has_ended) = (gzip_member(), false);
                }
                let before = (member.total_in(), member.total_out());
                let status = member
                    .decompress(part, out, FlushDecompress::None)
                    .map_err(|_| DecodeError::Malformed)?;
                *has_ended = status == Status::StreamEnd;
                Ok(Progress {
                    read: moved(before.0, member.total_in()),
                    written: moved(before.1, member.total_out()),
                    is_done: false,
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
            Self::Zstd { frame, has_ended } => {
                let mut input = InBuffer::around(part);
                let mut output = OutBuffer::around(out);
                let is_idle = *has_ended && part.is_empty();
                let missing = frame.run(&mut input, &mut output).map_err(|error| {
                    let is_window = error.to_string().contains("too much memory");
                    if is_window { DecodeError::Window } else { DecodeError::Malformed }
                })?;
                *has_ended = is_idle || missing == 0;
                Ok(Progress { read: input.pos(), written: output.pos(), is_done: false })
            }
            Self::Done if part.is_empty() => Ok(Progress { read: 0, written: 0, is_done: true }),
            Self::Done | Self::Broken => Err(DecodeError::Malformed),
        }
    }
}

/// The state at the start of a member. 15 stands for gzip's largest window, 2^15 bytes.
fn gzip_member() -> Decompress {
    Decompress::new_gzip(15)
}

fn zstd() -> Option<Box<Zstd<'static>>> {
    let mut zstd = Zstd::new().ok()?;
    zstd.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).ok()?;
    Some(Box::new(zstd))
}

/// Whether the first byte of a brotli stream (RFC 7932, 9.1) asks for a window of 2^24 bytes, or
/// begins the form for even larger windows.
const fn asks_for_large_window(first: u8) -> bool {
    first & 0x0f == 0x0f || first & 0x7f == 0x11
}

fn moved(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

impl fmt::Debug for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip { .. } => "Gzip",
            Self::Brotli { .. } => "Brotli",
            Self::Zstd { .. } => "Zstd",
            Self::Done => "Done",
            Self::Broken => "Broken",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    fn decode(encoding: Encoding, encoded: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
        let (mut decoder, mut decoded) = (Decoder::new(encoding), Vec::new());
        for part in encoded.chunks(length) {
            decoder.feed(part, |bytes| decoded.extend_from_slice(bytes))?;
        }
        Ok(decoded)
    }

    /// Makes a brotli stream of one stored block (RFC 7932, 9.2), with a window of 2^16 bytes.
    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len() - 1).unwrap();
        assert!(length < 1 << 16);
        // WBITS 0, ISLAST 0, MNIBBLES 00, sixteen bits of MLEN, ISUNCOMPRESSED 1.
        let header = length << 4 | 1 << 20;
        let mut stream = header.to_le_bytes()[..3].to_vec();
        stream.extend_from_slice(bytes);
        stream.push(3); // ISLAST, ISLASTEMPTY.
        stream
    }

    #[test]
    fn an_answer_is_decoded_wherever_it_is_cut() {
        let text: Vec<u8> = (0..60_000_u32).map(|n| ((n * n) >> 7) as u8).collect();
        let zstd = zstd::encode_all(text.as_slice(), 3).unwrap();
        for (encoding, encoded) in [
            (Encoding::Gzip, gzip(&text)),
            (Encoding::Zstd, zstd),
            (Encoding::Brotli, brotli(&text)),
        ] {
            for length in [1, 7, 1000, encoded.len()] {
                let decoded = decode(encoding, &encoded, length);
                assert!(decoded.as_deref() == Ok(&text), "{encoding:?} {length}");
            }
            // An answer that was cut off is not at its end.
            let is_at_end = |encoded: &[u8]| {
                let mut decoder = Decoder::new(encoding);
                decoder.feed(encoded, |_| {}).unwrap();
                decoder.is_at_end()
            };
            assert!(is_at_end(&encoded) && !is_at_end(&[]), "{encoding:?}");
            assert!(!is_at_end(&encoded[..encoded.len() - 1]), "{encoding:?}");
            let mut with_more = encoded.clone();
            with_more.truncate(encoded.len() / 2);
            assert!(decode(encoding, &with_more, 100).unwrap().len() < text.len());
        }
    }

    #[test]
    fn members_and_frames_that_follow_each_other_are_one_answer() {
        let padded = [gzip(b"one "), vec![0; 9], gzip(b"two"), vec![0]].concat();
        let frames = [&b"one "[..], b"two"].map(|part| zstd::encode_all(part, 1).unwrap()).concat();
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        for (encoding, encoded) in
            [(Encoding::Gzip, padded), (Encoding::Gzip, members), (Encoding::Zstd, frames)]
        {
            for length in [1, 3, encoded.len()] {
                let decoded = decode(encoding, &encoded, length);
                assert_eq!(decoded.as_deref(), Ok(&b"one two"[..]), "{encoding:?} {length}");
            }
        }
        for (encoding, first) in
            [(Encoding::Gzip, gzip(b"one")), (Encoding::Brotli, brotli(b"one"))]
        {
            let garbage = [first, b"two".to_vec()].concat();
            for length in [1, 1000] {
                let decoded = decode(encoding, &garbage, length);
                assert_eq!(decoded, Err(DecodeError::Malformed), "{encoding:?} {length}");
            }
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_its_bound() {
        let zeros = vec![0; 1 << 20];
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        for _ in 0..65 {
            gzip.write_all(&zeros).unwrap();
            zstd.write_all(&zeros).unwrap();
        }
        for (encoding, bomb) in
            [(Encoding::Gzip, gzip.finish().unwrap()), (Encoding::Zstd, zstd.finish().unwrap())]
        {
            assert_eq!(decode(encoding, &bomb, 4096), Err(DecodeError::TooLong), "{encoding:?}");
        }
    }

    #[test]
    fn a_large_window_is_refused() {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.window_log(24).unwrap();
        zstd.include_contentsize(false).unwrap();
        zstd.write_all(&[7; 100]).unwrap();
        assert_eq!(decode(Encoding::Zstd, &zstd.finish().unwrap(), 10), Err(DecodeError::Window));
        for first in [0x0f, 0x11, 0x91] {
            assert_eq!(decode(Encoding::Brotli, &[first, 3], 10), Err(DecodeError::Window));
        }
    }

    #[test]
    fn garbage_is_an_error_once_and_for_all() {
        for encoding in [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd] {
            let mut decoder = Decoder::new(encoding);
            let first = decoder.feed(&[0x41; 64], |_| {});
            assert_eq!(first, Err(DecodeError::Malformed), "{encoding:?}");
            assert_eq!(decoder.feed(b"more", |_| {}), first);
        }
        assert_eq!(Encoding::parse(" X-GZip "), Some(Encoding::Gzip));
        for other in ["identity", "deflate", "gzip, br", ""] {
            assert_eq!(Encoding::parse(other), None, "{other}");
        }
    }
}
