//! The hold of a stream, which grows before it is used up.
//!
//! Growth is counted in tokens of output. The hold covers a number of tokens, and the stream has
//! used a number: those that were delivered, or those that the stream itself reports if that is
//! more. Once half of the last step is used, the gateway asks the ledger for another step, so that
//! the ledger's answer usually arrives before it is needed. If the ledger is late, the stream
//! pauses. If the account can pay no more, the stream ends once its hold is used up.
//!
//! A ledger that is unavailable may have granted the step all the same. So the gateway asks for the
//! same step again, with the next part of the stream. The stream ends only if it needs the step
//! while the ledger is unavailable.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::ledger::{Extended, Refusal};

/// The ledger's answer to a request for a larger hold. `Ok(None)`: the additional tokens cost
/// nothing, so the hold stays as it is.
pub(in crate::proxy) type Answered = Result<Option<Extended>, Refusal>;

type Asking = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// A step of growth.
#[derive(Clone, Copy)]
struct Step {
    /// The tokens that the hold covers with the step.
    covers: u64,
    /// The tokens that the stream had used when the ledger was asked.
    used: u64,
}

/// The growth of a stream's hold, in tokens of output.
pub(super) struct Growth {
    /// The tokens that the hold covers.
    covered: u64,
    /// The most tokens that the hold may cover. Tokens beyond that are the upstream's overrun.
    most: u64,
    /// The number of tokens that each request adds.
    step: u64,
    /// The step that the ledger was asked for, and the future of its answer.
    asking: Option<(Step, Asking)>,
    /// The step that the ledger was asked for last, if it was unavailable then.
    unanswered: Option<Step>,
    /// Why the hold grows no more; `None` while it may grow.
    limit: Option<Limit>,
}

/// Why a hold grows no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Limit {
    /// The account has too few credits.
    Credits,
    /// The account is frozen.
    Frozen,
    /// The ledger is unavailable, or no longer has the hold: a failure of the gateway, whatever the
    /// account has.
    Ledger,
}

impl From<Refusal> for Limit {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Insufficient { .. } => Self::Credits,
            Refusal::Frozen => Self::Frozen,
            _ => Self::Ledger,
        }
    }
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
    /// The hold is used up, and grows no more.
    UsedUp(Limit),
}

impl Growth {
    /// Creates the growth of a hold that covers `covered` tokens and may cover up to `most`.
    pub fn new(covered: u64, most: u64) -> Self {
        let step = covered.max(1);
        Self { covered, most, step, asking: None, unanswered: None, limit: None }
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
        if let Some(Step { covers, used }) = self.unanswered {
            return if tokens > used { Room::Ask(covers) } else { Room::Enough };
        }
        if let Some(limit) = self.limit {
            return if is_used_up { Room::UsedUp(limit) } else { Room::Enough };
        }
        if tokens.saturating_add(self.step / 2) <= self.covered {
            return Room::Enough;
        }
        Room::Ask(self.covered.max(tokens).saturating_add(self.step).min(self.most))
    }

    /// Records that the ledger was asked for a hold that covers `covers` tokens. The stream has
    /// used `used` tokens.
    pub fn asks(&mut self, covers: u64, used: u64, asking: Asking) {
        self.asking = Some((Step { covers, used }, asking));
    }

    /// Ready with the ledger's answer; pending if the ledger was not asked.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        let Some((step, asking)) = &mut self.asking else { return Poll::Pending };
        let step = *step;
        let Poll::Ready(answered) = asking.as_mut().poll(cx) else { return Poll::Pending };
        self.asking = None;
        self.unanswered = (answered == Err(Refusal::Unavailable)).then_some(step);
        if answered.is_ok() {
            self.covered = step.covers;
        }
        Poll::Ready(answered)
    }

    /// Records that the account could not pay for a step. With all of the account's credits the
    /// hold would cover `tokens`. Returns true if the caller should ask for such a hold. Otherwise
    /// the stream ends once its hold is used up.
    pub fn asks_for_the_rest(&mut self, tokens: u64) -> bool {
        self.limit.replace(Limit::Credits).is_none() && tokens > self.covered
    }

    /// Records that the hold grows no more.
    pub fn ends(&mut self, limit: Limit) {
        (self.unanswered, self.limit) = (None, Some(limit));
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
        growth.asks(tokens, 0, Box::pin(std::future::pending()));
    }

    /// Asks for a hold that covers `covers` tokens, of which the ledger answers this.
    fn answered(growth: &mut Growth, covers: u64, used: u64, answer: Answered) {
        growth.asks(covers, used, Box::pin(std::future::ready(answer)));
        let polled = growth.poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert_eq!(polled, Poll::Ready(answer));
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
        assert_eq!(growth.room(156), Room::UsedUp(Limit::Credits));
        assert!(!growth.asks_for_the_rest(156), "it was asked once");
        let mut growth = Growth::new(100, 8000);
        assert!(!growth.asks_for_the_rest(100), "nothing is left");
        assert_eq!(growth.room(101), Room::UsedUp(Limit::Credits));
    }

    #[test]
    fn a_step_without_an_answer_is_asked_for_again_once_the_stream_goes_on() {
        let mut growth = Growth::new(100, 8000);
        answered(&mut growth, 200, 60, Err(Refusal::Unavailable));
        assert_eq!(growth.room(60), Room::Enough, "the ledger is not asked without end");
        assert_eq!(growth.room(61), Room::Ask(200));
        assert_eq!(growth.room(900), Room::Ask(200), "the ledger may have granted that step");
        answered(&mut growth, 200, 900, Ok(None));
        assert_eq!(growth.room(900), Room::Ask(1000));
        // The same for the rest of an account's credits: the account is not short of them.
        let mut growth = Growth::new(100, 8000);
        assert!(growth.asks_for_the_rest(155));
        answered(&mut growth, 155, 60, Err(Refusal::Unavailable));
        assert_eq!(growth.room(101), Room::Ask(155));
        answered(&mut growth, 155, 101, Ok(None));
        assert_eq!(growth.room(156), Room::UsedUp(Limit::Credits));
    }

    #[test]
    fn only_an_account_that_is_short_of_credits_is_called_so() {
        let available = crate::credits::SignedCredits::default();
        for (refusal, limit) in [
            (Refusal::Insufficient { available }, Limit::Credits),
            (Refusal::Frozen, Limit::Frozen),
            (Refusal::Unavailable, Limit::Ledger),
            (Refusal::UnknownHold, Limit::Ledger),
            (Refusal::Ended, Limit::Ledger),
            (Refusal::Conflict, Limit::Ledger),
            (Refusal::OutOfRange, Limit::Ledger),
        ] {
            let mut growth = Growth::new(100, 8000);
            assert!(growth.asks_for_the_rest(155));
            answered(&mut growth, 155, 101, Err(refusal));
            growth.ends(refusal.into());
            assert_eq!(growth.room(100), Room::Enough);
            assert_eq!(growth.room(101), Room::UsedUp(limit), "{refusal}");
        }
    }
}
