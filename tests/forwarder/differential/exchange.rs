//! Exchanges: connections of clients with their requests, and what the upstream does with each.

use crate::support::message::Framing;

/// The protocol that the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// A connection of a client.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub seed: u64,
    pub protocol: Protocol,
    pub calls: Vec<Plan>,
    /// Whether all requests go out at once, before the answers are read. This is for Farebox only:
    /// the bare proxy gets the requests one after another, and must give the same answers.
    pub pipelined: bool,
}

/// A request, and the upstream's part.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nonce: String,
    pub request: Request,
    pub answer: Answer,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    /// The target, without the folder by which Farebox's routes tell the lanes apart.
    pub target: &'static str,
    pub version: &'static str,
    pub fields: Vec<(&'static str, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    /// How long the parts of the body are: chunks or DATA frames.
    pub pieces: Vec<usize>,
    /// `x-sum: 1` follows a body in chunks, or the DATA frames.
    pub has_trailers: bool,
    pub end: End,
}

/// How a client's part of a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client reads the whole answer.
    Reads,
    /// The client leaves after this number of bytes of its body.
    LeavesInRequest(usize),
    /// The client leaves after it has read this number of bytes of the answer's body, or its end.
    LeavesInAnswer(usize),
}

#[derive(Clone, Debug)]
pub struct Answer {
    /// Statuses of 1xx that come before the answer.
    pub interim: Vec<u16>,
    /// Whether the answer is sent as soon as the request's head is there.
    pub is_early: bool,
    /// Whether the answer ends a tunnel's handshake. The upstream then sends back every byte of the client.
    pub is_tunnel: bool,
    /// The bytes of the head, with its empty line.
    pub head: String,
    pub status: u16,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub pieces: Vec<usize>,
    pub has_trailers: bool,
    /// Only this number of bytes of the answer is sent, and then the connection is closed.
    pub cut: Option<usize>,
    /// Bytes that are no answer by the RFCs, in place of one.
    pub malformed: Option<&'static str>,
    pub then: Then,
}

/// The upstream's behaviour once it has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Keeps,
    /// The upstream closes the connection, as its answer has announced.
    Closes,
    /// The upstream closes the connection without having announced it.
    ClosesUnasked,
    /// The upstream sends more bytes, which belong to no answer.
    SaysMore,
}

/// A tunnel that nobody asked for.
pub const UNASKED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                           upgrade: websocket\r\n\r\nhello";

impl Plan {
    /// Whether the request and the answer are such that both must pass whole.
    pub fn is_valid(&self) -> bool {
        self.request.end == End::Reads
            && self.answer.cut.is_none()
            && self.answer.malformed.is_none()
            && !self.answer.is_tunnel
    }

    /// Whether the request carries this field.
    pub fn says(&self, name: &str) -> bool {
        self.request.fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name))
    }

    /// Whether one of the request's fields of this name has `option` in its list.
    pub fn lists(&self, name: &str, option: &str) -> bool {
        let named =
            self.request.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let mut options = named.flat_map(|(_, value)| value.split(','));
        options.any(|one| one.trim().eq_ignore_ascii_case(option))
    }

    /// Whether Farebox refuses the request: its `connection` header lists its own framing, or it
    /// asks for a WebSocket on a route that allows none.
    pub fn is_refused(&self) -> bool {
        self.lists("connection", "content-length")
            || self.request.version == "HTTP/1.1"
                && self.request.target != "/ws"
                && self.lists("connection", "upgrade")
                && self.lists("upgrade", "websocket")
    }

    /// Whether a connection over HTTP/1 may end with this call although the call is valid.
    pub fn may_end_connection(&self) -> bool {
        self.request.version == "HTTP/1.0"
            || self.lists("connection", "close")
            || self.answer.is_early
            || self.says("expect")
    }

    /// Whether Farebox reads the whole body before it forwards the request.
    pub fn has_small_body(&self) -> bool {
        let is_head_only = matches!(self.request.method, "GET" | "HEAD" | "DELETE" | "OPTIONS");
        matches!(self.request.framing, Framing::Length(1..=65_536)) && !is_head_only
    }

    /// How long the body is that the client of a whole answer receives, in bytes.
    pub fn body_of_answer(&self) -> usize {
        let has_none = self.request.method == "HEAD"
            || matches!(self.answer.status, 204 | 304)
            || self.answer.malformed.is_some();
        if has_none { 0 } else { self.answer.body.len() }
    }

    /// The bytes of the answer, from its status line on.
    pub fn answer_bytes(&self) -> Vec<u8> {
        let answer = &self.answer;
        if let Some(text) = answer.malformed {
            return text.as_bytes().to_vec();
        }
        let mut bytes = latin1(&answer.head);
        if self.request.method != "HEAD" && !matches!(answer.status, 204 | 304) {
            bytes.extend(framed(
                answer.framing,
                &answer.body,
                &answer.pieces,
                answer.has_trailers,
                &["", "", ";a=b", ";a=\"b c\""],
            ));
        }
        if answer.then == Then::SaysMore {
            bytes.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore");
        }
        bytes.truncate(answer.cut.unwrap_or(usize::MAX));
        bytes
    }
}

/// A text in which each character is a byte.
pub fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// A body as it goes over HTTP/1.1.
pub fn framed(
    framing: Framing,
    body: &[u8],
    pieces: &[usize],
    has_trailers: bool,
    extensions: &[&str],
) -> Vec<u8> {
    if framing != Framing::Chunked {
        return body.to_vec();
    }
    let mut bytes = Vec::new();
    for (n, piece) in parts(body, pieces).into_iter().enumerate() {
        let extension = extensions[n % extensions.len()];
        let size =
            if n % 2 == 0 { format!("{:x}", piece.len()) } else { format!("0{:X}", piece.len()) };
        bytes.extend(format!("{size}{extension}\r\n").bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(if has_trailers { &b"0\r\nx-sum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
    bytes
}

/// A body in its parts, none of them empty.
pub fn parts<'a>(mut body: &'a [u8], pieces: &[usize]) -> Vec<&'a [u8]> {
    let mut all = Vec::new();
    for piece in pieces.iter().cycle() {
        if body.is_empty() {
            break;
        }
        let (part, rest) = body.split_at((*piece).clamp(1, body.len()));
        all.push(part);
        body = rest;
    }
    all
}
