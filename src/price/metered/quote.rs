//! The quote of a metered call before it is forwarded, and its charge after its usage is known.

use std::sync::Arc;

use crate::credits::{Credits, MAX_MICROS};
use crate::price::metered::condition::asked_tier;
use crate::price::metered::tariff::Tariff;
use crate::price::metered::unit_price::{Exact, UnitPrice};
use crate::price::metered::unit_prices::{UnitPrices, Unpriced};
use crate::price::metered::wanted::Doubt;
use crate::usage::{Kind, MAX_COUNT, RequestFacts, Scalar, Usage};

/// More input than any model reads, in tokens, for models without a cap of their own.
const MOST_INPUT: u64 = 10_000_000;

/// The bytes that are counted as one token, in requests and in delivered text.
const BYTES_PER_TOKEN: u64 = 2;

/// The quote of a metered call: its hold, and the most that it may cost. The quote keeps its own
/// prices, so a reload changes nothing for a running call.
#[derive(Clone, Debug)]
pub struct MeteredQuote {
    /// The credits that are held before the call is forwarded.
    pub hold: Credits,
    /// The most credits that the hold of a stream may reach. For other calls it equals `hold`,
    /// unless their provider may ignore the limit of the output.
    pub most: Credits,
    /// The highest cost at which reported usage is plausible; at least `most`. Usage is refused as
    /// false only if it costs more than the route's `max_overrun` times this amount.
    pub believed: Credits,
    /// The tokens of input that the hold covers, images included.
    pub input_tokens: u64,
    /// The part of `input_tokens` that stands for images.
    image_tokens: u64,
    tariff: Arc<Tariff>,
    /// One bit for each `when` whose conditions hold, apart from the service tier.
    eligible: u64,
    /// The `when` that the request has chosen; `None` if no `when` holds.
    chosen: Option<usize>,
    /// The part of the hold that does not depend on output tokens.
    fixed: Exact,
    /// The highest price among the kinds of output, for a million tokens.
    output: UnitPrice,
    /// The most tokens of output that the hold covers, for all answers together.
    output_tokens: u64,
    /// The tokens of output by which the hold of a stream grows. If the hold does not grow, these
    /// are all tokens.
    step: u64,
    /// The number of answers that the request asks for.
    answers: u64,
    /// Whether the provider is known to keep to the request's limit of output.
    keeps_limit: bool,
    /// The tokens of output that the request allows, for all answers together.
    allowed_output: Option<u64>,
    /// The characters of the request that the hold covers; 0 if characters cost nothing.
    characters: u64,
    /// The least amount of the hold, whatever the request asks for.
    least: Credits,
}

/// The reason why a request has no quote. The client gets the message with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeteredRefusal {
    /// The request refers to input outside its body, and the model has no limit on its input.
    #[error(
        "`{member}` names input that is not in the request, and this model has no limit for that"
    )]
    UnboundedInput {
        /// The member of the request.
        member: &'static str,
    },
    /// A member on which the price depends has a type that another parser may convert.
    #[error("`{member}` has a value of the wrong type, and the price depends on it")]
    WrongType {
        /// The member of the request.
        member: Box<str>,
    },
    /// A member on which the price depends differs from a known value only in case or space.
    #[error("`{member}` is spelled in another case or with spaces, and the price depends on it")]
    Misspelled {
        /// The member of the request.
        member: Box<str>,
    },
}

/// The charge for a call whose usage is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The credits, rounded up once to a micro-credit. If the sum is more than the largest amount
    /// of credits, the charge is that amount.
    pub credits: Credits,
    /// The used kinds that have no price.
    pub unpriced: Unpriced,
}

