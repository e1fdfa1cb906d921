//! The loop that handles one event of a call after the other.

use std::pin::pin;
use std::time::Instant;

use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{BError, Error, ErrorSource, ErrorType, Result};

use super::state::{Answer, Event, Relay, Request, STREAK, State};
use crate::price::OnClientAbort;
use crate::proxy::connect::{Connection, keeps_connection};
use crate::proxy::link::Link;
use crate::proxy::metered::Metered;

impl Relay<'_> {
    /// Passes on the rest of the call. Returns once the whole answer has been sent. The result is
    /// true if the upstream's answer was read to its end, so that its connection may serve another
    /// request.
    ///
    /// # Errors
    /// The error's source is the side that failed.
    pub async fn run(&mut self, connection: &mut Connection, mut state: State) -> Result<bool> {
        let Connection { session, link, .. } = connection;
        let ran = self.pass(session, link, &mut state).await;
        if let Err(error) = ran {
            // The part of the request that the client has delivered is still sent to the upstream.
            let _ = link.flush_now();
            return Err(error);
        }
        Ok(state.answer == Answer::Ended)
    }

    async fn pass(
        &mut self,
        session: &mut HttpSession,
        link: &Link,
        state: &mut State,
    ) -> Result<()> {
        let mut sleep = pin!(tokio::time::sleep_until(self.next_look(link, state).into()));
        loop {
            let is_tunnel = state.answer == Answer::Tunnel;
            // An upstream that closes its connection after its answer reads no more of the request.
            if state.answer == Answer::Ended
                && state.request == Request::Open
                && !keeps_connection(session)
            {
                state.request = Request::Discarded;
            }
            if self.has_ended(state) {
                return state.left.take().map_or(Ok(()), Err);
            }
            if state.reads_for_retry {
                self.stop_reading_in_vain(state)?;
            }
            let event = self.next_event(session, link, state, sleep.as_mut()).await;
            let handled = match event {
                Event::Head(Ok(())) => {
                    state.upstream_moved = Instant::now();
                    self.on_head(session, state)
                }
                Event::Head(Err(error)) => Err(state.upstream_failed(error)),
                Event::Part(Ok(Some(part))) => {
                    state.upstream_moved = Instant::now();
                    state.streak = if state.streak < STREAK { state.streak + 1 } else { 0 };
                    self.on_part(part, state)
                }
                Event::Part(Ok(None)) | Event::Request(Ok(None)) if is_tunnel => {
                    return self.end_tunnel(session, link).await;
                }
                Event::Part(Ok(None)) => self.end_answer(state),
                Event::Part(Err(error)) => Err(state.upstream_failed(error)),
                Event::Request(Ok(Some(part))) => {
                    state.streak = 0;
                    state.client_moved = Instant::now();
                    state.upstream_moved = state.client_moved;
                    self.on_request(session, state, &part);
                    Ok(())
                }
                Event::Request(Ok(None)) => {
                    self.end_request(session, state);
                    Ok(())
                }
                Event::Request(Err(error)) => Err(error),
                Event::MoreRequest => {
                    state.upstream_moved = Instant::now();
                    self.send_more(session, state);
                    Ok(())
                }
                Event::MoreAnswer => self.deliver_more(state),
                Event::Grown(extended) => self.on_grown(extended, state),
                Event::ClientFlushed(flushed) => {
                    state.upstream_moved = Instant::now();
                    flushed
                }
                Event::UpstreamFlushed(Ok(())) => {
                    state.client_moved = Instant::now();
                    state.upstream_moved = state.client_moved;
                    Ok(())
                }
                Event::UpstreamFlushed(Err(error)) => {
                    let sending = "sending the request";
                    state.request_broke(Error::because(ErrorType::WriteError, sending, error));
                    Ok(())
                }
                Event::Time => match self.is_over(link, state) {
                    Ok(true) => {
                        self.client.close_afterwards();
                        return Ok(());
                    }
                    Ok(false) => {
                        sleep.as_mut().reset(self.next_look(link, state).into());
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = handled {
                self.read_on(error, state)?;
            }
        }
    }

    /// Whether the call is over.
    fn has_ended(&self, state: &State) -> bool {
        match state.answer {
            Answer::CutShort => true,
            // Once the upstream has answered, a part of the request that is still in memory is not
            // sent any more. Over HTTP/1 the client may go on sending for a while after the
            // connection was shut down.
            Answer::Ended
                if state.request == Request::Ended
                    || state.unsent.as_ref().is_some_and(|body| body.is_whole)
                    || (state.request == Request::Discarded && !self.client.is_http2()) =>
            {
                let metered = self.call.metered.as_ref();
                state.left.is_some() || metered.is_none_or(|metered| metered.is_delivered())
            }
            _ => false,
        }
    }

    /// Decides, after the client has left, whether the answer is still read to its end.
    ///
    /// # Errors
    /// Returns `error` if the call ends here.
    fn read_on(&mut self, error: BError, state: &mut State) -> Result<()> {
        let is_client = *error.esource() == ErrorSource::Downstream;
        if !is_client || state.left.is_some() {
            return Err(error);
        }
        state.reads_for_retry = self.reads_for_retry(state);
        let metered = self.call.metered.as_deref_mut();
        if state.reads_for_retry {
            if let Some(metered) = metered {
                metered.drop_outbox();
            }
        } else if !metered.is_some_and(Metered::client_left) {
            return Err(error);
        }
        state.left = Some(error);
        Ok(())
    }

    /// Whether the answer is read to its end for a retry, now that the client has left.
    fn reads_for_retry(&mut self, state: &State) -> bool {
        let rule = &self.call.route.rule;
        if rule.on_client_abort == OnClientAbort::Release || state.answer == Answer::Tunnel {
            return false;
        }
        let has_head = self.client.answered().is_some();
        let Some(repeatable) = &mut self.call.repeatable else { return false };
        repeatable.client_left(has_head, self.call.hold.as_ref())
    }

    /// Stops reading an answer that was read only for a retry, if the answer can no longer be kept.
    /// A metered answer may still be read to its end for its usage.
    ///
    /// # Errors
    /// The error with which the client left, if the call ends here.
    fn stop_reading_in_vain(&mut self, state: &mut State) -> Result<()> {
        if self.call.repeatable.as_ref().is_some_and(|repeatable| repeatable.can_be_kept()) {
            return Ok(());
        }
        state.reads_for_retry = false;
        if self.call.metered.as_deref_mut().is_some_and(Metered::client_left) {
            return Ok(());
        }
        state.left.take().map_or(Ok(()), Err)
    }
}
