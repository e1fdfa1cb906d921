//! The request on its way to the upstream.

use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{ErrorType, Result};
use pingora_http::RequestHeader;

use super::state::{Answer, PIECE, Relay, Request, State};
use crate::proxy::body::Buffered;
use crate::proxy::client::at_once;
use crate::proxy::connect::Connection;

impl Relay<'_> {
    /// Sends the head, and the part of the body that is already in memory. If that part is large,
    /// sends only its first piece.
    ///
    /// # Errors
    /// The error's source is the side that failed.
    pub fn send(
        &mut self,
        connection: &mut Connection,
        head: Box<RequestHeader>,
        body: &mut Buffered,
    ) -> Result<State> {
        let session = &mut connection.session;
        let (mut state, mut body) = (State::begin(), std::mem::take(body));
        // If the head cannot be written, no byte of the request was sent.
        at_once(session.write_request_header(head)).map_err(|error| match error.etype() {
            ErrorType::InvalidHTTPHeader => error.into_down(),
            _ => error.into_up(),
        })?;
        self.call.sent.begin();
        if body.bytes.len() > PIECE {
            let piece = body.bytes.split_to(PIECE);
            self.pass_on(session, &mut state, &piece);
            if state.request == Request::Open {
                state.unsent = Some(Box::new(body));
            }
            return Ok(state);
        }
        if !body.bytes.is_empty() {
            self.pass_on(session, &mut state, &body.bytes);
        }
        if body.is_whole || self.client.is_body_done() {
            self.end_request(session, &mut state);
        }
        Ok(state)
    }

    /// Sends the next piece of the body that is already in memory.
    pub(super) fn send_more(&mut self, session: &mut HttpSession, state: &mut State) {
        let Some(mut body) = state.unsent.take() else { return };
        let piece = body.bytes.split_to(PIECE.min(body.bytes.len()));
        self.pass_on(session, state, &piece);
        if !body.bytes.is_empty() {
            if state.request == Request::Open {
                state.unsent = Some(body);
            }
        } else if body.is_whole || self.client.is_body_done() {
            self.end_request(session, state);
        }
    }

    /// Handles a part of the request's body.
    pub(super) fn on_request(&mut self, session: &mut HttpSession, state: &mut State, part: &[u8]) {
        if state.answer == Answer::Tunnel {
            session.maybe_upgrade_body_writer();
        }
        if let Some(repeatable) = &mut self.call.repeatable {
            repeatable.hash(part);
        }
        if state.request == Request::Open {
            self.pass_on(session, state, part);
        }
        if state.answer != Answer::Tunnel && self.client.is_body_done() {
            self.end_request(session, state);
        }
    }

    /// Sends a part of the request's body.
    fn pass_on(&mut self, session: &mut HttpSession, state: &mut State, part: &[u8]) {
        // An empty chunk would end the body.
        if part.is_empty() {
            return;
        }
        self.call.sent.add(part.len(), false);
        if let Err(error) = at_once(session.write_body(part)) {
            state.request_broke(error);
        }
    }

    /// Handles the end of the request's body.
    pub(super) fn end_request(&mut self, session: &mut HttpSession, state: &mut State) {
        if state.request == Request::Open {
            match at_once(session.finish_body()) {
                Ok(_) => self.call.sent.add(0, true),
                Err(error) => state.request_broke(error),
            }
        }
        if let Some(repeatable) = &mut self.call.repeatable {
            repeatable.request_ended(self.call.hold.as_ref());
        }
        state.request = Request::Ended;
    }
}
