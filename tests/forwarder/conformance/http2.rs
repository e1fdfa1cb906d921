//! HTTP/2: frames in, and what must come of them.

use std::time::{Duration, Instant};

use super::http2_cases::cases;
use super::server::Server;
use crate::support::frames::{
    ACK, DATA, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    frame, number,
};
use crate::support::h2::connect;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The outcome that a case must have.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Stream 1 is answered to its end, this number of whole requests with this body reaches the upstream, and the
    /// connection goes on.
    Served(usize, Vec<u8>),
    /// Stream 1 is answered with an error, which its head ends, and is not reset.
    RefusedByHead,
    /// The connection goes on, whatever came of the stream.
    Ignored,
    /// The connection ends, with GOAWAY of one of these codes or without.
    Connection(&'static [u32]),
    /// A stream is reset with one of these codes, or answered with an error (RFC 9113, 8.1.1), or the
    /// connection ends. Nothing whole reaches the upstream.
    Stream(&'static [u32]),
    /// Like [`Self::Stream`], after another stream that was rightly served.
    StreamAfter(&'static [u32]),
}

/// A case.
pub struct Case {
    /// The RFC and its section.
    pub section: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Whether the case goes without the preface and the settings that begin a connection.
    pub is_bare: bool,
    pub outcome: Outcome,
    /// Why Farebox is known to do something else.
    pub known: Option<&'static str>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_read_as_the_rfcs_say() {
    let server = Server::start(true).await;
    let mut wrong = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        let failed = run(&server, number, case).await.err();
        let told = format!("RFC {} {}", case.section, case.name);
        match (failed, case.known) {
            (None, None) | (Some(_), Some(_)) => {}
            (Some(why), None) => wrong.push(format!("{told}: {why}")),
            (None, Some(_)) => wrong.push(format!("{told}: it is right now, and no longer KNOWN")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.assert_sound();
}

/// The outcome of a case so far.
#[derive(Debug, Default)]
struct Seen {
    /// Stream 1 was answered with 200, to its end.
    is_served: bool,
    has_ok: bool,
    /// A stream was answered with another status.
    has_error: bool,
    /// Whether the head of that answer ended the stream.
    has_error_ended: bool,
    reset: Option<u32>,
    goaway: Option<u32>,
    is_closed: bool,
    /// The answer to a PING of ours.
    has_pong: bool,
}

impl Seen {
    fn note(&mut self, frame: &Frame) {
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            HEADERS => {
                // Static index 8 is `:status: 200` (RFC 7541, appendix A); an update of the table's
                // size may stand before it.
                let status = frame.payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                if status == Some(&0x88) {
                    self.has_ok |= frame.stream == 1;
                    self.is_served |= ends && frame.stream == 1;
                } else {
                    self.has_error = true;
                    self.has_error_ended |= ends;
                }
            }
            DATA if frame.stream == 1 => self.is_served |= ends && self.has_ok,
            RST_STREAM => self.reset = Some(number(&frame.payload)),
            GOAWAY => self.goaway = Some(number(&frame.payload[4..])),
            PING => self.has_pong |= frame.flags & ACK != 0 && frame.payload == b"our ping",
            _ => {}
        }
    }

    /// Whether a stream was refused with one of these codes, or the connection was.
    fn is_refused(&self, codes: &[u32]) -> bool {
        let is_one = |code: Option<u32>| code.is_some_and(|code| codes.contains(&code));
        is_one(self.reset) || is_one(self.goaway) || self.has_error || self.is_closed
    }
}

async fn run(server: &Server, case_number: usize, case: &Case) -> Result<(), String> {
    let mark = format!("/h{}/", case.name.replace(' ', "-"));
    let public = server.gateway.public();
    let stream = connect(public, &server.certificate, &["h2"]).await.map_err(|e| e.to_string())?;
    let mut wire = Frames::over(stream);
    let mut bytes = Vec::new();
    if !case.is_bare {
        bytes.extend(PREFACE);
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
    }
    bytes.extend(&case.bytes);
    // The other end may have hung up in the meantime.
    let _ = wire.send(&bytes).await;
    let mut seen = Seen::default();
    let limit = Instant::now() + PATIENCE;
    let mut has_pinged = false;
    loop {
        let is_done = match &case.outcome {
            Outcome::Served(..) => seen.is_served && seen.has_pong,
            Outcome::Ignored => seen.has_pong,
            Outcome::RefusedByHead => seen.has_error && seen.has_pong,
            Outcome::Connection(_) => seen.is_closed,
            Outcome::Stream(codes) | Outcome::StreamAfter(codes) => seen.is_refused(codes),
        };
        if is_done || seen.is_closed {
            break;
        }
        let wants_pong = match &case.outcome {
            Outcome::Served(..) => seen.is_served,
            Outcome::Ignored => true,
            Outcome::RefusedByHead => seen.has_error,
            _ => false,
        };
        if wants_pong && !has_pinged {
            has_pinged = true;
            let _ = wire.send(&frame(PING, 0, 0, b"our ping")).await;
        }
        let left = limit.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, wire.frame()).await {
            Ok(Some(frame)) => seen.note(&frame),
            Ok(None) => seen.is_closed = true,
            Err(_) => return Err(format!("nothing comes any more: {seen:?}")),
        }
    }
    let whole = server.whole(&mark);
    let told = || format!("{seen:?}, and {} whole requests (case {case_number})", whole.len());
    let is_right = match &case.outcome {
        Outcome::Served(count, body) => {
            seen.is_served
                && seen.has_pong
                && whole.len() == *count
                && whole.iter().all(|(_, b)| b == body)
        }
        Outcome::Ignored => seen.has_pong,
        Outcome::RefusedByHead => seen.has_error_ended && seen.reset.is_none(),
        Outcome::Connection(codes) => seen.goaway.is_none_or(|code| codes.contains(&code)),
        Outcome::Stream(codes) => seen.is_refused(codes) && whole.is_empty(),
        Outcome::StreamAfter(codes) => seen.is_refused(codes),
    };
    if is_right { Ok(()) } else { Err(told()) }
}