/// Quotes a request under `tariff`. If the price has a kind that the request does not limit
/// (seconds, searches), at least `least` is held.
///
/// # Errors
/// [`MeteredRefusal`] if the request can be read in two ways, or if its input has no limit.
pub fn quote(
    tariff: &Arc<Tariff>,
    facts: &RequestFacts,
    least: Credits,
) -> Result<MeteredQuote, MeteredRefusal> {
    refuse_doubtful(tariff, facts)?;
    let (eligible, chosen) = choose(tariff, facts);
    let after_when = after_when(tariff, chosen);
    let caps = tariff.caps;
    let image_tokens = caps.image_tokens.saturating_mul(facts.images.into());
    let in_body = facts.text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(image_tokens);
    let cap = caps.max_input_tokens.unwrap_or(u64::MAX);
    let input_tokens = match facts.input_elsewhere {
        Some(member) if caps.max_input_tokens.is_none() && prices_input(tariff, &after_when) => {
            return Err(MeteredRefusal::UnboundedInput { member });
        }
        Some(_) => caps.max_input_tokens.unwrap_or(in_body),
        None => in_body.min(cap),
    };
    let answers = u64::from(facts.limits.answers.max(1));
    let Dearest { fixed, output, is_bounded } = dearest(tariff, &after_when, facts, input_tokens);
    let limit = facts.limits.output_tokens.map(u64::from);
    let each = limit.map_or(caps.max_output_tokens, |limit| limit.min(caps.max_output_tokens));
    // The hold of a stream grows with the delivered text. Audio and images have no text, so the
    // whole amount is held at once.
    let grows = facts.is_stream && !facts.makes_media;
    // An unknown provider may ignore the limit, so more may have to be held and charged.
    let keeps_limit = facts.limits.is_kept;
    let most = if keeps_limit { each } else { caps.max_output_tokens };
    let step = if grows { most.min(caps.hold_output_tokens) } else { each };
    let mut quote = MeteredQuote {
        hold: Credits::ZERO,
        most: Credits::ZERO,
        believed: Credits::ZERO,
        input_tokens,
        image_tokens: image_tokens.min(input_tokens),
        tariff: Arc::clone(tariff),
        eligible,
        chosen,
        fixed,
        output,
        output_tokens: most.saturating_mul(answers),
        step: step.saturating_mul(answers),
        answers,
        keeps_limit,
        allowed_output: limit.filter(|_| keeps_limit).map(|limit| limit.saturating_mul(answers)),
        characters: if after_when.of(Kind::Character).is_some() { facts.text_bytes } else { 0 },
        least: if is_bounded { Credits::ZERO } else { least },
    };
    if tariff.is_free {
        (quote.fixed, quote.output, quote.least) = (Exact::ZERO, UnitPrice::ZERO, Credits::ZERO);
    }
    quote.hold = quote.held_for(quote.step);
    quote.most = quote.held_for(quote.output_tokens);
    quote.believed = quote.most;
    if facts.expands && !tariff.is_free {
        // A small PDF or image may have many tokens, so usage up to the model's largest input is
        // plausible.
        let input = cap.min(MOST_INPUT).max(input_tokens);
        let Dearest { fixed, output, .. } = dearest(tariff, &after_when, facts, input);
        let all = MeteredQuote { fixed, output, ..quote.clone() };
        quote.believed = all.held_for(quote.output_tokens).max(quote.most);
    }
    Ok(quote)
}

/// The highest prices that a call may have. The hold is computed from them.
struct Dearest {
    fixed: Exact,
    output: UnitPrice,
    is_bounded: bool,
}

/// The highest prices of a call with at most `input_tokens` tokens of input. All tiers up to that
/// number count, because with fewer tokens a lower tier applies.
fn dearest(
    tariff: &Tariff,
    after_when: &UnitPrices,
    facts: &RequestFacts,
    input_tokens: u64,
) -> Dearest {
    let answers = u64::from(facts.limits.answers.max(1));
    let (fixed, output) = (Exact::ZERO, UnitPrice::ZERO);
    let mut all = Dearest { fixed, output, is_bounded: true };
    for prices in tariff.up_to(after_when, input_tokens) {
        all.fixed = all.fixed.max(fixed_part(&prices, facts, input_tokens, answers));
        all.output = all.output.max(prices.dearest(|kind| can_answer(kind, facts)));
        all.is_bounded &= is_bounded_by(&prices, facts);
    }
    all
}

/// The part of a hold that does not depend on output tokens.
fn fixed_part(prices: &UnitPrices, facts: &RequestFacts, input: u64, answers: u64) -> Exact {
    let input = Exact::units(prices.dearest(|kind| can_send(kind, facts)), Kind::Input, input);
    let piece =
        |kind, count| prices.of(kind).map_or(Exact::ZERO, |one| Exact::units(one, kind, count));
    let call = prices.request().map_or(Exact::ZERO, Exact::call);
    let images = piece(Kind::Image, answers);
    // Each character has at least one byte.
    let characters = piece(Kind::Character, facts.text_bytes);
    call.plus(input).plus(images).plus(characters)
}

