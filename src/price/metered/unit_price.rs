//! The price of one unit of usage, and exact sums of such prices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use crate::credits::{Credits, MAX_MICROS};
use crate::usage::Kind;

/// The number of decimals of a price.
const DECIMALS: usize = 9;

/// The number of billionths in one credit.
const NANOS_PER_CREDIT: u64 = 10_u64.pow(DECIMALS as u32);

/// The number of tokens that one price of tokens pays for.
const TOKENS_PER_PRICE: u64 = 1_000_000;

/// The number of quadrillionths (10^-15) of a credit in a micro-credit. [`Exact`] counts
/// quadrillionths.
const FEMTOS_PER_MICRO: u128 = 1_000_000_000;

/// The price of a million tokens of one kind, or of one unit of another kind, in credits. It has at
/// most nine decimals, so the smallest price is 0.000000001. It is never negative, and at most the
/// largest amount of [`Credits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitPrice(u64);

/// The reason why a text is not a price. The part after the semicolon is the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitPriceError {
    /// The text is not a plain decimal.
    #[error("a price is a plain decimal; write 250 or 0.25, without a currency")]
    NotADecimal,
    /// The price is below zero.
    #[error("a price cannot be negative; write 0 for a unit that costs nothing")]
    Negative,
    /// The price has more than nine decimals.
    #[error("a price has at most nine decimals; round it to 0.000000001 credits")]
    TooFine,
    /// The price is more than the largest amount of credits.
    #[error("a price is at most 9007199254.740992 credits; write a smaller one")]
    TooLarge,
}

impl UnitPrice {
    /// A price of nothing.
    pub const ZERO: Self = Self(0);

    /// The largest price, in billionths of a credit.
    const MAX_NANOS: u64 = MAX_MICROS * (NANOS_PER_CREDIT / 1_000_000);

    /// Whether the unit costs nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The price in billionths of a credit, for a million tokens or for one unit.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

impl FromStr for UnitPrice {
    type Err = UnitPriceError;

