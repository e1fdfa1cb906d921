//! The quote of a metered call before it is forwarded, and its charge by usage afterwards.

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

/// The quote of a metered call: its hold, and the most that it may cost. The quote keeps the prices that it was made with, so a reload changes
/// nothing for a call that runs.
#[derive(Clone, Debug)]
pub struct MeteredQuote {
    /// The credits to hold before the call is forwarded.
    pub hold: Credits,
    /// The credits up to which the hold of a stream grows; for other calls the same as `hold`.
    pub most: Credits,
    /// The credits that the call may cost where its usage is to be believed; at least `most`.
    pub believed: Credits,
    /// The tokens of input that are held for, images included.
    pub input_tokens: u64,
    /// The tokens of these that stand for images.
    image_tokens: u64,
    tariff: Arc<Tariff>,
    /// The `when` whose conditions hold but for the tier of service: one bit for each.
    eligible: u64,
    /// The `when` that the request chose, where one holds.
    chosen: Option<usize>,
    /// The part of the hold that does not depend on output tokens.
    fixed: Exact,
    /// The price of a million tokens of output, of the dearest kind.
    output: UnitPrice,
    /// The tokens of output that the call can have at most, as held for: all answers together.
    output_tokens: u64,
    /// The tokens of output by which the hold of a stream grows; all of them where it does not.
    step: u64,
    /// The answers that are asked for.
    answers: u64,
    /// The tokens of output that the request allows, all answers together.
    allowed_output: Option<u64>,
    /// The characters of the request, as held for; 0 where they cost nothing.
    characters: u64,
    /// The least that is held, whatever the request asks for.
    least: Credits,
}

/// The reason why a request has no quote. The client is told with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeteredRefusal {
    /// The request names input that is not in its body, and no cap bounds that input.
    #[error(
        "`{member}` names input that is not in the request, and this model has no limit for that"
    )]
    UnboundedInput {
        /// The member of the request.
        member: &'static str,
    },
    /// A member that the price depends on has a type that another parser may convert.
    #[error("`{member}` has a value of the wrong type, and the price depends on it")]
    WrongType {
        /// The member of the request.
        member: Box<str>,
    },
    /// A member that the price depends on differs from a known value in case or space alone.
    #[error("`{member}` is spelled in another case or with spaces, and the price depends on it")]
    Misspelled {
        /// The member of the request.
        member: Box<str>,
    },
}

/// The charge for a call that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The credits, rounded up once to a micro-credit. The largest amount of credits stands for all
    /// that is more.
    pub credits: Credits,
    /// The used kinds that have no price.
    pub unpriced: Unpriced,
}

/// The quote for a request under `tariff`. Where the price has a kind that the request does not bound
/// (seconds, searches), at least `least` is held.
///
/// # Errors
/// [`MeteredRefusal`] where the request can be read in two ways, or has no bound.
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
    // A hold grows behind the text of a stream. Sound and images have none, so all of it is held at once.
    let grows = facts.is_stream && !facts.makes_media;
    let step = if grows { each.min(caps.hold_output_tokens) } else { each };
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
        output_tokens: each.saturating_mul(answers),
        step: step.saturating_mul(answers),
        answers,
        allowed_output: limit.map(|limit| limit.saturating_mul(answers)),
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
        // A small PDF, or an image, may have many tokens. All that the model reads is believed.
        let input = cap.min(MOST_INPUT).max(input_tokens);
        let Dearest { fixed, output, .. } = dearest(tariff, &after_when, facts, input);
        let all = MeteredQuote { fixed, output, ..quote.clone() };
        quote.believed = all.held_for(quote.output_tokens).max(quote.most);
    }
    Ok(quote)
}

/// The dearest prices of a call: they make its hold.
struct Dearest {
    fixed: Exact,
    output: UnitPrice,
    is_bounded: bool,
}

/// The dearest prices of a call with so many tokens of input, or fewer: a lower tier may then apply.
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
    // A character takes a byte at least.
    let characters = piece(Kind::Character, facts.text_bytes);
    call.plus(input).plus(images).plus(characters)
}

/// Refuses a member that the price depends on, where its value equals none of the values that the
/// prices name, and another parser may take it for one of them.
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

/// The `when` that may hold, and the first that does.
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

/// True where the price of a call depends on its tokens of input.
fn prices_input(tariff: &Tariff, after_when: &UnitPrices) -> bool {
    !tariff.is_free && (!after_when.dearest(Kind::is_input).is_zero() || !tariff.tiers.is_empty())
}