/// Refuses the request if the value of a member equals none of the values that the prices name for
/// it, but another parser may take it for one of them.
fn refuse_doubtful(tariff: &Tariff, facts: &RequestFacts) -> Result<(), MeteredRefusal> {
    for (member, value) in &facts.members {
        let wanted = || {
            let all = tariff.whens.iter().flat_map(|when| when.condition.wanted());
            all.filter(|(name, _)| *name == &**member).map(|(_, wanted)| wanted)
        };
        if wanted().next().is_none() || wanted().any(|wanted| wanted.equals(value)) {
            continue;
        }
        if wanted().any(|wanted| wanted.doubt(value) == Some(Doubt::Spelling)) {
            return Err(MeteredRefusal::Misspelled { member: member.clone() });
        }
        if wanted().all(|wanted| wanted.doubt(value) == Some(Doubt::Type)) {
            return Err(MeteredRefusal::WrongType { member: member.clone() });
        }
    }
    Ok(())
}

/// The `when` entries that may hold, and the first one that holds.
fn choose(tariff: &Tariff, facts: &RequestFacts) -> (u64, Option<usize>) {
    let mut eligible = 0;
    for (index, when) in tariff.whens.iter().enumerate() {
        if when.condition.holds_but_for_tier(facts) {
            eligible |= 1 << index;
        }
    }
    (eligible, first_that_holds(tariff, eligible, asked_tier(facts)))
}

fn first_that_holds(tariff: &Tariff, eligible: u64, tier: Option<&Scalar>) -> Option<usize> {
    tariff.whens.iter().enumerate().position(|(index, when)| {
        eligible & (1 << index) != 0 && when.condition.holds_for_tier(tier)
    })
}

fn after_when(tariff: &Tariff, chosen: Option<usize>) -> UnitPrices {
    let when = chosen.and_then(|index| tariff.whens.get(index));
    when.map_or(tariff.base, |when| tariff.base.replaced_by(&when.prices))
}

/// Whether the price of a call depends on its tokens of input.
fn prices_input(tariff: &Tariff, after_when: &UnitPrices) -> bool {
    !tariff.is_free && (!after_when.dearest(Kind::is_input).is_zero() || !tariff.tiers.is_empty())
}

/// Whether the request limits every kind that has a price. It never limits seconds. If it has a
/// tool of the provider's, it does not limit searches either.
fn is_bounded_by(prices: &UnitPrices, facts: &RequestFacts) -> bool {
    let costs = |kind| prices.of(kind).is_some_and(|price| !price.is_zero());
    !(costs(Kind::Second) || facts.input_elsewhere.is_some() && costs(Kind::Search))
}

/// Whether a request can cause this kind of input.
fn can_send(kind: Kind, facts: &RequestFacts) -> bool {
    match kind {
        Kind::Input | Kind::CachedInput => true,
        Kind::CacheWrite | Kind::CacheWrite1h => facts.writes_cache,
        Kind::InputAudio => facts.sends_audio,
        Kind::InputImage => facts.images > 0 || facts.input_elsewhere.is_some(),
        _ => false,
    }
}

/// Whether the answer to a request can have this kind of output tokens.
fn can_answer(kind: Kind, facts: &RequestFacts) -> bool {
    match kind {
        Kind::OutputAudio => facts.asks_for_audio,
        kind => kind.is_output(),
    }
}

impl MeteredQuote {
    /// The credits to hold if the answers together can have `output_tokens`. The amount is rounded
    /// up, and is at least one micro-credit unless the tariff is free.
    pub fn held_for(&self, output_tokens: u64) -> Credits {
        let output_tokens = output_tokens.min(self.output_tokens);
        let exact = self.fixed.plus(Exact::units(self.output, Kind::Output, output_tokens));
        let least = if self.tariff.is_free { 0 } else { 1 };
        // An amount that credits cannot count becomes the largest amount, which no account can pay.
        let held = exact.rounded_up().map_or(MAX_MICROS, Credits::micros).max(least);
        Credits::from_micros(held.max(self.least.micros())).unwrap_or(self.most)
    }

    /// The tokens of output, for all answers together, for which `held` credits are enough in
    /// addition to the rest of the call. `None` if they are not even enough for the rest.
    pub fn output_tokens_for(&self, held: Credits) -> Option<u64> {
        let held = Exact::of(held);
        if held < self.fixed {
            return None;
        }
        let one = Exact::units(self.output, Kind::Output, 1);
        let paid = held.less(self.fixed).times(one);
        let paid = paid.map_or(u64::MAX, |paid| u64::try_from(paid).unwrap_or(u64::MAX));
        Some(paid.min(self.output_tokens))
    }

