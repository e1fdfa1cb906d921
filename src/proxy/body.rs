//! The body of a request. A small body is read whole before its call is forwarded. A larger body is
//! streamed, and [`Sent`] counts how much of it was passed on to the upstream.
//!
//! An upstream may begin to work before it has the whole request. If a client paid nothing when it
//! left before the last byte, clients could have that work done for free. So an upstream sees a
//! small body only once it is complete, and a large body counts as sent once only little of it is
//! missing.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora_error::{BError, Result};
use pingora_http::RequestHeader;

use super::body_memory::{BodyMemory, Reserved};
use super::client::Client;
use crate::account::AccountId;

/// The largest small body, in bytes. A body of at most this declared length is read whole before
/// its call is forwarded. A longer body counts as sent once at most this much of it is missing.
const SMALL: u64 = 64 * 1024;

/// The largest body that is read before Farebox decides on an SDK's retry without a key, in bytes.
/// The default limit on the body of a metered call is the same.
const OF_RETRY: u64 = 16 * 1024 * 1024;

/// The length of a request, as far as its head tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    /// Only the end of the body tells its length.
    #[default]
    Unknown,
    /// The length of the body, in bytes.
    Declared(u64),
    /// The head counts as the whole request, whatever body it declares. Upstreams begin to work on
    /// a GET, HEAD, DELETE or OPTIONS without waiting for a body.
    Head,
}

impl Length {
    fn of(client: &mut Client) -> Self {
        match client.head().method {
            Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS => Self::Head,
            _ => Self::of_body(client),
        }
    }

    /// The length of the body, whatever the method.
    fn of_body(client: &mut Client) -> Self {
        if client.is_body_empty() {
            return Self::Declared(0);
        }
        let head = client.head();
        if head.headers.contains_key(TRANSFER_ENCODING) {
            return Self::Unknown;
        }
        // `target.rs` has checked that there is at most one length, and that it is a number.
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        length.and_then(|value| value.parse().ok()).map_or(Self::Unknown, Self::Declared)
    }
}

/// Counts how much of a request was handed over to the upstream's connection.
#[derive(Debug, Default)]
pub struct Sent {
    length: Length,
    has_head: bool,
    body_bytes: u64,
    has_ended: bool,
}

impl Sent {
    /// Begins to count for a request of this length.
    fn nothing_of(length: Length) -> Self {
        Self { length, ..Self::default() }
    }

    /// Begins to count for a request whose whole body is in memory.
    pub(super) fn nothing_of_whole(body_bytes: usize) -> Self {
        Self::nothing_of(Length::Declared(body_bytes as u64))
    }

    /// Records that the head is handed over.
    pub fn begin(&mut self) {
        self.has_head = true;
    }

    /// Records that `body_bytes` more bytes of the body were handed over. `end` is true if the
    /// request ends there.
    pub fn add(&mut self, body_bytes: usize, end: bool) {
        self.body_bytes = self.body_bytes.saturating_add(body_bytes as u64);
        self.has_ended |= end;
    }

    /// Whether the whole request was handed over.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether the request counts as sent if the client leaves now. It does if it is complete, or
    /// if at most [`SMALL`] bytes of its declared length are missing. Without a declared length,
    /// any byte of the body is enough.
    pub fn counts(&self) -> bool {
        let is_enough = match self.length {
            Length::Head => true,
            Length::Declared(length) => length.saturating_sub(self.body_bytes) <= SMALL,
            Length::Unknown => self.body_bytes > 0,
        };
        self.has_head && (self.has_ended || is_enough)
    }
}

/// The part of a body that is read before its call is forwarded. It is sent before the rest of the
/// body.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    pub bytes: Bytes,
    /// True if this is the whole body.
    pub is_whole: bool,
    reserved: Option<Reserved>,
}

impl Buffered {
    /// Replaces the whole body with other bytes. Returns false if there is no memory for them.
    #[must_use]
    pub fn replace(&mut self, bytes: Bytes, memory: &Arc<BodyMemory>, account: &AccountId) -> bool {
        if bytes.len() > SMALL as usize {
            let mut reserved = memory.begin(account.clone());
            if !reserved.grow(bytes.len()) {
                return false;
            }
            self.reserved = Some(reserved);
        }
        self.bytes = bytes;
        true
    }
}

/// The reason why a body could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The client has left, or its body does not have the framing that its head announced.
    Failed(BError),
    /// The client sent nothing for too long.
    Silent,
    /// The limit on the memory for bodies is reached.
    Overloaded,
}

/// The limits for reading one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room<'a> {
    /// The number of bytes after which reading stops. The last part that arrives may exceed it.
    pub most: usize,
    /// The length of the body that the head declares, in bytes; 0 if it declares none.
    pub expected: usize,
    /// The longest silence of the client.
    pub silence: Duration,
    pub memory: &'a Arc<BodyMemory>,
    pub account: &'a AccountId,
}