    fn from_str(text: &str) -> Result<Self, UnitPriceError> {
        if text.starts_with('-') {
            return Err(UnitPriceError::Negative);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(UnitPriceError::NotADecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        let missing = DECIMALS.checked_sub(fraction.len()).ok_or(UnitPriceError::TooFine)?;
        let padding = std::iter::repeat_n(b'0', missing);
        let nanos = whole
            .bytes()
            .chain(fraction.bytes())
            .chain(padding)
            .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .filter(|nanos| *nanos <= Self::MAX_NANOS);
        nanos.map(Self).ok_or(UnitPriceError::TooLarge)
    }
}

/// Writes the shortest decimal: `250`, `312.5`.
impl fmt::Display for UnitPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / NANOS_PER_CREDIT, self.0 % NANOS_PER_CREDIT);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{fraction:0DECIMALS$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// Writes a JSON number, digit by digit.
impl serde::Serialize for UnitPrice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let number = serde_json::value::RawValue::from_string(self.to_string());
        number.map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// Reads a whole number, or a decimal as text. (The config loader passes a TOML float on as the
/// text that was typed.)
impl<'de> Deserialize<'de> for UnitPrice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = UnitPrice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a price in credits such as 250 or 0.25")
            }
            fn visit_u64<E: de::Error>(self, whole: u64) -> Result<UnitPrice, E> {
                let nanos = whole.checked_mul(NANOS_PER_CREDIT);
                let price = nanos.filter(|nanos| *nanos <= UnitPrice::MAX_NANOS).map(UnitPrice);
                price.ok_or_else(|| E::custom(UnitPriceError::TooLarge))
            }
            fn visit_i64<E: de::Error>(self, whole: i64) -> Result<UnitPrice, E> {
                let whole = u64::try_from(whole);
                self.visit_u64(whole.map_err(|_| E::custom(UnitPriceError::Negative))?)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<UnitPrice, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// An exact amount of credits, in quadrillionths (10^-15) of a credit. It is a sum of prices before
/// rounding.
///
/// A term is at most 2^40 units at the highest price, which is below 10^37. So a sum of the fifteen
/// prices of a model cannot overflow. A product of larger counts becomes the largest value, which
/// no account can pay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exact(u128);

impl Exact {
    /// The amount zero.
    pub(super) const ZERO: Self = Self(0);

    /// A whole number of micro-credits.
    pub(super) fn of(credits: Credits) -> Self {
        Self(u128::from(credits.micros()) * FEMTOS_PER_MICRO)
    }

    /// The price of `count` tokens or other units of `kind`.
    pub(super) fn units(price: UnitPrice, kind: Kind, count: u64) -> Self {
        let pieces = if kind.is_token() { 1 } else { TOKENS_PER_PRICE };
        let one = u128::from(price.0) * u128::from(pieces);
        Self(one.saturating_mul(u128::from(count)))
    }

    /// The price of one call.
    pub(super) fn call(price: UnitPrice) -> Self {
        Self(u128::from(price.0) * u128::from(TOKENS_PER_PRICE))
    }

    /// The sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero if `other` is larger.
    pub(super) fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// How many times `other` fits into this amount; `None` if `other` is zero.
    pub(super) fn times(self, other: Self) -> Option<u128> {
        self.0.checked_div(other.0)
    }

    /// The amount rounded up to a micro-credit; `None` if it is more than credits can count.
    pub(super) fn rounded_up(self) -> Option<Credits> {
        let micros = u64::try_from(self.0.div_ceil(FEMTOS_PER_MICRO)).ok()?;
        Credits::from_micros(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::MAX_COUNT;

    #[test]
    fn a_price_is_read_and_shown_digit_by_digit() {
        for (text, nanos, shown) in [
            ("250", 250_000_000_000, "250"),
            ("312.5", 312_500_000_000, "312.5"),
            ("0.000000001", 1, "0.000000001"),
            ("0.1000000000000", 100_000_000, "0.1"),
            ("0", 0, "0"),
            ("9007199254.740992", UnitPrice::MAX_NANOS, "9007199254.740992"),
        ] {
            let price: UnitPrice = text.parse().unwrap();
            assert_eq!((price.nanos(), price.to_string()), (nanos, shown.to_owned()), "{text}");
            assert_eq!(serde_json::to_string(&price).unwrap(), shown);
        }
        for (text, why) in [
            ("-1", UnitPriceError::Negative),
            ("", UnitPriceError::NotADecimal),
            ("1e3", UnitPriceError::NotADecimal),
            ("1.", UnitPriceError::NotADecimal),
            ("+1", UnitPriceError::NotADecimal),
            ("2.50 USD", UnitPriceError::NotADecimal),
            ("nan", UnitPriceError::NotADecimal),
            ("0.0000000001", UnitPriceError::TooFine),
            ("9007199254.740993", UnitPriceError::TooLarge),
            ("99999999999999999999999", UnitPriceError::TooLarge),
        ] {
            assert_eq!(text.parse::<UnitPrice>(), Err(why), "{text}");
        }
    }

    #[test]
    fn the_largest_prices_of_the_largest_counts_do_not_overflow() {
        let highest = UnitPrice(UnitPrice::MAX_NANOS);
        let all = Kind::ALL.iter().fold(Exact::call(highest), |sum, kind| {
            sum.plus(Exact::units(highest, *kind, MAX_COUNT))
        });
        assert!(all.0 < u128::MAX / 2, "{all:?}");
        assert_eq!(all.rounded_up(), None);
        assert_eq!(Exact::units(highest, Kind::Image, u64::MAX).rounded_up(), None);
        assert_eq!(Exact(1).rounded_up(), Credits::from_micros(1));
        assert_eq!(Exact(FEMTOS_PER_MICRO).rounded_up(), Credits::from_micros(1));
        assert_eq!(Exact(FEMTOS_PER_MICRO + 1).rounded_up(), Credits::from_micros(2));
    }
}
