//! The revenue of a call, and its margin over the operator's own cost.

use crate::credits::Credits;
use crate::price::config::PackConfig;
use crate::price::metered::{OwnCost, Rates, UnitPrice};
use crate::price::money::UnitAmount;
use crate::price::route::Route;

/// The margin of one call of a route, or of one unit of a model. A field is `None` if the config
/// lacks a value for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    /// The value of the credits, in the packs' currency. `None` without packs, and for calls that are
    /// priced by usage.
    pub revenue: Option<UnitAmount>,
    /// The operator's own cost, in the currency of the config.
    pub cost: Option<UnitAmount>,
    /// (revenue - cost) / cost in whole percent, with halves rounded up. Negative for a call that
    /// is sold at a loss. `None` if the revenue or the cost is missing, if the cost is zero, or if
    /// their currencies have no rate between them.
    pub percent: Option<i128>,
}

impl Margin {
    /// The percentage as text: `2275 %`.
    pub fn shown(&self) -> Option<String> {
        self.percent.map(|percent| format!("{percent} %"))
    }

    /// The margin of `route`, with credits valued at [`credit_price`].
    pub fn of(route: &Route, packs: &[PackConfig], rates: &Rates) -> Self {
        let value = |credits| value_in(smallest(packs)?, credits);
        Self::between(route.price.fixed().and_then(value), route.cost, rates)
    }

    /// The margin of a unit that is sold for `price` and costs `cost`.
    pub fn of_unit(
        price: UnitPrice,
        cost: Option<UnitAmount>,
        packs: &[PackConfig],
        rates: &Rates,
    ) -> Self {
        let revenue = smallest(packs).and_then(|pack| value_of(pack, price.nanos().into(), 1000));
        Self::between(revenue, cost, rates)
    }

    /// The margin of calls of a model that were charged `credits` in all. `cost` is their own cost,
    /// if it is known.
    pub fn of_calls(
        credits: Credits,
        cost: Option<&OwnCost>,
        packs: &[PackConfig],
        rates: &Rates,
    ) -> Self {
        let revenue = smallest(packs).and_then(|pack| value_in(pack, credits));
        let cost = cost.and_then(|cost| cost.total(revenue.map(UnitAmount::currency), rates));
        Self::between(revenue, cost, rates)
    }

    fn between(revenue: Option<UnitAmount>, cost: Option<UnitAmount>, rates: &Rates) -> Self {
        let percent = match (revenue, cost) {
            (Some(revenue), Some(cost)) => {
                rates.convert(cost, revenue.currency()).and_then(|cost| percent(revenue, cost))
            }
            _ => None,
        };
        Self { revenue, cost, percent }
    }
}

/// The price of one credit in the smallest pack, which occasional users buy. If two packs are
/// equally small, the cheaper one counts. `None` without packs.
pub fn credit_price(packs: &[PackConfig]) -> Option<UnitAmount> {
    value_in(smallest(packs)?, Credits::from_whole(1)?)
}

fn smallest(packs: &[PackConfig]) -> Option<&PackConfig> {
    packs.iter().min_by_key(|pack| (pack.credits, pack.price.minor()))
}

/// The value of `credits` as a share of the price of `pack`, rounded to a billionth of the
/// currency's unit. `None` for a pack without credits, and for amounts that are too large.
pub(super) fn value_in(pack: &PackConfig, credits: Credits) -> Option<UnitAmount> {
    value_of(pack, credits.micros().into(), 1)
}

/// The value of `count` / `parts` micro-credits, as a share of the price of `pack`.
fn value_of(pack: &PackConfig, count: u128, parts: u128) -> Option<UnitAmount> {
    let value = i128::try_from(pack.price.nanos().checked_mul(count)?).ok()?;
    let all = i128::try_from(u128::from(pack.credits.micros()).checked_mul(parts)?).ok()?;
    let nanos = divide_half_up(value, all)?;
    Some(UnitAmount::from_nanos(u64::try_from(nanos).ok()?, pack.price.currency()))
}

