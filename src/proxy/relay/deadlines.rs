//! The limits on how long each side may be silent.

use std::time::{Duration, Instant};

use pingora_error::{Error, ErrorType, Result};

use super::state::{Answer, Relay, Request, Silences, State};
use crate::proxy::client::{DRAIN_TIMEOUT, WRITE_TIMEOUT};
use crate::proxy::link::Link;

impl Relay<'_> {
    /// Whether the client's silence counts. It does while the relay waits for more of the request's
    /// body. A tunnel may be silent.
    fn awaits_client(&self, link: &Link, state: &State) -> bool {
        let is_open = state.request == Request::Open && state.answer != Answer::Tunnel;
        is_open && state.unsent.is_none() && !link.is_blocked()
    }

    /// Whether the upstream's silence counts. It does unless the answer has ended, the relay is not
    /// reading it, or one side does not take the bytes that it is sent.
    fn awaits_upstream(&mut self, link: &Link, state: &State) -> bool {
        let is_paused = self.call.metered.as_ref().is_some_and(|metered| metered.is_paused());
        let is_read = !is_paused && (state.left.is_some() || !self.client.is_blocked());
        state.answer != Answer::Ended && is_read && !link.is_blocked()
    }

    /// The time since which the client has taken nothing of its answer.
    fn client_blocked_since(&mut self, state: &State) -> Option<Instant> {
        if state.left.is_some() { None } else { self.client.halves().1.blocked_since() }
    }

    /// Whether the call is over now, because the rest of its request took too long to arrive.
    ///
    /// # Errors
    /// One side has been silent, or has taken no bytes, for too long.
    pub(super) fn is_over(&mut self, link: &Link, state: &mut State) -> Result<bool> {
        let Silences { upstream, client } = self.silences;
        let is_due = |since: Instant, limit: Duration| since.elapsed() >= limit;
        let blocked = self.client_blocked_since(state);
        if blocked.is_some_and(|since| is_due(since, WRITE_TIMEOUT)) {
            return Err(Error::new(ErrorType::WriteTimedout).into_down());
        }
        if link.blocked_since().is_some_and(|since| is_due(since, upstream)) {
            return Err(Error::new(ErrorType::WriteTimedout).into_up());
        }
        if self.awaits_upstream(link, state) && is_due(state.upstream_moved, upstream) {
            let silent = Error::explain(ErrorType::ReadTimedout, "the upstream was silent");
            return Err(state.upstream_failed(silent));
        }
        if self.awaits_client(link, state) && is_due(state.client_moved, client) {
            let silent = Error::explain(ErrorType::ReadTimedout, "the request stopped arriving");
            return Err(silent.into_down());
        }
        Ok(self.drains_since(state).is_some_and(|since| is_due(since, DRAIN_TIMEOUT)))
    }

    /// The time since which only the rest of a request is read, which nobody needs any more.
    fn drains_since(&self, state: &State) -> Option<Instant> {
        let drains = state.answer == Answer::Ended && state.request == Request::Discarded;
        self.figures.ended.filter(|_| drains)
    }

    /// The time at which the deadlines must be checked next. A deadline that begins in the meantime
    /// cannot be nearer than the shortest limit.
    pub(super) fn next_look(&mut self, link: &Link, state: &State) -> Instant {
        let Silences { upstream, client } = self.silences;
        let mut next = Instant::now() + upstream.min(client).min(DRAIN_TIMEOUT);
        let mut consider = |since: Option<Instant>, limit: Duration| {
            if let Some(deadline) = since.and_then(|since| since.checked_add(limit)) {
                next = next.min(deadline);
            }
        };
        consider(self.client_blocked_since(state), WRITE_TIMEOUT);
        consider(link.blocked_since(), upstream);
        if self.awaits_upstream(link, state) {
            consider(Some(state.upstream_moved), upstream);
        }
        if self.awaits_client(link, state) {
            consider(Some(state.client_moved), client);
        }
        consider(self.drains_since(state), DRAIN_TIMEOUT);
        next
    }
}
