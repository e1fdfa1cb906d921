//! Amounts of credits: integers in memory, decimals in text. No floating-point number is involved.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

/// The number of micro-credits in one credit.
pub const MICROS_PER_CREDIT: u64 = 1_000_000;

/// The largest amount in micro-credits: 2^53. JSON readers that store numbers as doubles do not round
/// any amount up to this one.
pub const MAX_MICROS: u64 = 1 << 53;

/// An amount of credits: never negative, at most [`MAX_MICROS`], exact to one micro-credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credits(u64);

/// A signed amount of credits: a balance (negative while there is a debt), or the change that a ledger
/// entry makes to a balance. Its magnitude is at most [`MAX_MICROS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignedCredits(i64);

/// The reason why a text is not an amount of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreditsError {
    /// The text is not a plain decimal: digits, with at most one point between them.
    #[error("an amount of credits is a plain decimal such as 5 or 0.25")]
    NotADecimal,
    /// The amount has a fraction of a micro-credit.
    #[error("credits have at most six decimals")]
    TooFine,
    /// The amount is above [`MAX_MICROS`].
    #[error("at most 9007199254.740992 credits (2^53 micro-credits) can be counted")]
    TooLarge,
    /// The amount is below zero, where a negative amount makes no sense.
    #[error("an amount of credits cannot be negative")]
    Negative,
}

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);

    /// The largest amount.
    pub const MAX: Self = Self(MAX_MICROS);

    /// An amount in micro-credits; `None` above [`MAX_MICROS`].
    pub const fn from_micros(micros: u64) -> Option<Self> {
        if micros <= MAX_MICROS { Some(Self(micros)) } else { None }
    }

    /// An amount in whole credits; `None` above [`MAX_MICROS`].
    pub const fn from_whole(credits: u64) -> Option<Self> {
        match credits.checked_mul(MICROS_PER_CREDIT) {
            Some(micros) => Self::from_micros(micros),
            None => None,
        }
    }

    /// The amount in micro-credits.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// True for zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum; `None` above [`MAX_MICROS`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_micros)
    }

    /// The difference; `None` if `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The change of a balance that adds this amount.
    pub const fn signed(self) -> SignedCredits {
        // The value is at most 2^53, so the cast does not change it.
        SignedCredits(self.0 as i64)
    }

    /// The amount in whole credits as a float, which may be rounded. For metrics only.
    pub fn as_metric(self) -> f64 {
        self.0 as f64 / MICROS_PER_CREDIT as f64
    }
}

impl SignedCredits {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// A signed amount in micro-credits; `None` if its magnitude is above [`MAX_MICROS`].
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if micros.unsigned_abs() <= MAX_MICROS { Some(Self(micros)) } else { None }
    }

    /// The amount in micro-credits.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// True for amounts below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The sum; `None` if its magnitude is above [`MAX_MICROS`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_micros)
    }

    /// The difference; `None` if its magnitude is above [`MAX_MICROS`].
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).and_then(Self::from_micros)
    }

    /// The amount as [`Credits`]; `None` if it is negative.
    pub fn non_negative(self) -> Option<Credits> {
        u64::try_from(self.0).ok().map(Credits)
    }

    /// The part of a balance that can be spent: the balance itself, or zero if it is negative.
    pub fn spendable(self) -> Credits {
        Credits(u64::try_from(self.0).unwrap_or(0))
    }
}

impl std::ops::Neg for SignedCredits {
    type Output = Self;
    fn neg(self) -> Self {
        // The range is symmetric, so this cannot overflow.
        Self(-self.0)
    }
}

impl Sum for Credits {
    /// Adds up amounts, for reports only: a sum above [`MAX_MICROS`] becomes [`MAX_MICROS`].
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |sum, next| sum.checked_add(next).unwrap_or(Self(MAX_MICROS)))
    }
}

fn parse_micros(text: &str) -> Result<u64, CreditsError> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, fraction),
        None => (text, "0"),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(CreditsError::NotADecimal);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 6 {
        return Err(CreditsError::TooFine);
    }
    let mut micros: u64 = 0;
    let padding = std::iter::repeat_n(b'0', 6 - fraction.len());
    for digit in whole.bytes().chain(fraction.bytes()).chain(padding) {
        micros = micros
            .checked_mul(10)
            .and_then(|m| m.checked_add(u64::from(digit - b'0')))
            .filter(|m| *m <= MAX_MICROS)
            .ok_or(CreditsError::TooLarge)?;
    }
    Ok(micros)
}

