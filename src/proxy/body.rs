//! The body of a request: a small one is read before its call is forwarded, and of a larger one
//! this counts how much was handed over.
//!
//! An upstream may begin to work before it has the whole request. If a client that leaves before
//! the last byte paid nothing, every client could have that work done for free. So an upstream
//! sees a small body only once it is complete, and a large body counts as sent when little of it
//! is missing.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::call::Call;

/// In bytes: the longest declared body that is read before its call is forwarded, and the most
/// that a longer one may lack where a client that leaves pays all the same. Pingora's retry
/// buffer, which keeps a body that was read and sends it after the head, holds as much.
const SMALL: u64 = 64 * 1024;

/// How long a request is, by its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    /// The body says it at its end.
    #[default]
    Unknown,
    /// So many bytes of body.
    Declared(u64),
    /// The head is the whole request, whatever body it declares: upstreams begin to work on a GET,
    /// HEAD, DELETE or OPTIONS without looking at one.
    Head,
}

impl Length {
    fn of(session: &mut Session) -> Self {
        let no_body = session.is_body_empty();
        let head = session.req_header();
        if matches!(head.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS) {
            return Self::Head;
        }
        if no_body {
            return Self::Declared(0);
        }
        if head.headers.contains_key(TRANSFER_ENCODING) {
            return Self::Unknown;
        }
        // The head was checked: there is at most one, and it is a number.
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        length.and_then(|value| value.parse().ok()).map_or(Self::Unknown, Self::Declared)
    }
}

/// How much of a request was handed over to the upstream's connection.
#[derive(Debug, Default)]
pub struct Sent {
    length: Length,
    has_head: bool,
    body_bytes: u64,
    has_ended: bool,
}

impl Sent {
    /// The head goes out now.
    pub fn begin(&mut self) {
        self.has_head = true;
    }

    /// So many more bytes of the body go out, and with `end` the end of the request.
    pub fn add(&mut self, body_bytes: usize, end: bool) {
        self.body_bytes = self.body_bytes.saturating_add(body_bytes as u64);
        self.has_ended |= end;
    }

    /// Whether nothing of the request is missing.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether a client that leaves now has left a request that counts as sent: complete, or with
    /// at most [`SMALL`] bytes of a declared length missing, or with any byte of a body without
    /// one.
    pub fn counts(&self) -> bool {
        let is_enough = match self.length {
            Length::Head => true,
            Length::Declared(length) => length.saturating_sub(self.body_bytes) <= SMALL,
            Length::Unknown => self.body_bytes > 0,
        };
        self.has_head && (self.has_ended || is_enough)
    }
}

/// Reads a body of at most [`SMALL`] bytes whole, and leaves every other one to be streamed.
/// False where the client was silent for `silence` in the middle of it. Calls of free routes are
/// read the same way, so that an upstream sees all bodies alike.
///
/// `Expect: 100-continue` is answered here where the body is read here. The upstream is asked
/// what it expects only where its own answer can reach the client.
///
/// # Errors
/// Where the client has left.
pub(super) async fn read_small(
    session: &mut Session,
    call: &mut Call,
    silence: Duration,
) -> Result<bool> {
    let length = Length::of(session);
    call.progress.sent.length = length;
    let is_small = matches!(length, Length::Declared(1..=SMALL));
    if expects_continue(session.req_header()) {
        // HTTP/1.0 knows no 1xx (RFC 9110, 10.1.1).
        let is_1_0 = session.req_header().version < Version::HTTP_11;
        if is_small || is_1_0 {
            session.req_header_mut().remove_header(&EXPECT);
        }
        if is_small && !is_1_0 {
            // Pingora would close the connection after an answer that comes before the body, and
            // a 100 is none.
            session.set_close_on_response_before_downstream_finish(false);
            session.write_continue_response().await.map_err(|error| error.into_down())?;
            session.set_close_on_response_before_downstream_finish(true);
        }
    }
    if is_small {
        session.enable_retry_buffering();
        while !session.is_body_done() {
            match tokio::time::timeout(silence, session.read_request_body()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(error.into_down()),
                Err(_) => return Ok(false),
            }
        }
    } else if !session.is_body_done() {
        // Pingora reads it; on HTTP/2 the upstream's read timeout alone bounds a pause.
        session.set_read_timeout(Some(silence));
    }
    Ok(true)
}

/// Whether the client waits for a 100 before it sends its body.
fn expects_continue(head: &RequestHeader) -> bool {
    let expected = head.headers.get_all(EXPECT).iter();
    expected
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|one| one.trim_ascii().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(length: Length, body_bytes: usize, end: bool) -> Sent {
        let mut sent = Sent { length, ..Sent::default() };
        sent.begin();
        sent.add(body_bytes, end);
        sent
    }

    #[test]
    fn a_request_counts_as_sent_when_little_of_it_is_missing() {
        const MIB: usize = 1 << 20;
        const KEPT_BACK: usize = SMALL as usize;
        for (length, bytes, end, counts) in [
            (Length::Head, 0, false, true),
            (Length::Declared(0), 0, false, true),
            (Length::Declared(1), 0, false, true),
            (Length::Declared(MIB as u64), 100, false, false),
            (Length::Declared(MIB as u64), MIB - KEPT_BACK - 1, false, false),
            (Length::Declared(MIB as u64), MIB - KEPT_BACK, false, true),
            (Length::Declared(MIB as u64), MIB, true, true),
            (Length::Unknown, 0, false, false),
            (Length::Unknown, 1, false, true),
            (Length::Unknown, 0, true, true),
        ] {
            assert_eq!(sent(length, bytes, end).counts(), counts, "{length:?} {bytes} {end}");
        }
    }

    #[test]
    fn nothing_counts_as_sent_before_its_head() {
        for length in [Length::Head, Length::Declared(1), Length::Unknown] {
            assert!(!Sent { length, ..Sent::default() }.counts(), "{length:?}");
        }
    }
}
