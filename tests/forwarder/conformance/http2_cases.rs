//! The cases of HTTP/2 and HPACK, named after the sections of RFC 9113 and RFC 7541.

use super::http2::{Case, Outcome};
use super::{http2_frames as of_frames, http2_messages as of_messages};
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame,
};
use crate::support::h2::HOST;
use crate::support::token;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const COMPRESSION_ERROR: u32 = 9;

pub const PRIORITY_FLAG: u8 = 0x20;

/// Makes the frames of one case, whose requests have a path of their own.
pub struct Make {
    pub path: String,
}

impl Make {
    /// The fields of a request: its pseudo-fields, the caller, then `more`.
    pub fn block(&self, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        let path = &*self.path;
        for (name, value) in
            [(":method", method), (":scheme", "https"), (":path", path), (":authority", HOST)]
        {
            field(&mut block, name, value);
        }
        self.rest(&mut block, more);
        block
    }

    pub fn rest(&self, block: &mut Vec<u8>, more: &[(&str, &str)]) {
        field(block, "authorization", &format!("Bearer {}", token("alice")));
        for (name, value) in more {
            field(block, name, value);
        }
    }

    /// A block with pseudo-fields of its own.
    pub fn pseudo(&self, pseudo: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in pseudo {
            field(&mut block, name, if *value == "PATH" { &self.path } else { value });
        }
        self.rest(&mut block, &[]);
        block
    }

    pub fn get(&self, stream: u32) -> Vec<u8> {
        head(stream, END_STREAM, &self.block("GET", &[]))
    }

    pub fn get_with(&self, more: &[(&str, &str)]) -> Vec<u8> {
        head(1, END_STREAM, &self.block("GET", more))
    }

    /// A POST whose body follows.
    pub fn post(&self, stream: u32) -> Vec<u8> {
        head(stream, 0, &self.block("POST", &[]))
    }

    pub fn posted(&self, more: &[(&str, &str)], parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = head(1, 0, &self.block("POST", more));
        for (n, part) in parts.iter().enumerate() {
            let end = if n + 1 == parts.len() { END_STREAM } else { 0 };
            bytes.extend(frame(DATA, end, 1, part));
        }
        bytes
    }
}

pub fn head(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, block)
}

pub fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

pub type Bytes = fn(&Make) -> Vec<u8>;

pub fn case(section: &'static str, name: &'static str, bytes: Bytes, outcome: Outcome) -> Case {
    let make = Make { path: format!("/free/h{}/x", name.replace(' ', "-")) };
    Case { section, name, bytes: bytes(&make), is_bare: false, outcome, known: None }
}

impl Case {
    /// Marks a case that Farebox gets wrong, with the reason.
    pub fn known(self, reason: &'static str) -> Self {
        Self { known: Some(reason), ..self }
    }

    pub fn bare(self) -> Self {
        Self { is_bare: true, ..self }
    }
}

pub fn served() -> Outcome {
    Outcome::Served(1, Vec::new())
}

pub const PROTOCOL: Outcome = Outcome::Connection(&[PROTOCOL_ERROR]);
/// The outcome for a frame of a wrong size. For some such frames the `h2` crate reports the less
/// precise PROTOCOL_ERROR.
pub const SIZE: Outcome = Outcome::Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
pub const COMPRESSION: Outcome = Outcome::Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
pub const MALFORMED: Outcome = Outcome::Stream(&[PROTOCOL_ERROR]);

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        of_frames::connections(),
        of_frames::streams(),
        of_frames::frames(),
        of_frames::settings(),
        of_frames::flow(),
        of_messages::messages(),
        of_messages::hpack(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