fn write_micros(f: &mut fmt::Formatter<'_>, micros: u64) -> fmt::Result {
    let (whole, fraction) = (micros / MICROS_PER_CREDIT, micros % MICROS_PER_CREDIT);
    if fraction == 0 {
        return write!(f, "{whole}");
    }
    let fraction = format!("{fraction:06}");
    write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
}

impl FromStr for Credits {
    type Err = CreditsError;
    fn from_str(text: &str) -> Result<Self, CreditsError> {
        if text.starts_with('-') {
            return Err(CreditsError::Negative);
        }
        parse_micros(text).map(Self)
    }
}

impl FromStr for SignedCredits {
    type Err = CreditsError;
    fn from_str(text: &str) -> Result<Self, CreditsError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let amount = Credits(parse_micros(digits)?).signed();
        Ok(if negative { -amount } else { amount })
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_micros(f, self.0)
    }
}

impl fmt::Display for SignedCredits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        write_micros(f, self.0.unsigned_abs())
    }
}

/// Writes a JSON number from the amount's decimal digits: `5`, `0.25`.
impl Serialize for Credits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_number(self.to_string(), serializer)
    }
}

/// Writes a JSON number from the amount's decimal digits: `-5`, `0.25`.
impl Serialize for SignedCredits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_number(self.to_string(), serializer)
    }
}

fn serialize_number<S: Serializer>(digits: String, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(digits).map_err(S::Error::custom)?.serialize(serializer)
}

/// Reads a whole number, or a decimal as text. The config loader passes a TOML float on as the text
/// that was typed.
impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl Visitor<'_> for Amount {
            type Value = Credits;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of credits such as 5 or 0.25")
            }
            fn visit_u64<E: de::Error>(self, whole: u64) -> Result<Credits, E> {
                Credits::from_whole(whole).ok_or_else(|| E::custom(CreditsError::TooLarge))
            }
            fn visit_i64<E: de::Error>(self, whole: i64) -> Result<Credits, E> {
                let whole = u64::try_from(whole).map_err(|_| E::custom(CreditsError::Negative))?;
                self.visit_u64(whole)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Credits, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Amount)
    }
}

/// Reads an amount from the digits of a JSON number, or from a string, without a float. For members
/// of request bodies: `#[serde(deserialize_with = "json_number")]`.
pub fn json_number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = CreditsError>,
{
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    raw.get().trim_matches('"').parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_printed_amount_reads_back_the_same(micros in 0..=MAX_MICROS, negative: bool) {
            let amount = Credits::from_micros(micros).unwrap();
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            let signed = if negative { -amount.signed() } else { amount.signed() };
            prop_assert_eq!(signed.to_string().parse(), Ok(signed));
            let json = serde_json::to_string(&signed).unwrap();
            prop_assert_eq!(json, signed.to_string());
        }
    }

    #[test]
    fn amounts_that_make_no_sense_are_refused() {
        for (text, why) in [
            ("-5", CreditsError::Negative),
            ("", CreditsError::NotADecimal),
            ("5.", CreditsError::NotADecimal),
            (".5", CreditsError::NotADecimal),
            ("+5", CreditsError::NotADecimal),
            ("1e3", CreditsError::NotADecimal),
            ("NaN", CreditsError::NotADecimal),
            ("0.0000001", CreditsError::TooFine),
            ("9007199254.740993", CreditsError::TooLarge),
            ("99999999999999999999999999", CreditsError::TooLarge),
        ] {
            assert_eq!(text.parse::<Credits>(), Err(why), "{text}");
        }
        assert_eq!("0.2500000".parse::<Credits>().unwrap().micros(), 250_000);
    }

    #[test]
    fn json_amounts_never_pass_through_a_float() {
        #[derive(serde::Deserialize)]
        struct Body {
            #[serde(deserialize_with = "json_number")]
            credits: Credits,
        }
        let read = |json: &str| serde_json::from_str::<Body>(json).map(|b| b.credits.micros());
        assert_eq!(read(r#"{"credits": 9007199254.740992}"#).unwrap(), MAX_MICROS);
        assert_eq!(read(r#"{"credits": "0.1"}"#).unwrap(), 100_000);
        assert!(read(r#"{"credits": -1}"#).is_err());
        assert!(read(r#"{"credits": 1e3}"#).is_err());
        assert!(read(r#"{"credits": null}"#).is_err());
    }
}