/// True where the request bounds every kind that has a price. It bounds neither seconds nor, where it
/// brings a tool of the provider's along, searches.
fn is_bounded_by(prices: &UnitPrices, facts: &RequestFacts) -> bool {
    let costs = |kind| prices.of(kind).is_some_and(|price| !price.is_zero());
    !(costs(Kind::Second) || facts.input_elsewhere.is_some() && costs(Kind::Search))
}

/// True for the kinds of input that a request can cause.
fn can_send(kind: Kind, facts: &RequestFacts) -> bool {
    match kind {
        Kind::Input | Kind::CachedInput => true,
        Kind::CacheWrite | Kind::CacheWrite1h => facts.writes_cache,
        Kind::InputAudio => facts.sends_audio,
        Kind::InputImage => facts.images > 0 || facts.input_elsewhere.is_some(),
        _ => false,
    }
}

/// True for the kinds of output tokens that the answer to a request can have.
fn can_answer(kind: Kind, facts: &RequestFacts) -> bool {
    match kind {
        Kind::OutputAudio => facts.asks_for_audio,
        kind => kind.is_output(),
    }
}

impl MeteredQuote {
    /// The credits to hold where the answer can have so many tokens of output, all answers together:
    /// rounded up, and at least one micro-credit on a tariff that is not free.
    pub fn held_for(&self, output_tokens: u64) -> Credits {
        let output_tokens = output_tokens.min(self.output_tokens);
        let exact = self.fixed.plus(Exact::units(self.output, Kind::Output, output_tokens));
        let least = if self.tariff.is_free { 0 } else { 1 };
        // An amount beyond all credits stands for one that no account can pay.
        let held = exact.rounded_up().map_or(MAX_MICROS, Credits::micros).max(least);
        Credits::from_micros(held.max(self.least.micros())).unwrap_or(self.most)
    }

    /// The tokens of output, all answers together, that `held` credits pay for beside the rest of the
    /// call. `None` where they do not even pay for the rest.
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

    /// By how much the hold of a stream should grow now, where `held` is its amount and `used` are the
    /// tokens of output so far. `None` while at least half a step is left, and once the hold covers
    /// all that the call can have.
    pub fn next_extension(&self, held: Credits, used: u64) -> Option<Credits> {
        if held >= self.most {
            return None;
        }
        let covered = self.output_tokens_for(held).unwrap_or(0);
        if covered.saturating_sub(used) > self.step / 2 {
            return None;
        }
        let wanted = covered.max(used).saturating_add(self.step.max(1));
        self.held_for(wanted).checked_sub(held).filter(|more| !more.is_zero())
    }

    /// The output limit of each answer that `available` credits can pay, for a request that is
    /// shortened rather than refused. `None` where they do not pay for a token of each answer, or
    /// where a shorter answer is not cheaper.
    pub fn affordable_limit(&self, available: Credits) -> Option<u32> {
        if self.output.is_zero() || available < self.least {
            return None;
        }
        let each = self.output_tokens_for(available)?.checked_div(self.answers)?;
        u32::try_from(each).ok().filter(|each| *each > 0)
    }

    /// This quote for a request whose output limit is lowered to `limit` for each answer.
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

    /// The charge for `usage`. `service_tier` is the tier that the answer names; where it names none,
    /// the request's counts.
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

    /// What is charged for an answer whose usage is not known and is an estimate of `usage`: what the route holds
    /// for a request that does not bound its price, at least.
    pub fn charge_estimate(&self, usage: &Usage, service_tier: Option<&str>) -> Credits {
        self.charge(usage, service_tier).credits.max(self.least)
    }

    /// `usage` with the characters of the request, which no provider counts.
    #[must_use]
    pub fn with_characters(&self, mut usage: Usage) -> Usage {
        if usage.of(Kind::Character) == 0 {
            // The count is capped, so it is never refused.
            let _ = usage.set(Kind::Character, self.characters.min(MAX_COUNT));
        }
        usage
    }

    /// An estimate of the usage, for an answer that does not say: the input as it was held for, and a
    /// token for two bytes of `delivered_text_bytes`, at most what the request allows. `known` is what
    /// the answer did say, such as the input at the start of a stream; its counts replace the
    /// estimate of the input, and its output counts where it is more than the estimate.
    pub fn estimate(&self, known: Option<&Usage>, delivered_text_bytes: u64) -> Usage {
        let mut usage = known.copied().unwrap_or(Usage::NONE);
        let mut set = |kind, count: u64| {
            // The count is capped, so it is never refused.
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

    /// True where a charge is so far above the hold that the usage is not believed: more than
    /// `max_overrun` times `held`.
    pub fn is_beyond_belief(charge: Credits, held: Credits, max_overrun: u32) -> bool {
        let most = u128::from(held.micros()) * u128::from(max_overrun);
        u128::from(charge.micros()) > most
    }

    /// The prices that the hold was computed with.
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