fn percent(revenue: UnitAmount, cost: UnitAmount) -> Option<i128> {
    if revenue.currency() != cost.currency() {
        return None;
    }
    let (revenue, cost) = (i128::from(revenue.nanos()), i128::from(cost.nanos()));
    divide_half_up(revenue.checked_sub(cost)?.checked_mul(100)?, cost)
}

/// `value / by`, rounded to the nearest integer, with halves rounded up: the floor of the quotient
/// plus one half. `None` unless `by` is above zero.
fn divide_half_up(value: i128, by: i128) -> Option<i128> {
    if by <= 0 {
        return None;
    }
    value.checked_mul(2)?.checked_add(by)?.checked_div_euclid(by.checked_mul(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::RouteConfig;
    use proptest::prelude::*;

    fn pack(credits: &str, price: &str) -> PackConfig {
        toml::from_str(&format!("id = 'p'\ncredits = '{credits}'\nprice = '{price}'")).unwrap()
    }

    fn margin(credits: &str, cost: &str, packs: &[PackConfig]) -> (String, Option<i128>) {
        let cost = if cost.is_empty() { String::new() } else { format!("cost = '{cost}'") };
        let config = format!("path = '/a'\nupstream = 'ai'\ncredits = '{credits}'\n{cost}");
        let config: RouteConfig = toml::from_str(&config).unwrap();
        let margin = Margin::of(&Route::read(0, &config).unwrap(), packs, &Rates::default());
        (margin.revenue.map_or("-".into(), |revenue| revenue.to_string()), margin.percent)
    }

    #[test]
    fn the_reference_price_table_earns_what_it_says() {
        let packs = [pack("500", "79 EUR"), pack("100", "19 EUR"), pack("1000", "139 EUR")];
        for (credits, cost, revenue, percent) in [
            ("5", "0.04 EUR", "0.95 EUR", 2275),
            ("10", "0.08 EUR", "1.90 EUR", 2275),
            ("8", "0.02 EUR", "1.52 EUR", 7500),
            ("15", "0.03 EUR", "2.85 EUR", 9400),
        ] {
            assert_eq!(margin(credits, cost, &packs), (revenue.into(), Some(percent)));
        }
    }

    #[test]
    fn margins_round_half_up_and_may_be_losses() {
        let packs = [pack("1", "1 EUR")];
        assert_eq!(margin("1", "8 EUR", &packs).1, Some(-87)); // -87.5
        assert_eq!(margin("9", "8 EUR", &packs).1, Some(13)); // 12.5
        assert_eq!(margin("2", "1.50 EUR", &packs).1, Some(33)); // 33.3
        assert_eq!(margin("0", "1 EUR", &packs), ("0.00 EUR".into(), Some(-100)));
        assert_eq!(margin("0.0001", "0.0004 EUR", &packs), ("0.0001 EUR".into(), Some(-75)));
    }

    #[test]
    fn an_unknown_part_is_missing() {
        let packs = [pack("3", "1 EUR")];
        assert_eq!(margin("1", "", &packs), ("0.333333333 EUR".into(), None));
        assert_eq!(margin("1", "0 EUR", &packs).1, None);
        assert_eq!(margin("1", "1 USD", &packs).1, None);
        assert_eq!(margin("1", "1 EUR", &[]), ("-".into(), None));
        assert_eq!(margin("1", "1 EUR", &[pack("0", "1 EUR")]), ("-".into(), None));
    }

    proptest! {
        #[test]
        fn rounding_is_off_by_half_at_most(value in -1_000_000..1_000_000i128, by in 1..1000i128) {
            let rounded = divide_half_up(value, by).unwrap();
            let off = 2 * (rounded * by - value);
            prop_assert!(-by < off && off <= by);
        }
    }
}
