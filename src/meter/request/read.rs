//! Reads a request.

use super::mistake::BodyMistake;
use super::outcome::ReadRequest;
use super::reader::{MAX_DEPTH, Reader};
use super::watched::Watched;
use crate::meter::json::{Failure, Scanner};
use crate::usage::MeterKind;

/// Reads the facts that the price needs from `body`, in one pass.
///
/// # Errors
/// [`BodyMistake`] if the body is not one strict JSON object, or if another parser might find
/// another price in it.
pub fn read_request(
    kind: &MeterKind,
    body: &[u8],
    watched: &Watched,
) -> Result<ReadRequest, BodyMistake> {
    if let Err(error) = std::str::from_utf8(body) {
        return Err(BodyMistake::NotUtf8(error.valid_up_to()));
    }
    let mut scanner = Scanner::new(MAX_DEPTH as u32);
    let mut reader = Reader::new(kind, body, watched);
    scanner.feed(body, &mut reader).map_err(|failure| match failure {
        Failure::Syntax(at) => BodyMistake::NotJson(at),
        Failure::TooDeep => BodyMistake::TooDeep,
        Failure::Stopped(mistake) => mistake,
    })?;
    if !scanner.is_done() {
        return Err(BodyMistake::NotJson(body.len()));
    }
    reader.end()
}
