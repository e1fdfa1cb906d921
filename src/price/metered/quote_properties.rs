//! Properties of holds and charges: they are exact, more usage is never cheaper, and the hold
//! covers the charge.

use proptest::prelude::*;

use super::tests::{MODEL, facts, model, quoted, usage};
use super::*;
use crate::usage::Limits;

/// Arithmetic on decimal digits, the last digit first. It is slow, but plainly right.
mod digits {
    pub fn of(number: u128) -> Vec<u8> {
        number.to_string().bytes().rev().map(|byte| byte - b'0').collect()
    }

    pub fn sum(one: &[u8], other: &[u8]) -> Vec<u8> {
        let mut carry = 0;
        let mut sum = Vec::new();
        for at in 0..one.len().max(other.len()) + 1 {
            let digit = |number: &[u8]| number.get(at).copied().unwrap_or(0);
            carry += digit(one) + digit(other);
            sum.push(carry % 10);
            carry /= 10;
        }
        sum
    }

    pub fn product(one: &[u8], other: &[u8]) -> Vec<u8> {
        let mut product = Vec::new();
        for (at, digit) in other.iter().enumerate() {
            let shifted: Vec<u8> = std::iter::repeat_n(0, at).chain(one.iter().copied()).collect();
            for _ in 0..*digit {
                product = sum(&product, &shifted);
            }
        }
        product
    }

    /// The number without its last `digits` digits, rounded up.
    pub fn shifted_up(number: &[u8], digits: usize) -> Vec<u8> {
        let (dropped, kept) = number.split_at(digits.min(number.len()));
        if dropped.iter().any(|digit| *digit > 0) { sum(kept, &[1]) } else { kept.to_vec() }
    }

    pub fn shown(number: &[u8]) -> String {
        let text: String = number.iter().rev().map(|digit| char::from(b'0' + digit)).collect();
        let text = text.trim_start_matches('0');
        if text.is_empty() { "0".to_owned() } else { text.to_owned() }
    }
}

fn price() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(
        (0..=100_000u64, 0..1_000_000_000u64)
            .prop_map(|(whole, nanos)| format!("{whole}.{nanos:09}")),
    )
}

fn counts() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(0..=2_000_000u64, Kind::ALL.len())
}

fn tariff(prices: &[Option<String>]) -> Arc<Tariff> {
    let lines = Kind::ALL
        .iter()
        .zip(prices)
        .filter_map(|(kind, price)| Some(format!("{} = '{}'", kind.as_str(), price.as_ref()?)));
    model(&format!("match = 'm'\nrequest = 1\n{}", lines.collect::<Vec<_>>().join("\n")))
}

fn counted(counts: &[u64]) -> Usage {
    let counts = Kind::ALL.into_iter().zip(counts.iter().copied());
    usage(&counts.collect::<Vec<_>>())
}

proptest! {
    /// The charge is the sum of products, rounded up once: compared with sums of decimal digits.
    #[test]
    fn a_charge_is_exact(prices in proptest::collection::vec(price(), Kind::ALL.len()), counts in counts()) {
        let tariff = tariff(&prices);
        let used = counted(&counts);
        // In units of 10^-15 credits; the request costs 1 credit.
        let mut sum = digits::of(10_u128.pow(15));
        for (kind, count) in used.iter() {
            let Some(price) = tariff.base().of(kind) else { continue };
            let mut product = digits::product(&digits::of(price.nanos().into()), &digits::of(count.into()));
            if !kind.is_token() {
                product.splice(0..0, [0; 6]);
            }
            sum = digits::sum(&sum, &product);
        }
        let micros = digits::shown(&digits::shifted_up(&sum, 9));
        let micros = micros.parse::<u128>().unwrap().min(MAX_MICROS.into()).to_string();
        let charge = quoted(&tariff, &facts()).charge(&used, None);
        prop_assert_eq!(charge.credits.micros().to_string(), micros);
    }

    /// More usage never costs less, if the prices of the tiers rise.
    #[test]
    fn more_usage_costs_no_less(counts in counts(), more in 0..Kind::ALL.len(), by in 0..300_000u64) {
        let quote = quoted(&model(MODEL), &facts());
        let mut larger = counts.clone();
        larger[more] += by;
        let cost = |counts: &[u64]| quote.charge(&counted(counts), None).credits;
        prop_assert!(cost(&larger) >= cost(&counts));
    }

    /// A call that stays within the limits of its request, and whose input is not above the
    /// estimate, costs no more than the most that is held for it.
    #[test]
    fn usage_within_the_limits_is_covered_by_the_hold(
        prices in proptest::collection::vec(price(), 10),
        limits in (proptest::option::of(0..20_000u32), 1..4u32, proptest::bool::ANY),
        flags: [bool; 4],
        text_bytes in 0..900_000u64,
        images in 0..4u32,
        shares in proptest::collection::vec(0..100u64, 10),
        tier in proptest::option::of((1..300_000u64, price())),
        filled in 0..=100u64,
    ) {
        let [is_stream, writes_cache, sends_audio, asks_for_audio] = flags;
        let facts = RequestFacts {
            is_stream, writes_cache, sends_audio, asks_for_audio, text_bytes, images,
            limits: Limits { output_tokens: limits.0, is_kept: limits.2, answers: limits.1 },
            ..facts()
        };
        let mut lines = "match = 'm'\nrequest = 1\n".to_owned();
        for (kind, price) in Kind::ALL.iter().zip(&prices) {
            lines += &price.as_ref().map_or(String::new(), |p| format!("{} = '{p}'\n", kind.as_str()));
        }
        if let Some((bound, Some(price))) = &tier {
            lines += &format!("above = [{{ input_tokens = {bound}, input = '{price}', output = '{price}' }}]");
        }
        let quote = quoted(&model(&lines), &facts);
        let may_be = |kind: Kind| match kind {
            Kind::CacheWrite | Kind::CacheWrite1h => writes_cache,
            Kind::InputAudio => sends_audio,
            Kind::InputImage => images > 0,
            Kind::OutputAudio => asks_for_audio,
            _ => true,
        };
        let mut used = Usage::NONE;
        for (is_side, most) in [
            (Kind::is_input as fn(Kind) -> bool, quote.input_tokens * filled / 100),
            (Kind::is_output, u64::from(limits.0.unwrap_or(8192).min(8192)) * u64::from(limits.1)),
        ] {
            let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| is_side(*kind) && may_be(*kind)).collect();
            let all: u64 = kinds.iter().map(|kind| shares[*kind as usize]).sum();
            for kind in kinds {
                let count = (most * shares[kind as usize]).checked_div(all).unwrap_or(0);
                used.set(kind, count).unwrap();
            }
        }
        let charge = quote.charge(&used, None).credits;
        prop_assert!(charge <= quote.most, "{charge} of {} for {used:?} with {lines}", quote.most);
        prop_assert!(quote.hold <= quote.most);
        // A hold is enough for the number of tokens that it claims to cover.
        let paid = quote.output_tokens_for(quote.hold).unwrap();
        prop_assert!(quote.held_for(paid) <= quote.hold);
        // The hold grows up to `most`, and on the way covers the tokens that were used.
        for used in (0..=paid.max(40_000)).step_by(500) {
            let held = quote.held_for(used);
            prop_assert!(held <= quote.most);
            let covered = quote.output_tokens_for(held).unwrap();
            prop_assert!(covered >= used || held == quote.most, "{covered} of {used}");
        }
    }
}
