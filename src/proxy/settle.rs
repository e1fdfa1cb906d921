//! The end of a call: the decision whether its hold is charged, and the error that its client is
//! sent.

use std::time::Instant;

use pingora_error::{Error, ErrorSource, ErrorType};

use super::call::{About, Figures, Forwarded};
use super::metered::{Metered, MeteredRoute, Settled};
use super::retries::Repeatable;
use crate::app::{Usage, log_usage};
use crate::credits::Credits;
use crate::ledger::{Hold, Overrun, Settlement};
use crate::price::OnClientAbort;
use crate::problem::Problem;

/// Whether a call is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Charge,
    Release,
}

/// Charges or releases the call's hold, unless the call is already settled. `client_stalled` is
/// true if the client has recently delayed a write of its answer by a second or more.
pub(super) fn settle(
    call: &mut Forwarded,
    about: &About,
    error: Option<&Error>,
    client_stalled: bool,
) {
    let Some(hold) = call.hold.take() else { return count_free(call, about) };
    let rule = &call.route.rule;
    let failure = error.map(|error| failing_side(error, call.sent.has_ended(), client_stalled));
    let answer = call.status.map(|status| Answer {
        is_charged: rule.charges_for(status),
        is_tunnel: status == 101,
        is_whole: call.is_whole,
        has_usage: call.metered.as_ref().is_some_and(|metered| metered.has_final_usage()),
    });
    let mut repeatable = call.repeatable.as_deref_mut();
    let is_broken_off = error.is_some() && !answer.is_some_and(Answer::is_complete);
    if let Some(repeatable) = repeatable.as_mut().filter(|_| is_broken_off) {
        repeatable.give_up();
    }
    match (judge(failure, answer, call.sent.counts(), rule.on_client_abort), &mut call.metered) {
        (Verdict::Release, _) => hold.release(),
        (Verdict::Charge, None) => charge(hold, repeatable, about),
        (Verdict::Charge, Some(metered)) => {
            let counters = call.route.metered.as_ref();
            charge_usage(hold, metered, repeatable, call.is_whole, counters, about);
        }
    }
}

/// Charges a hold. If the answer is kept for a retry, the charge waits until the answer is stored.
fn capture(hold: Hold, repeatable: Option<&mut Repeatable>, settlement: Settlement) {
    match repeatable.filter(|repeatable| repeatable.keeps()) {
        Some(repeatable) => repeatable.charge_later(hold, settlement),
        None => {
            hold.settle(settlement);
        }
    }
}

fn charge(hold: Hold, repeatable: Option<&mut Repeatable>, about: &About) {
    log_usage(&Usage {
        account: hold.account(),
        route: hold.route(),
        model: None,
        cost: hold.amount(),
        available_after: hold.after().available(),
        request_id: about.id.as_str(),
    });
    let (amount, overrun, usage) = (hold.amount(), Overrun::Cap, None);
    capture(hold, repeatable, Settlement { amount, overrun, usage });
}

/// Charges a metered call for its usage.
fn charge_usage(
    hold: Hold,
    metered: &mut Metered,
    repeatable: Option<&mut Repeatable>,
    is_whole: bool,
    counters: Option<&MeteredRoute>,
    about: &About,
) {
    let held = hold.amount();
    let cost = metered.cost(is_whole, held);
    if let Some(counters) = counters {
        counters.count(&metered.terms.label, &cost, about.id.as_str());
    }
    let (account, route) = (hold.account().clone(), hold.route().to_owned());
    let before = hold.after().available().checked_add(held.signed());
    let record = metered.record(&cost, held);
    let settlement =
        Settlement { amount: cost.credits, overrun: cost.overrun, usage: Some(record) };
    let charged = settlement.charge(held);
    capture(hold, repeatable, settlement);
    let remaining = before.and_then(|before| before.checked_sub(charged.signed()));
    let remaining = remaining.unwrap_or_default();
    if !charged.is_zero() {
        log_usage(&Usage {
            account: &account,
            route: &route,
            model: metered.terms.model.as_deref(),
            cost: charged,
            available_after: remaining,
            request_id: about.id.as_str(),
        });
    }
    metered.settled(Settled { cost: charged, remaining, usage: cost.usage });
}

/// Counts the usage of a call of a free model.
fn count_free(call: &mut Forwarded, about: &About) {
    let is_counted = call.is_whole && call.status.is_some_and(|s| call.route.rule.charges_for(s));
    let (Some(metered), Some(counters)) = (call.metered.as_deref_mut(), &call.route.metered) else {
        return;
    };
    if is_counted && metered.is_free() && metered.charged().is_none() {
        let cost = metered.cost(true, Credits::ZERO);
        counters.count(&metered.terms.label, &cost, about.id.as_str());
        metered.settled(Settled::default());
    }
}

/// Settles a call whose answer's body has ended, or which has no body. The call is settled at once,
/// so that no later event takes the charge back.
pub(super) fn answer_ended(call: &mut Forwarded, about: &About, figures: &mut Figures) {
    call.is_whole = true;
    figures.ended = Some(Instant::now());
    settle(call, about, None, false);
}

/// Settles a stream whose last event has arrived. Its usage is known, although its body has not
/// ended.
pub(super) fn usage_known(call: &mut Forwarded, about: &About) {
    call.is_whole = true;
    settle(call, about, None, false);
}

/// Settles a stream that ends early for its client. The delivered part is charged.
pub(super) fn cut_short(call: &mut Forwarded, about: &About, figures: &mut Figures) {
    figures.ended = Some(Instant::now());
    settle(call, about, None, false);
}

/// The facts of an upstream's answer that the rules need.
#[derive(Clone, Copy)]
struct Answer {
    is_charged: bool,
    is_tunnel: bool,
    /// Whether the body has ended.
    is_whole: bool,
    /// Whether a metered stream has reported its final usage.
    has_usage: bool,
}

