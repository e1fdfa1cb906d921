//! The cost of a metered call, from the usage of its answer.

use crate::credits::Credits;
use crate::ledger::Overrun;
use crate::meter::AnswerUsage;
use crate::price::metered::{MeteredQuote, OnMissingUsage, OnOverrun, Unpriced};
use crate::usage::{Kind, MeterKind, Usage};

/// The way in which a charged answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The upstream ended the answer.
    Whole,
    /// The client left, or the account could pay no more.
    CutShort,
}

/// The rules of a route by which usage is charged.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Rules {
    pub on_missing_usage: OnMissingUsage,
    pub on_overrun: OnOverrun,
    /// A reported usage is not believed if it costs more than this many times the hold.
    pub max_overrun: u32,
}

/// The cost of a call, and the usage that it pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Cost {
    /// The cost. `overrun` says how the part above the hold is charged.
    pub credits: Credits,
    pub overrun: Overrun,
    /// The usage. It is an estimate if the answer did not report it.
    pub usage: Usage,
    /// The kinds of usage that the answer reports but that have no price.
    pub unpriced: Unpriced,
    /// The source of the usage.
    pub source: Source,
}

/// Where the usage of a [`Cost`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Source {
    /// The answer reported the usage.
    Answer,
    /// The answer was cut short. The counts that it did not report are estimated.
    Estimate,
    /// The answer is whole, but did not report its usage.
    Missing,
    /// The answer reported a usage that cannot be true.
    Unbelievable,
}

/// The cost of a call that holds `held`. An answer that could not be read costs at least the first
/// hold, because more may have been delivered than is known. The exception is a route that does not
/// charge for missing usage.
pub(super) fn cost(
    quote: &MeteredQuote,
    kind: &MeterKind,
    rules: Rules,
    answer: &AnswerUsage,
    end: End,
    held: Credits,
) -> Cost {
    let mut cost = by_usage(quote, kind, rules, answer, end, held);
    let is_given_up =
        cost.source == Source::Missing && rules.on_missing_usage == OnMissingUsage::Release;
    if answer.is_unread && !is_given_up {
        cost.credits = cost.credits.max(quote.hold);
    }
    cost
}

fn by_usage(
    quote: &MeteredQuote,
    kind: &MeterKind,
    rules: Rules,
    answer: &AnswerUsage,
    end: End,
    held: Credits,
) -> Cost {
    let overrun = match rules.on_overrun {
        OnOverrun::Debt => Overrun::Debt,
        OnOverrun::Cap => Overrun::Cap,
    };
    let tier = answer.service_tier.as_deref();
    let estimate = || match answer.usage {
        // If the upstream updates its count of output during the stream, that count is used.
        // Anthropic's first count is only a placeholder, so its streams are estimated.
        Some(usage) if *kind != MeterKind::Anthropic && usage.output_tokens() > 0 => usage,
        known => quote.estimate(known.as_ref(), answer.delivered_text_bytes),
    };
    let unbelievable = || Cost {
        credits: held,
        overrun: Overrun::Cap,
        usage: quote.estimate(None, answer.delivered_text_bytes),
        unpriced: Unpriced::default(),
        source: Source::Unbelievable,
    };
    if answer.is_false {
        return unbelievable();
    }
    let told = answer.usage.filter(|_| answer.is_final).or_else(|| made(answer, end));
    if let Some(usage) = told {
        let usage = quote.with_characters(usage);
        let charge = quote.charge(&usage, tier);
        // A stream may report its usage while its hold is still small.
        let may_hold = held.max(quote.believed);
        if MeteredQuote::is_beyond_belief(charge.credits, may_hold, rules.max_overrun) {
            return unbelievable();
        }
        let (credits, unpriced) = (charge.credits, charge.unpriced);
        return Cost { credits, overrun, usage, unpriced, source: Source::Answer };
    }
    let source = match end {
        End::Whole => Source::Missing,
        End::CutShort => Source::Estimate,
    };
    let usage = estimate();
    let credits = match (end, rules.on_missing_usage) {
        (End::Whole, OnMissingUsage::Hold) => held,
        (End::Whole, OnMissingUsage::Release) => Credits::ZERO,
        (End::Whole, OnMissingUsage::Estimate) | (End::CutShort, _) => {
            quote.charge_estimate(&usage, tier)
        }
    };
    Cost { credits, overrun, usage, unpriced: Unpriced::default(), source }
}

/// The usage of a whole answer that reports no counts but contains images.
fn made(answer: &AnswerUsage, end: End) -> Option<Usage> {
    let is_all = answer.usage.is_none() && answer.images > 0 && end == End::Whole;
    if is_all { Usage::NONE.with(Kind::Image, answer.images.into()).ok() } else { None }
}
