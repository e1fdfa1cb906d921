//! The encoding of a kept answer: status, cost, headers and body, as bytes that are sealed
//! afterwards.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_http::ResponseHeader;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::HoldId;
use crate::proxy::hop;
use crate::proxy::live::PricedRoute;

/// The first byte of the encoding: its version.
const FORM: u8 = 1;

/// The bytes that are counted for a header in addition to its name and its value.
const HEADER_BYTES: usize = 8;

/// An answer that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptAnswer {
    pub status: StatusCode,
    /// The charge of the call.
    pub cost: Credits,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// The answer of the first call, for its retry.
pub(in crate::proxy) struct Replay {
    pub(super) answer: KeptAnswer,
    /// The request id of the first call.
    pub(super) call: HoldId,
    pub(super) account: AccountId,
    pub(super) route: Arc<PricedRoute>,
}

/// The headers of an answer that are kept. Headers of one connection, the framing and the date are
/// left out. If the answer has no body, as with HEAD or 304, its `content-length` is kept.
pub(super) fn kept_headers(
    head: &ResponseHeader,
    has_body: bool,
) -> Vec<(HeaderName, HeaderValue)> {
    let of_connection = hop::of_answer(&head.headers);
    let is_kept = |name: &HeaderName| {
        name != header::DATE
            && name != header::TRANSFER_ENCODING
            && !(has_body && name == header::CONTENT_LENGTH)
            && !of_connection.contains(name)
    };
    let headers = head.headers.iter().filter(|(name, _)| is_kept(name));
    headers.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The number of bytes that these headers are counted as.
pub(super) fn length_of(headers: &[(HeaderName, HeaderValue)]) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum()
}

impl KeptAnswer {
    /// Encodes the answer. `None` if a part does not fit its length field, which does not occur in
    /// an HTTP message.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = length_of(&self.headers) + self.body.len() + 16;
        let mut bytes = Vec::with_capacity(length);
        bytes.push(FORM);
        bytes.extend(self.status.as_u16().to_be_bytes());
        bytes.extend(self.cost.micros().to_be_bytes());
        bytes.extend(u16::try_from(self.headers.len()).ok()?.to_be_bytes());
        for (name, value) in &self.headers {
            bytes.extend(u16::try_from(name.as_str().len()).ok()?.to_be_bytes());
            bytes.extend(name.as_str().as_bytes());
            bytes.extend(u32::try_from(value.len()).ok()?.to_be_bytes());
            bytes.extend(value.as_bytes());
        }
        bytes.extend_from_slice(&self.body);
        Some(bytes)
    }

    /// Reads an answer that [`Self::encode`] wrote. `None` if the bytes are not in this encoding.
    pub fn decode(bytes: Vec<u8>) -> Option<Self> {
        let mut rest = Bytes::from(bytes);
        if rest.try_get_u8().ok()? != FORM {
            return None;
        }
        let status = StatusCode::from_u16(rest.try_get_u16().ok()?).ok()?;
        let cost = Credits::from_micros(rest.try_get_u64().ok()?)?;
        let count = rest.try_get_u16().ok()?;
        let take =
            |rest: &mut Bytes, length: usize| (length <= rest.len()).then(|| rest.split_to(length));
        let mut headers = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let length = usize::from(rest.try_get_u16().ok()?);
            let name = HeaderName::from_bytes(&take(&mut rest, length)?).ok()?;
            let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
            let value = HeaderValue::from_maybe_shared(take(&mut rest, length)?).ok()?;
            headers.push((name, value));
        }
        Some(Self { status, cost, headers, body: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in lines {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn an_answer_is_read_as_it_was_kept() {
        let head = head(&[
            ("content-type", "text/event-stream"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-empty", ""),
        ]);
        for body in [&b""[..], b"data: one\n\n", &[0xff; 70_000]] {
            let answer = KeptAnswer {
                status: StatusCode::CREATED,
                cost: "0.000001".parse().unwrap(),
                headers: kept_headers(&head, true),
                body: Bytes::copy_from_slice(body),
            };
            let bytes = answer.encode().unwrap();
            assert_eq!(KeptAnswer::decode(bytes.clone()), Some(answer));
            for end in 0..40 {
                assert_eq!(KeptAnswer::decode(bytes[..end].to_vec()), None, "cut at {end}");
            }
        }
        assert_eq!(KeptAnswer::decode(vec![2; 100]), None);
    }

    #[test]
    fn the_headers_of_one_connection_are_not_kept() {
        let head = head(&[
            ("date", "Mon, 30 Nov 2026 10:00:00 GMT"),
            ("connection", "keep-alive, x-hop"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "12"),
            ("etag", "\"v1\""),
        ]);
        let names = |has_body| -> Vec<String> {
            let headers = kept_headers(&head, has_body);
            headers.iter().map(|(name, _)| name.as_str().to_owned()).collect()
        };
        assert_eq!(names(true), ["etag"]);
        assert_eq!(names(false), ["content-length", "etag"], "a HEAD names the length of the body");
    }
}