impl Answer {
    /// Whether the answer is whole, or its final usage is known. Nothing that could still arrive
    /// changes the price.
    const fn is_complete(self) -> bool {
        self.is_whole || self.has_usage
    }
}

/// The side at fault for an error. Two errors of the upstream are the client's fault: the upstream
/// is silent because the client has not sent the rest of its request, and the upstream breaks off
/// because the client did not read.
fn failing_side(error: &Error, request_ended: bool, client_stalled: bool) -> &ErrorSource {
    let is_upstream = *error.esource() == ErrorSource::Upstream;
    if is_waiting_for_client(error, request_ended) || is_upstream && client_stalled {
        &ErrorSource::Downstream
    } else {
        error.esource()
    }
}

fn is_waiting_for_client(error: &Error, request_ended: bool) -> bool {
    !request_ended && *error.etype() == ErrorType::ReadTimedout
}

/// Decides whether a call is charged. `failure` is the side at fault, if the call failed.
/// `request_sent` says whether the request counts as sent
/// ([`Sent::counts`](super::body::Sent::counts)).
fn judge(
    failure: Option<&ErrorSource>,
    answer: Option<Answer>,
    request_sent: bool,
    on_client_abort: OnClientAbort,
) -> Verdict {
    if answer.is_some_and(|answer| !answer.is_charged) {
        return Verdict::Release;
    }
    match (failure, answer) {
        (None, Some(_)) => Verdict::Charge,
        (None, None) => Verdict::Release,
        // Tunnels have no end of their own: they end when one side closes.
        (Some(_), Some(Answer { is_tunnel: true, .. })) => Verdict::Charge,
        // The call is charged even if the request was not sent whole. An upstream need not wait for
        // the end of a request, so a client could otherwise take the whole answer for free by never
        // sending the last byte.
        (Some(_), Some(Answer { is_whole: true, .. })) => Verdict::Charge,
        // The usage is final, so nothing that the upstream could still send would change the price.
        (Some(ErrorSource::Upstream), Some(Answer { has_usage: true, .. })) => Verdict::Charge,
        (Some(ErrorSource::Downstream), answer) => {
            let is_late = request_sent || answer.is_some();
            if is_late && on_client_abort != OnClientAbort::Release {
                Verdict::Charge
            } else {
                Verdict::Release
            }
        }
        (Some(_), _) => Verdict::Release,
    }
}

/// The problem that the client is sent; `None` if the client is gone. `request_ended` says whether
/// the whole request had been sent.
pub(super) fn problem_of(error: &Error, request_ended: bool) -> Option<Problem> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, ReadError, ReadTimedout, TLSHandshakeTimedout,
        WriteError, WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ConnectionClosed | ReadError | WriteError | WriteTimedout) => {
            None
        }
        (ErrorSource::Downstream, ReadTimedout) => Some(Problem::request_timeout()),
        (ErrorSource::Downstream, _) => Some(Problem::unreadable_request()),
        _ if is_waiting_for_client(error, request_ended) => Some(Problem::request_timeout()),
        (_, ConnectTimedout | ReadTimedout | TLSHandshakeTimedout | WriteTimedout) => {
            Some(Problem::upstream_timeout())
        }
        _ => Some(Problem::upstream_failed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Answer =
        Answer { is_charged: true, is_tunnel: false, is_whole: false, has_usage: false };
    const PAID: Option<Answer> = Some(ANSWER);
    const WHOLE: Option<Answer> = Some(Answer { is_whole: true, ..ANSWER });
    const FREE: Option<Answer> = Some(Answer { is_charged: false, is_whole: true, ..ANSWER });
    const METERED: Option<Answer> = Some(Answer { has_usage: true, ..ANSWER });
    const TUNNEL: Option<Answer> = Some(Answer { is_tunnel: true, ..ANSWER });
    const UP: Option<&ErrorSource> = Some(&ErrorSource::Upstream);
    const DOWN: Option<&ErrorSource> = Some(&ErrorSource::Downstream);
    const OURS: Option<&ErrorSource> = Some(&ErrorSource::Internal);

    #[test]
    fn only_what_was_delivered_or_left_late_is_charged() {
        use OnClientAbort::{Charge as Pay, Drain, Release as Free};
        use Verdict::{Charge, Release};
        for (failure, answer, sent, abort, verdict) in [
            (None, PAID, true, Pay, Charge),
            (None, FREE, true, Pay, Release),
            (None, None, true, Pay, Release),
            (UP, None, true, Pay, Release),
            (UP, PAID, true, Pay, Release),
            (UP, TUNNEL, true, Pay, Charge),
            (DOWN, TUNNEL, true, Free, Charge),
            (DOWN, None, true, Pay, Charge),
            (DOWN, None, false, Pay, Release),
            (DOWN, None, true, Free, Release),
            (DOWN, PAID, true, Pay, Charge),
            (DOWN, PAID, true, Free, Release),
            (DOWN, PAID, false, Pay, Charge),
            (DOWN, PAID, false, Free, Release),
            (DOWN, WHOLE, false, Pay, Charge),
            (DOWN, WHOLE, false, Free, Charge),
            (UP, WHOLE, true, Free, Charge),
            (DOWN, FREE, true, Pay, Release),
            (OURS, PAID, true, Pay, Release),
            (UP, METERED, true, Pay, Charge),
            (UP, METERED, true, Free, Charge),
            (DOWN, METERED, true, Free, Release),
            (DOWN, PAID, true, Drain, Charge),
            (DOWN, None, false, Drain, Release),
        ] {
            assert_eq!(judge(failure, answer, sent, abort), verdict, "{failure:?} sent: {sent}");
        }
    }
}
