//! The value that a `when` requires for a member of the request.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::usage::Scalar;

/// The value that a member must have. Type and value must both be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedValue {
    /// A text. A number with decimals is also stored as the text that was typed.
    Text(Box<str>),
    /// A whole number.
    Number(i64),
    /// `true` or `false`.
    Bool(bool),
}

impl fmt::Display for WantedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

/// Writes the value as JSON.
impl serde::Serialize for WantedValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Bool(value) => serializer.serialize_bool(*value),
        }
    }
}

/// The reason why another parser might take a value for the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Some parsers convert the value to the wanted type: `"50"` to 50, or 1 to `true`.
    Type,
    /// The value differs only in case or in surrounding space.
    Spelling,
}

impl WantedValue {
    /// Whether the type and the value are equal. Numbers may be spelled differently.
    pub(super) fn equals(&self, value: &Scalar) -> bool {
        match (self, value) {
            (Self::Text(wanted), Scalar::Text(text)) => wanted == text,
            (Self::Text(wanted), Scalar::Number(number)) => {
                // The wanted value is a number with decimals, which the config loader passes on as
                // text.
                is_decimal(wanted) && same_number(wanted, number)
            }
            (Self::Number(wanted), Scalar::Number(number)) => {
                same_number(&wanted.to_string(), number)
            }
            (Self::Bool(wanted), Scalar::Bool(value)) => wanted == value,
            _ => false,
        }
    }

    /// The reason why another parser might take `value` for the wanted value, although it is not
    /// equal; `None` if no parser would. `null` is never doubtful.
    pub(super) fn doubt(&self, value: &Scalar) -> Option<Doubt> {
        match (self, value) {
            (_, Scalar::Null) => None,
            (Self::Text(wanted), Scalar::Text(text)) => {
                let is_near = wanted != text && wanted.trim().eq_ignore_ascii_case(text.trim());
                is_near.then_some(Doubt::Spelling)
            }
            (Self::Number(_), Scalar::Number(_)) | (Self::Bool(_), Scalar::Bool(_)) => None,
            (Self::Text(wanted), Scalar::Number(_)) if is_decimal(wanted) => None,
            _ => Some(Doubt::Type),
        }
    }
}

impl<'de> Deserialize<'de> for WantedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl de::Visitor<'_> for Value {
            type Value = WantedValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<WantedValue, E> {
                Ok(WantedValue::Text(text.into()))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<WantedValue, E> {
                Ok(WantedValue::Bool(value))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<WantedValue, E> {
                Ok(WantedValue::Number(number))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

fn is_decimal(text: &str) -> bool {
    text.contains('.') && Decimal::parse(text).is_some()
}

fn same_number(one: &str, other: &str) -> bool {
    Decimal::parse(one).is_some_and(|one| Decimal::parse(other) == Some(one))
}

/// A number in a normal form, in which `50`, `50.0` and `5e1` are equal.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    /// The digits, without zeros at either end; empty for zero.
    digits: String,
    /// The power of ten for the last digit.
    exponent: i64,
}

impl Decimal {
    /// Reads a number of JSON. `None` if the text is not a number, or if the exponent is absurd.
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let all = [whole, fraction].concat();
        let kept = all.trim_end_matches('0');
        let dropped = i64::try_from(all.len() - kept.len()).ok()?;
        let exponent = i64::from(exponent) - i64::try_from(fraction.len()).ok()? + dropped;
        let digits = kept.trim_start_matches('0').to_owned();
        let is_zero = digits.is_empty();
        Some(Self {
            is_negative: is_negative && !is_zero,
            digits,
            exponent: if is_zero { 0 } else { exponent },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> WantedValue {
        WantedValue::Text(text.into())
    }

    #[test]
    fn a_number_is_the_same_however_it_is_spelled() {
        for (number, same) in [
            ("50", true),
            ("50.0", true),
            ("5e1", true),
            ("5E+1", true),
            ("500e-1", true),
            ("0.05e3", true),
            ("51", false),
            ("-50", false),
            ("5", false),
            ("5e2147483648", false),
        ] {
            let value = Scalar::Number(number.into());
            assert_eq!(WantedValue::Number(50).equals(&value), same, "{number}");
        }
        assert!(WantedValue::Number(0).equals(&Scalar::Number("-0.0e5".into())));
        assert!(text("0.5").equals(&Scalar::Number("5e-1".into())));
        assert!(!text("5").equals(&Scalar::Number("5".into())), "written as a text");
    }

    #[test]
    fn a_value_that_another_parser_may_convert_is_in_doubt() {
        let number = |text: &str| Scalar::Number(text.into());
        let string = |text: &str| Scalar::Text(text.into());
        for (wanted, value, doubt) in [
            (text("hd"), string("hd"), None),
            (text("hd"), string("standard"), None),
            (text("hd"), string("HD"), Some(Doubt::Spelling)),
            (text("hd"), string(" hd"), Some(Doubt::Spelling)),
            (text("hd"), number("1"), Some(Doubt::Type)),
            (text("0.5"), number("0.5"), None),
            (WantedValue::Number(50), string("50"), Some(Doubt::Type)),
            (WantedValue::Number(50), number("5e1"), None),
            (WantedValue::Bool(true), number("1"), Some(Doubt::Type)),
            (WantedValue::Bool(true), Scalar::Bool(false), None),
            (WantedValue::Bool(true), Scalar::Null, None),
            (text("hd"), Scalar::Nested, Some(Doubt::Type)),
        ] {
            assert_eq!(wanted.doubt(&value), doubt, "{wanted:?} {value:?}");
        }
    }
}
