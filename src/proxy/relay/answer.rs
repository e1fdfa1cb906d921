//! The answer on its way to the client.

use std::future::poll_fn;

use bytes::Bytes;
use http::StatusCode;
use http::header::TRANSFER_ENCODING;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::state::{Answer, Relay, Request, State};
use crate::price::OnClientAbort;
use crate::proxy::client::DRAIN_TIMEOUT;
use crate::proxy::headers::{self, Told};
use crate::proxy::link::Link;
use crate::proxy::retries::Last;
use crate::proxy::{reply, settle};

impl Relay<'_> {
    /// Handles the upstream's next head.
    pub(super) fn on_head(&mut self, session: &mut HttpSession, state: &mut State) -> Result<()> {
        let Some(theirs) = session.resp_header() else {
            return Error::e_explain(ErrorType::InternalError, "a head is missing");
        };
        let mut head = theirs.clone();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // A 101 is valid only if both the client and the request that was sent upstream asked
            // for an upgrade.
            if !session.was_upgraded() || !self.client.asks_for_upgrade() {
                let unasked = "101 for a request without upgrade";
                return Err(Error::explain(ErrorType::InvalidHTTPHeader, unasked).into_up());
            }
        } else if head.status.is_informational() {
            headers::drop_ours(&mut head);
            head.set_version(http::Version::HTTP_11);
            return if state.left.is_some() { Ok(()) } else { self.client.write_interim(head) };
        }
        let frees_aborts = self.call.route.rule.on_client_abort == OnClientAbort::Release;
        if frees_aborts && self.client.has_left() {
            let left = Error::explain(ErrorType::ConnectionClosed, "the client has left");
            return Err(left.into_down());
        }
        let status = head.status.as_u16();
        self.call.status = Some(status);
        if state.left.is_none() {
            self.figures.status = Some(status);
        }
        let is_whole = session.is_body_done();
        if self.call.metered.is_some() && status != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
            return self.on_metered_head(head, is_whole, missing(session), state);
        }
        self.write_head(head, is_whole, state)?;
        if status == StatusCode::SWITCHING_PROTOCOLS.as_u16() {
            state.answer = Answer::Tunnel;
            state.request = Request::Open;
            // A tunnel is charged when it opens, so that no stop or crash that cuts it gives the
            // credits back.
            settle::settle(self.call, self.about, None, false);
        } else if is_whole {
            state.answer = Answer::Ended;
            settle::answer_ended(self.call, self.about, self.figures);
        } else {
            state.answer = Answer::Body(missing(session));
        }
        Ok(())
    }

    /// Turns the upstream's final head into the client's, and sends it.
    fn write_head(
        &mut self,
        mut head: ResponseHeader,
        is_whole: bool,
        state: &State,
    ) -> Result<()> {
        let is_charged = self.call.route.rule.charges_for(head.status.as_u16());
        if let Some(repeatable) = &mut self.call.repeatable {
            headers::one_framing(&mut head)?;
            repeatable.record_head(&head, !is_whole, is_charged);
        }
        if state.left.is_some() {
            return Ok(());
        }
        let told = Told::fixed(self.call.hold.as_ref(), is_charged);
        headers::towards_client(&mut head, self.about, told)?;
        if !is_whole {
            headers::frame_answer(&mut head)?;
        }
        reply::frame_for_client(self.client, &mut head);
        self.cors.mark(&mut head, self.about.origin.as_ref())?;
        self.send_head(head, is_whole)
    }

    /// Sends the client a head. If the answer has no body and is kept for a retry, the head is sent
    /// only after the charge.
    pub(super) fn send_head(&mut self, head: ResponseHeader, is_whole: bool) -> Result<()> {
        match self.call.repeatable.as_mut().filter(|repeatable| is_whole && repeatable.keeps()) {
            Some(repeatable) => {
                repeatable.send_later(Last::Head(Box::new(head)));
                Ok(())
            }
            None => self.client.write_head(head, is_whole),
        }
    }

    /// Sends the client a part of the answer, unless the client has left. If the answer is kept for
    /// a retry, its last part is sent only after the charge.
    pub(super) fn send_part(&mut self, part: &[u8], end: bool, state: &State) -> Result<()> {
        if state.left.is_some() {
            return Ok(());
        }
        match self.call.repeatable.as_mut().filter(|repeatable| end && repeatable.keeps()) {
            Some(repeatable) => {
                repeatable.send_later(Last::Part(Bytes::copy_from_slice(part)));
                Ok(())
            }
            None => self.client.write_body(part, end),
        }
    }

    /// Records a part of an answer that may be kept for a retry.
    pub(super) fn record(&mut self, part: &[u8]) {
        if let Some(repeatable) = &mut self.call.repeatable {
            repeatable.record(part);
        }
    }

    /// Handles a part of the answer.
    pub(super) fn on_part(&mut self, part: &[u8], state: &mut State) -> Result<()> {
        if let Answer::Body(Some(missing)) = &mut state.answer {
            *missing = missing.saturating_sub(part.len() as u64);
        }
        let is_last = state.answer == Answer::Body(Some(0));
        if self.call.metered.is_some() {
            return self.on_metered_part(part, is_last, state);
        }
        self.record(part);
        if is_last {
            // The call is charged before its client can have the whole answer.
            state.answer = Answer::Ended;
            settle::answer_ended(self.call, self.about, self.figures);
        }
        self.send_part(part, is_last, state)
    }

    /// Handles the end of an answer that declared no length.
    pub(super) fn end_answer(&mut self, state: &mut State) -> Result<()> {
        if self.call.metered.is_some() {
            return self.end_metered_answer(state);
        }
        state.answer = Answer::Ended;
        settle::answer_ended(self.call, self.about, self.figures);
        self.send_part(&[], true, state)
    }

    /// Ends a tunnel after one side has ended it: the bytes on their way are sent, and both
    /// connections are closed.
    pub(super) async fn end_tunnel(
        &mut self,
        session: &mut HttpSession,
        link: &Link,
    ) -> Result<()> {
        self.client.close_afterwards();
        session.maybe_upgrade_body_writer();
        let sent = poll_fn(|cx| link.poll_flush(cx));
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, sent).await;
        self.client.write_body(&[], true)
    }
}

/// How many bytes of an answer's body are still to come; `None` if the head does not say.
fn missing(session: &HttpSession) -> Option<u64> {
    let headers = &session.resp_header()?.headers;
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    // Pingora has checked that the header is one number, or the same number several times.
    let length = headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?;
    length.split(',').next()?.trim().parse().ok()
}
