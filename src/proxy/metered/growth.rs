//! The hold of a stream, which grows before it is used up.
//!
//! Growth is counted in tokens of output. The hold covers a number of tokens, and the stream has
//! used a number: those that were delivered, or those that the stream itself reports if that is
//! more. Once half of the last step is used, the gateway asks the ledger for another step, so that
//! the ledger's answer usually arrives before it is needed. If the ledger is late, the stream
//! pauses. If the account can pay no more, the stream ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::ledger::{Extended, Refusal};

/// The ledger's answer to a request for a larger hold. `Ok(None)`: the additional tokens cost
/// nothing, so the hold stays as it is.
pub(in crate::proxy) type Answered = Result<Option<Extended>, Refusal>;

type Asking = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// The growth of a stream's hold, in tokens of output.
pub(super) struct Growth {
    /// The tokens that the hold covers.
    covered: u64,
    /// The most tokens that the hold may cover. Tokens beyond that are the upstream's overrun.
    most: u64,
    /// The number of tokens that each request adds.
    step: u64,
    /// The tokens that the hold will cover once the ledger grants the pending request, and the
    /// future of the ledger's answer.
    asking: Option<(u64, Asking)>,
    /// Whether the account could not pay for a whole step.
    is_short: bool,
}

/// Whether a stream may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// The hold covers the delivered tokens.
    Enough,
    /// The ledger should be asked for a hold that covers this many tokens.
    Ask(u64),
    /// The ledger's answer must arrive before the stream goes on.
    Wait,
    /// The hold is used up, and the account can pay no more.
    UsedUp,
}

impl Growth {
    /// Creates the growth of a hold that covers `covered` tokens and may cover up to `most`.
    pub fn new(covered: u64, most: u64) -> Self {
        Self { covered, most, step: covered.max(1), asking: None, is_short: false }
    }

    /// Whether the hold may have to grow. If so, the stream may end early.
    pub fn can_grow(&self) -> bool {
        self.covered < self.most
    }

    /// The tokens that the hold covers.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Whether a stream may go on after `tokens` were delivered.
    pub fn room(&self, tokens: u64) -> Room {
        if !self.can_grow() {
            return Room::Enough;
        }
        let is_used_up = tokens > self.covered;
        if self.asking.is_some() {
            return if is_used_up { Room::Wait } else { Room::Enough };
        }
        if self.is_short {
            return if is_used_up { Room::UsedUp } else { Room::Enough };
        }
        if tokens.saturating_add(self.step / 2) <= self.covered {
            return Room::Enough;
        }
        Room::Ask(self.covered.max(tokens).saturating_add(self.step).min(self.most))
    }

    /// Records that the ledger was asked for a hold that covers `tokens`.
    pub fn asks(&mut self, tokens: u64, asking: Asking) {
        self.asking = Some((tokens, asking));
    }

    /// Ready with the ledger's answer; pending if the ledger was not asked.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        let Some((tokens, asking)) = &mut self.asking else { return Poll::Pending };
        let tokens = *tokens;
        let Poll::Ready(answered) = asking.as_mut().poll(cx) else { return Poll::Pending };
        self.asking = None;
        if answered.is_ok() {
            self.covered = tokens;
        }
        Poll::Ready(answered)
    }

    /// Records that the account could not pay for a step. With all of the account's credits the
    /// hold would cover `tokens`. Returns true if the caller should ask for such a hold. Otherwise
    /// the stream ends once its hold is used up.
    pub fn asks_for_the_rest(&mut self, tokens: u64) -> bool {
        !std::mem::replace(&mut self.is_short, true) && tokens > self.covered
    }

    /// Records that the account can pay no more.
    pub fn refused(&mut self) {
        self.is_short = true;
    }
}

impl std::fmt::Debug for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { covered, most, .. } = self;
        f.debug_struct("Growth").field("covered", covered).field("most", most).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(growth: &mut Growth, tokens: u64) {
        growth.asks(tokens, Box::pin(std::future::pending()));
    }

    #[test]
    fn more_is_asked_for_once_half_of_the_last_step_is_used() {
        let mut growth = Growth::new(100, 8000);
        assert_eq!(growth.room(0), Room::Enough);
        assert_eq!(growth.room(50), Room::Enough);
        assert_eq!(growth.room(51), Room::Ask(200));
        waiting(&mut growth, 200);
        assert_eq!(growth.room(100), Room::Enough, "the hold still covers this");
        assert_eq!(growth.room(101), Room::Wait);
        growth.asking = None;
        growth.covered = 200;
        assert_eq!(growth.room(150), Room::Enough);
        assert_eq!(growth.room(151), Room::Ask(300));
        assert_eq!(growth.room(5000), Room::Ask(5100), "a large part at once");
        assert_eq!(growth.room(7990), Room::Ask(8000));
        growth.covered = 8000;
        assert_eq!(growth.room(20_000), Room::Enough, "the upstream's overrun");
        assert!(!growth.can_grow());
    }

    #[test]
    fn an_account_that_is_short_gives_all_that_it_has_and_then_nothing() {
        let mut growth = Growth::new(100, 8000);
        assert!(growth.asks_for_the_rest(155));
        waiting(&mut growth, 155);
        assert_eq!(growth.room(101), Room::Wait);
        growth.asking = None;
        growth.covered = 155;
        assert_eq!(growth.room(155), Room::Enough);
        assert_eq!(growth.room(156), Room::UsedUp);
        assert!(!growth.asks_for_the_rest(156), "it was asked once");
        let mut growth = Growth::new(100, 8000);
        assert!(!growth.asks_for_the_rest(100), "nothing is left");
        assert_eq!(growth.room(101), Room::UsedUp);
    }
}