    /// The output limit for each answer that `available` credits can pay, for a request that is
    /// shortened instead of refused. `None` if they are not enough for one token of each answer, if
    /// a shorter answer is not cheaper, or if the provider may ignore the limit.
    pub fn affordable_limit(&self, available: Credits) -> Option<u32> {
        if self.output.is_zero() || available < self.least || !self.keeps_limit {
            return None;
        }
        let each = self.output_tokens_for(available)?.checked_div(self.answers)?;
        u32::try_from(each).ok().filter(|each| *each > 0)
    }

    /// This quote, for the same request with its output limit lowered to `limit` for each answer.
    #[must_use]
    pub fn shortened(&self, limit: u32) -> Self {
        let all = u64::from(limit).saturating_mul(self.answers);
        let mut quote = self.clone();
        quote.output_tokens = quote.output_tokens.min(all);
        quote.step = quote.step.min(all);
        quote.allowed_output = Some(quote.allowed_output.map_or(all, |allowed| allowed.min(all)));
        quote.hold = quote.held_for(quote.step);
        quote.most = quote.held_for(quote.output_tokens);
        quote.believed = quote.believed.max(quote.most);
        quote
    }

    /// The charge for `usage`. `service_tier` is the tier that the answer names. If it names none,
    /// the request's tier counts.
    pub fn charge(&self, usage: &Usage, service_tier: Option<&str>) -> Charge {
        if self.tariff.is_free {
            return Charge { credits: Credits::ZERO, unpriced: Unpriced::default() };
        }
        let chosen = match service_tier {
            None => self.chosen,
            Some(tier) => {
                let tier = Scalar::Text(tier.into());
                first_that_holds(&self.tariff, self.eligible, Some(&tier))
            }
        };
        let after_when = after_when(&self.tariff, chosen);
        let prices = self.tariff.tiered(&after_when, usage.input_tokens());
        let (sum, unpriced) = prices.total(usage);
        let beyond = Credits::from_micros(MAX_MICROS).unwrap_or(self.most);
        Charge { credits: sum.rounded_up().unwrap_or(beyond), unpriced }
    }

    /// The charge for an answer that did not report its usage. `usage` is an estimate. If the
    /// request does not limit its price, the charge is at least the amount that the route holds for
    /// that case.
    pub fn charge_estimate(&self, usage: &Usage, service_tier: Option<&str>) -> Credits {
        self.charge(usage, service_tier).credits.max(self.least)
    }

    /// Adds the characters of the request to `usage`. No provider reports them.
    #[must_use]
    pub fn with_characters(&self, mut usage: Usage) -> Usage {
        if usage.of(Kind::Character) == 0 {
            // The count is capped, so `set` cannot refuse it.
            let _ = usage.set(Kind::Character, self.characters.min(MAX_COUNT));
        }
        usage
    }

    /// Estimates the usage of an answer that did not report it. The input counts as much as the
    /// hold covers. The output counts as one token for two bytes of `delivered_text_bytes`, but at
    /// most what the request allows. `known` is the usage that the answer did report, such as the
    /// input at the start of a stream. Its counts of input replace the estimate. So does its count
    /// of output, if that is larger.
    pub fn estimate(&self, known: Option<&Usage>, delivered_text_bytes: u64) -> Usage {
        let mut usage = known.copied().unwrap_or(Usage::NONE);
        let mut set = |kind, count: u64| {
            // The count is capped, so `set` cannot refuse it.
            let _ = usage.set(kind, count.min(MAX_COUNT));
        };
        if known.is_none_or(|known| known.input_tokens() == 0) {
            set(Kind::InputImage, self.image_tokens);
            set(Kind::Input, self.input_tokens.saturating_sub(self.image_tokens));
        }
        let delivered = delivered_text_bytes.div_ceil(BYTES_PER_TOKEN);
        let delivered = delivered.min(self.allowed_output.unwrap_or(u64::MAX));
        let said = known.map_or(0, Usage::output_tokens);
        if delivered > said {
            let others = known.map_or(0, |known| said - known.of(Kind::Output));
            set(Kind::Output, delivered - others);
        }
        self.with_characters(usage)
    }

    /// Whether a charge is so far above the hold that the usage is not believed: more than
    /// `max_overrun` times `held`.
    pub fn is_beyond_belief(charge: Credits, held: Credits, max_overrun: u32) -> bool {
        let most = u128::from(held.micros()) * u128::from(max_overrun);
        u128::from(charge.micros()) > most
    }

    /// The prices from which the hold was computed.
    pub fn tariff(&self) -> &Arc<Tariff> {
        &self.tariff
    }
}

#[cfg(test)]
#[path = "quote_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "quote_tests.rs"]
mod tests;
