//! Records an answer as it passes.

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;

use super::answer::{KeptAnswer, kept_headers, length_of};
use crate::credits::Credits;
use crate::proxy::body_memory::Reserved;

/// How much of an answer has been recorded.
pub(super) enum Recording {
    /// The answer is not recorded, because the call has no key and the client has not left.
    Off,
    /// The head is awaited.
    Awaited,
    /// The head was recorded, and all of the body so far.
    Begun(Box<Recorded>),
    /// The answer is too large or is not charged, or there was no memory for it.
    GivenUp,
}

/// The recorded part of an answer.
pub(super) struct Recorded {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: BytesMut,
    /// The number of bytes of body for which there is still room.
    room: usize,
    reserved: Reserved,
}

impl Recording {
    /// Records the head of an answer. The whole record may have at most `most` bytes.
    pub fn head(
        &mut self,
        head: &ResponseHeader,
        has_body: bool,
        most: usize,
        mut reserved: Reserved,
    ) {
        let headers = kept_headers(head, has_body);
        let length = length_of(&headers);
        *self = match most.checked_sub(length) {
            Some(room) if reserved.grow(length) => {
                let (status, body) = (head.status, BytesMut::new());
                Self::Begun(Box::new(Recorded { status, headers, body, room, reserved }))
            }
            _ => Self::GivenUp,
        };
    }

    /// Records the next part of the body.
    pub fn body(&mut self, part: &[u8]) {
        let Self::Begun(recorded) = self else { return };
        match recorded.room.checked_sub(part.len()) {
            Some(room) if recorded.reserved.grow(part.len()) => {
                recorded.room = room;
                recorded.body.extend_from_slice(part);
            }
            _ => *self = Self::GivenUp,
        }
    }

    /// Whether the head is awaited.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Self::Awaited)
    }

    /// Whether the head and all of the body so far were recorded.
    pub fn has_begun(&self) -> bool {
        matches!(self, Self::Begun(_))
    }

    /// Whether the answer can still be recorded whole.
    pub fn is_possible(&self) -> bool {
        matches!(self, Self::Awaited | Self::Begun(_))
    }

    /// Returns the recorded answer, with the cost of its call; `None` if no answer was recorded.
    pub fn end(self, cost: Credits) -> Option<KeptAnswer> {
        let Self::Begun(recorded) = self else { return None };
        let Recorded { status, headers, body, .. } = *recorded;
        Some(KeptAnswer { status, cost, headers, body: Bytes::from(body) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::body_memory::BodyMemory;

    fn recording(most: usize, memory: usize) -> Recording {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("a", "b").unwrap();
        let mut recording = Recording::Awaited;
        recording.head(&head, true, most, BodyMemory::new(memory).begin(None));
        recording
    }

    #[test]
    fn an_answer_is_recorded_up_to_its_limit() {
        // The header takes ten bytes.
        let mut whole = recording(20, 1000);
        whole.body(b"01234");
        whole.body(b"56789");
        assert!(whole.has_begun());
        assert_eq!(&*whole.end(Credits::ZERO).unwrap().body, b"0123456789");
        let mut longer = recording(20, 1000);
        longer.body(b"0123456789");
        longer.body(b"x");
        assert!(!longer.is_possible());
        longer.body(b"");
        assert_eq!(longer.end(Credits::ZERO), None);
        assert!(!recording(9, 1000).is_possible(), "the head alone is too large");
    }

    #[test]
    fn an_answer_for_which_there_is_no_memory_is_not_recorded() {
        let mut recording = recording(1000, 80);
        recording.body(b"0123456789");
        assert!(recording.has_begun());
        recording.body(b"x");
        assert!(!recording.is_possible(), "an account has a quarter of the memory");
    }
}