/// Reads a request's body. Stops early once it has `room.most` bytes.
///
/// # Errors
/// [`Unread`]. The caller must then forward nothing of the request.
pub(super) async fn read_ahead(client: &mut Client, room: Room<'_>) -> Result<Buffered, Unread> {
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    let mut reserved = None;
    let mut length = 0;
    let is_whole = loop {
        if client.is_body_done() {
            break true;
        }
        if length >= room.most {
            break false;
        }
        let part = match tokio::time::timeout(room.silence, client.read_body()).await {
            Ok(Ok(Some(part))) => part,
            Ok(Ok(None)) => break true,
            Ok(Err(error)) => return Err(Unread::Failed(error)),
            Err(_) => return Err(Unread::Silent),
        };
        length += part.len();
        // A body that arrives in one part stays in the connection's own memory, so nothing is
        // reserved.
        if client.is_body_done() && first.is_empty() {
            first = part;
            break true;
        }
        let reserved = reserved.get_or_insert_with(|| room.memory.begin(room.account.clone()));
        if !reserved.grow(part.len()) {
            return Err(Unread::Overloaded);
        }
        if first.is_empty() {
            first = part;
        } else {
            if more.is_empty() {
                more.reserve(room.expected.max(first.len() + part.len()));
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&part);
        }
    };
    let bytes = if more.is_empty() { first } else { more.freeze() };
    Ok(Buffered { bytes, is_whole, reserved })
}

/// Reads a body of at most [`SMALL`] bytes whole; every other body is left to be streamed. Bodies
/// of free calls are read in the same way, so that an upstream cannot tell the difference. The
/// returned [`Sent`] counts from now on how much of the request is handed over.
///
/// If the body is read here, this function also answers `Expect: 100-continue`. Otherwise the
/// header is left for the upstream, except over HTTP/1.0, where a 100 cannot reach the client.
///
/// # Errors
/// The same as those of [`read_ahead`].
pub(super) async fn read_small(
    client: &mut Client,
    memory: &Arc<BodyMemory>,
    account: &AccountId,
    silence: Duration,
) -> Result<(Buffered, Sent), Unread> {
    let length = Length::of(client);
    let is_read = matches!(length, Length::Declared(1..=SMALL));
    let room = Room { most: SMALL as usize, expected: 0, silence, memory, account };
    read_if(is_read, client, length, room).await
}

/// Reads the body of an SDK's retry that has no key: only the hash of the body tells whether the
/// call was made before. If the head declares more than [`OF_RETRY`] bytes, the body is not read
/// here. If the head declares no length, reading stops at [`OF_RETRY`] bytes. The unread part is
/// left to be streamed.
///
/// # Errors
/// The same as those of [`read_ahead`].
pub(super) async fn read_retry(
    client: &mut Client,
    memory: &Arc<BodyMemory>,
    account: &AccountId,
    silence: Duration,
) -> Result<(Buffered, Sent), Unread> {
    let length = Length::of(client);
    let is_read = matches!(length, Length::Declared(1..=OF_RETRY) | Length::Unknown);
    let expected = match length {
        Length::Declared(bytes) if is_read => usize::try_from(bytes).unwrap_or_default(),
        _ => 0,
    };
    let room = Room { most: OF_RETRY as usize, expected, silence, memory, account };
    read_if(is_read, client, length, room).await
}

/// Reads a body, or leaves it to be streamed.
async fn read_if(
    is_read: bool,
    client: &mut Client,
    length: Length,
    room: Room<'_>,
) -> Result<(Buffered, Sent), Unread> {
    if expects_continue(client.head()) {
        // A client of HTTP/1.0 must not be sent a 1xx answer (RFC 9110, 10.1.1).
        let is_1_0 = client.head().version < Version::HTTP_11;
        if is_read || is_1_0 {
            client.head_mut().remove_header(&EXPECT);
        }
        if is_read && !is_1_0 {
            client.write_continue().map_err(Unread::Failed)?;
        }
    }
    let sent = Sent::nothing_of(length);
    if !is_read {
        let is_whole = client.is_body_done();
        return Ok((Buffered { is_whole, ..Buffered::default() }, sent));
    }
    Ok((read_ahead(client, room).await?, sent))
}

/// The length of the body that the head declares, whatever the method; `None` if it declares none.
pub(super) fn declared_length(client: &mut Client) -> Option<u64> {
    match Length::of_body(client) {
        Length::Declared(length) => Some(length),
        Length::Head | Length::Unknown => None,
    }
}

/// Whether the client waits for a 100 before it sends its body.
pub(super) fn expects_continue(head: &RequestHeader) -> bool {
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
