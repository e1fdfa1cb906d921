//! The operator's own cost of a model's calls.

use crate::price::metered::config::CostConfig;
use crate::price::metered::rates::Rates;
use crate::price::money::{Currency, UnitAmount};
use crate::usage::{Kind, Totals};

/// The number of parts into which sums divide a billionth: a price of tokens is for a million
/// tokens.
const PARTS: u128 = 1_000_000;

/// The operator's own cost of calls. It is exact until it is converted into one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCost {
    /// The sum in each currency, in millionths of a billionth of the currency's unit.
    sums: Vec<(Currency, u128)>,
    /// The kinds that were used but have no cost, so that they are not in the sums.
    pub uncosted: Vec<Kind>,
}

impl OwnCost {
    /// The cost of `calls` calls that used `used` together. A kind without a cost of its own costs
    /// as much as its parent ([`Kind::parent`]). `None` if the model has no costs, or if a sum is
    /// too large.
    pub fn of(cost: &CostConfig, calls: u64, used: &Totals) -> Option<Self> {
        if cost.request.is_none() && cost.kinds.is_empty() {
            return None;
        }
        let mut own = Self { sums: Vec::new(), uncosted: Vec::new() };
        if let Some(amount) = cost.request {
            own.add(amount, u128::from(calls).checked_mul(PARTS)?)?;
        }
        for (kind, count) in used.iter() {
            let pieces = if kind.is_token() { 1 } else { PARTS };
            match cost.inherited(kind) {
                Some((_, amount)) => own.add(amount, u128::from(count).checked_mul(pieces)?)?,
                None => own.uncosted.push(kind),
            }
        }
        Some(own)
    }

    /// Adds `parts` millionths of `amount`. `None` if the sum is too large.
    fn add(&mut self, amount: UnitAmount, parts: u128) -> Option<()> {
        let more = u128::from(amount.nanos()).checked_mul(parts)?;
        match self.sums.iter_mut().find(|(currency, _)| *currency == amount.currency()) {
            Some((_, sum)) => *sum = sum.checked_add(more)?,
            None => self.sums.push((amount.currency(), more)),
        }
        Some(())
    }

    /// The cost in the currency `to`, with the sum of each currency rounded up to a billionth.
    /// Without `to`, the result is in the currency of the first sum. `None` if a rate is missing,
    /// or if an amount is too large.
    pub fn total(&self, to: Option<Currency>, rates: &Rates) -> Option<UnitAmount> {
        let to = to.or(self.sums.first().map(|(currency, _)| *currency))?;
        let mut nanos = 0_u64;
        for (currency, sum) in &self.sums {
            let part = u64::try_from(sum.div_ceil(PARTS)).ok()?;
            let part = rates.convert(UnitAmount::from_nanos(part, *currency), to)?;
            nanos = nanos.checked_add(part.nanos())?;
        }
        Some(UnitAmount::from_nanos(nanos, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(toml: &str) -> CostConfig {
        toml::from_str(toml).unwrap()
    }

    fn used(counts: &[(Kind, u64)]) -> Totals {
        let mut totals = Totals::default();
        for (kind, count) in counts {
            totals.add(*kind, *count);
        }
        totals
    }

    fn total(cost: &CostConfig, calls: u64, counts: &[(Kind, u64)], to: &str) -> Option<String> {
        let rates = Rates::new(&toml::from_str("USD = '0.86 EUR'").unwrap());
        let own = OwnCost::of(cost, calls, &used(counts))?;
        own.total(to.parse().ok(), &rates).map(|amount| amount.to_string())
    }

    #[test]
    fn tokens_cost_by_the_million_and_pieces_one_by_one() {
        let model = cost(
            "input = '2.50 EUR'\noutput = '10 EUR'\nimage = '0.04 EUR'\nrequest = '0.001 EUR'",
        );
        // 3 × 0.001 + 600 × 0.0000025 + 300 × 0.00001 + 2 × 0.04
        let counts = [(Kind::Input, 600), (Kind::Output, 300), (Kind::Image, 2)];
        assert_eq!(total(&model, 3, &counts, "EUR"), Some("0.0875 EUR".into()));
        assert_eq!(total(&model, 0, &[], "EUR"), Some("0.00 EUR".into()));
    }

    #[test]
    fn a_kind_without_a_cost_costs_as_its_parent_and_one_without_any_is_named() {
        let model = cost("input = '1 EUR'\ncached_input = '0.1 EUR'\noutput = '4 EUR'");
        let million = 1_000_000;
        // 0.1 for the cached input, 1 for each write to the cache, 4 for the reasoning.
        let counts = [
            (Kind::CachedInput, million),
            (Kind::CacheWrite1h, 2 * million),
            (Kind::Reasoning, million),
            (Kind::Search, 9),
        ];
        assert_eq!(total(&model, 1, &counts, "EUR"), Some("6.10 EUR".into()));
        let own = OwnCost::of(&model, 1, &used(&counts)).unwrap();
        assert_eq!(own.uncosted, [Kind::Search]);
        assert_eq!(total(&CostConfig::default(), 1, &counts, "EUR"), None);
    }

    #[test]
    fn costs_are_added_up_before_they_are_rounded_and_converted() {
        let model = cost("input = '0.000000001 USD'\noutput = '1 EUR'");
        // A hundred calls of one token each cost a billionth together, and not a billionth each.
        assert_eq!(
            total(&model, 100, &[(Kind::Input, 100)], "USD"),
            Some("0.000000001 USD".into())
        );
        let dollars = cost("input = '2.50 USD'\noutput = '1 EUR'");
        let counts = [(Kind::Input, 2_000_000), (Kind::Output, 1_000_000)];
        // 2 × 2.50 × 0.86 + 1
        assert_eq!(total(&dollars, 1, &counts, "EUR"), Some("5.30 EUR".into()));
        assert_eq!(total(&dollars, 1, &counts, "USD"), None, "no rate runs backwards");
        assert_eq!(total(&dollars, 1, &counts[..1], ""), Some("5.00 USD".into()), "without packs");
        let huge = [(Kind::Input, u64::MAX)];
        assert_eq!(total(&cost("input = '18446744073 USD'"), 1, &huge, "USD"), None);
    }
}
