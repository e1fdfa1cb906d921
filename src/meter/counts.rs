//! The counts of an answer, read from their spelling.

use crate::usage::MAX_COUNT;

/// The longest spelling of a count that is read, in bytes.
const LONGEST: usize = 64;

/// The counts of one usage object. Each meter numbers them in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<const N: usize> {
    values: [Option<u64>; N],
    /// Whether a count was negative, above 2^40, or not a whole number.
    pub is_false: bool,
}

impl<const N: usize> Counts<N> {
    /// No counts.
    pub const NONE: Self = Self { values: [None; N], is_false: false };

    /// One count. `None` if the answer has none.
    pub fn get(&self, field: usize) -> Option<u64> {
        self.values.get(field).copied().flatten()
    }

    /// One count; 0 if the answer has none.
    pub fn or_zero(&self, field: usize) -> u64 {
        self.get(field).unwrap_or(0)
    }

    /// Whether there is a count, even one that could not be read.
    pub fn is_any(&self) -> bool {
        self.is_false || self.values.iter().any(Option::is_some)
    }

    /// Adds a count. If an answer gives a count under two names, the larger value stays.
    pub fn take(&mut self, field: usize, count: Option<u64>) {
        match (self.values.get_mut(field), count) {
            (Some(value), Some(count)) => *value = (*value).max(Some(count)),
            (Some(_), None) => self.is_false = true,
            (None, _) => {}
        }
    }

    /// Replaces the counts that `later` has as well.
    pub fn overwrite(&mut self, later: &Self) {
        for (value, later) in self.values.iter_mut().zip(later.values) {
            *value = later.or(*value);
        }
        self.is_false |= later.is_false;
    }
}

/// Reads a count: a whole number from 0 to 2^40, which may be spelled `12.0` or `1.2e1`.
pub fn whole(spelled: Option<&[u8]>) -> Option<u64> {
    match decimal(spelled?)? {
        (count, false) => Some(count),
        (_, true) => None,
    }
}

/// Reads a duration in seconds, rounded up to a whole number.
pub fn seconds(spelled: Option<&[u8]>) -> Option<u64> {
    let (whole, has_rest) = decimal(spelled?)?;
    Some(whole + u64::from(has_rest))
}

/// The whole part of a number from 0 to 2^40, and whether there is a fraction.
fn decimal(spelled: &[u8]) -> Option<(u64, bool)> {
    let text = std::str::from_utf8(spelled).ok().filter(|text| text.len() <= LONGEST)?;
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut digits: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits.checked_mul(10)?.checked_add(u128::from(digit.checked_sub(b'0')?))?;
    }
    if digits == 0 {
        return Some((0, false));
    }
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    let (whole, has_rest) = match (exponent >= 0, power) {
        (true, power) => (digits.checked_mul(power?)?, false),
        (false, Some(power)) => (digits / power, !digits.is_multiple_of(power)),
        // The number is far below 1.
        (false, None) => (0, true),
    };
    let count = u64::try_from(whole).ok().filter(|count| *count <= MAX_COUNT)?;
    (!is_negative).then_some((count, has_rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_whole_number_however_it_is_spelled() {
        for (spelled, count) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0", Some(0)),
            ("0e99999", Some(0)),
            ("12", Some(12)),
            ("12.0", Some(12)),
            ("12.000000000000000000000000000000000000000000", Some(12)),
            ("1.2e1", Some(12)),
            ("1200E-2", Some(12)),
            ("1099511627776", Some(MAX_COUNT)),
            ("1099511627777", None),
            ("12.5", None),
            ("-1", None),
            ("-0.5", None),
            ("1e-1", None),
            ("1e13", None),
            ("1e400", None),
            ("1e-400", None),
            ("1e99999999999", None),
            ("99999999999999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(whole(Some(spelled.as_bytes())), count, "{spelled}");
        }
        assert_eq!(whole(None), None);
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (spelled, count) in [("9", Some(9)), ("9.0", Some(9)), ("9.01", Some(10)), ("-1", None)]
        {
            assert_eq!(seconds(Some(spelled.as_bytes())), count, "{spelled}");
        }
        assert_eq!(seconds(Some(b"1e-400")), Some(1));
    }
}
