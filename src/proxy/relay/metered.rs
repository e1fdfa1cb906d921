//! The answer of a metered call on its way to the client.

use http::{Method, StatusCode, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::state::{Answer, PIECE, Relay, State};
use crate::meter::Piece;
use crate::proxy::headers::{self, Told};
use crate::proxy::metered::{Answered, Fed, Limit};
use crate::proxy::{reply, settle};

impl Relay<'_> {
    /// Handles the upstream's final head. `length` is the length of the body, if the head declares
    /// it.
    pub(super) fn on_metered_head(
        &mut self,
        mut head: ResponseHeader,
        is_whole: bool,
        length: Option<u64>,
        state: &mut State,
    ) -> Result<()> {
        let Some(metered) = self.call.metered.as_deref_mut() else { return Ok(()) };
        headers::one_framing(&mut head)?;
        state.answer = if is_whole { Answer::Ended } else { Answer::Body(length) };
        let is_charged = self.call.route.rule.charges_for(head.status.as_u16());
        let is_partial =
            head.status == StatusCode::PARTIAL_CONTENT || self.call.method == Method::HEAD;
        let mut is_read = state.left.is_none();
        if let Some(repeatable) = &mut self.call.repeatable {
            repeatable.record_head(&head, !is_whole, is_charged);
            is_read |= repeatable.can_be_kept();
        }
        let begun = metered.begin_answer(head, is_charged, !is_whole, length, is_partial, is_read);
        let Some(mut head) = begun else { return Ok(()) };
        if is_whole {
            settle::answer_ended(self.call, self.about, self.figures);
        } else if metered.changes_length() {
            head.remove_header(&header::CONTENT_LENGTH);
            // The last part of a stream must be paid for as well, before the stream ends.
            state.answer = Answer::Body(None);
        }
        let told = self.told();
        self.write_metered_head(head, told, is_whole, state)
    }

    /// The credits that are shown in the head of the answer.
    fn told(&self) -> Told {
        let Some(metered) = &self.call.metered else { return Told::Nothing };
        match (metered.charged(), &self.call.hold) {
            (Some(charged), _) if charged.cost.is_zero() => Told::Nothing,
            (Some(charged), _) => {
                Told::Charged { cost: charged.cost, remaining: Some(charged.remaining) }
            }
            (None, Some(hold)) if metered.is_held() => Told::Held(hold.amount()),
            (None, _) => Told::Nothing,
        }
    }

    fn write_metered_head(
        &mut self,
        mut head: ResponseHeader,
        told: Told,
        is_whole: bool,
        state: &State,
    ) -> Result<()> {
        if state.left.is_some() {
            return Ok(());
        }
        headers::towards_client(&mut head, self.about, told)?;
        if !is_whole {
            headers::frame_answer(&mut head)?;
        }
        reply::frame_for_client(self.client, &mut head);
        self.cors.mark(&mut head, self.about.origin.as_ref())?;
        self.send_head(head, is_whole)
    }

    /// Handles a part of the answer. `is_last` is true if nothing follows it.
    pub(super) fn on_metered_part(
        &mut self,
        part: &[u8],
        is_last: bool,
        state: &mut State,
    ) -> Result<()> {
        let Some(metered) = self.call.metered.as_deref_mut() else { return Ok(()) };
        if is_last {
            state.answer = Answer::Ended;
        }
        let fed = metered.feed(part, is_last);
        match fed {
            Fed::Passes => {
                if is_last {
                    settle::answer_ended(self.call, self.about, self.figures);
                }
                self.deliver(part, is_last, state)
            }
            Fed::IsKept if is_last => self.end_kept(state).map(drop),
            Fed::IsKept => Ok(()),
            Fed::Overflows(head) => {
                self.record_outbox(&head, state);
                let told = self.told();
                if is_last {
                    settle::answer_ended(self.call, self.about, self.figures);
                }
                self.write_metered_head(*head, told, false, state)
            }
            fed => self.on_fed(fed, state),
        }
    }

    /// Passes on pieces of a stream, or ends the stream.
    fn on_fed(&mut self, fed: Fed, state: &mut State) -> Result<()> {
        match fed {
            Fed::Pieces(pieces) => {
                self.ask_for_more();
                self.deliver_pieces(&pieces, state)
            }
            Fed::UsedUp(limit) => self.end_used_up(limit, state),
            _ => {
                self.ask_for_more();
                Ok(())
            }
        }
    }

    fn ask_for_more(&mut self) {
        if let (Some(metered), Some(hold)) = (self.call.metered.as_deref_mut(), &self.call.hold) {
            metered.ask_for_more(hold);
        }
    }

    /// Handles the ledger's answer on whether a stream's hold may grow.
    pub(super) fn on_grown(&mut self, answered: Answered, state: &mut State) -> Result<()> {
        let (Some(metered), Some(hold)) =
            (self.call.metered.as_deref_mut(), self.call.hold.as_mut())
        else {
            return Ok(());
        };
        let was_paused = metered.is_paused();
        let fed = metered.grown(answered, hold);
        if was_paused {
            state.upstream_moved = std::time::Instant::now();
        }
        self.on_fed(fed, state)
    }

    /// Handles the end of an answer that declared no length.
    pub(super) fn end_metered_answer(&mut self, state: &mut State) -> Result<()> {
        state.answer = Answer::Ended;
        let Some(metered) = self.call.metered.as_deref_mut() else { return Ok(()) };
        let mut pieces = Vec::new();
        metered.end_answer(&mut pieces);
        if self.end_kept(state)? {
            return Ok(());
        }
        settle::answer_ended(self.call, self.about, self.figures);
        self.deliver_pieces(&pieces, state)?;
        self.deliver(&[], true, state)
    }

    /// Charges an answer that was kept until its end, and sends the answer with its cost. Returns
    /// false if no answer was kept.
    fn end_kept(&mut self, state: &mut State) -> Result<bool> {
        let Some(metered) = self.call.metered.as_deref_mut() else { return Ok(false) };
        let Some(mut head) = metered.take_kept() else { return Ok(false) };
        let length = metered.kept_bytes();
        self.record_outbox(&head, state);
        settle::answer_ended(self.call, self.about, self.figures);
        head.remove_header(&header::TRANSFER_ENCODING);
        head.insert_header(header::CONTENT_LENGTH, length)?;
        let told = self.told();
        self.write_metered_head(head, told, false, state)?;
        Ok(true)
    }

    /// Ends a stream whose hold is used up and grows no more.
    fn end_used_up(&mut self, limit: Limit, state: &mut State) -> Result<()> {
        state.answer = Answer::CutShort;
        let Some(metered) = self.call.metered.as_deref() else { return Ok(()) };
        let event = metered.error_event(limit, self.about.language);
        if let Some(repeatable) = self.call.repeatable.as_mut().filter(|_| event.is_none()) {
            repeatable.give_up();
        }
        settle::cut_short(self.call, self.about, self.figures);
        match event {
            Some(event) => self.deliver(&event, true, state),
            // The client must see that the answer is not whole.
            None => {
                let ends = "the hold of an encoded stream is used up and grows no more";
                Err(Error::explain(ErrorType::ConnectionClosed, ends).into_down())
            }
        }
    }

    /// Records the part of the answer that is in memory, which is the whole answer so far. The head
    /// is recorded here as well, because recording may have begun only after the head arrived. If
    /// the client has left, the part in memory is then dropped.
    fn record_outbox(&mut self, head: &ResponseHeader, state: &State) {
        let Some(metered) = self.call.metered.as_deref_mut() else { return };
        if let Some(repeatable) = &mut self.call.repeatable {
            repeatable.record_head(head, true, true);
            repeatable.record(metered.outbox());
        }
        if state.left.is_some() {
            metered.drop_outbox();
        }
    }

    fn deliver_pieces(&mut self, pieces: &[Piece], state: &State) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => self.deliver(bytes, false, state)?,
                Piece::Report => {
                    settle::usage_known(self.call, self.about);
                    let report = self.call.metered.as_ref().and_then(|metered| metered.report());
                    if let Some(report) = report {
                        self.deliver(report.as_bytes(), false, state)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends the next piece of an answer that is in memory. The client has room for it.
    pub(super) fn deliver_more(&mut self, state: &mut State) -> Result<()> {
        let next = self.call.metered.as_deref_mut().and_then(|metered| metered.next_piece(PIECE));
        let Some((piece, ends)) = next else { return Ok(()) };
        state.upstream_moved = std::time::Instant::now();
        self.send_part(&piece, ends, state)
    }

    fn deliver(&mut self, part: &[u8], end: bool, state: &State) -> Result<()> {
        self.record(part);
        self.send_part(part, end, state)
    }
}
