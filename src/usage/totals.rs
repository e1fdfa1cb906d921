//! The usage of many calls together.

use serde::ser::{Serialize, Serializer};

use super::kind::Kind;

/// The amount of each kind that many calls used together. Unlike [`Usage`](super::Usage), it may be
/// more than one call can use. The JSON form has only the kinds that are not zero:
/// `{"input":600,"output":300}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals([u64; Kind::ALL.len()]);

impl Totals {
    /// The amount of `kind`.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind.index()]
    }

    /// Adds `count` to the amount of `kind`. A sum of 2^64 or more becomes the largest number.
    pub fn add(&mut self, kind: Kind, count: u64) {
        let sum = &mut self.0[kind.index()];
        *sum = sum.saturating_add(count);
    }

    /// Adds the counts of other calls.
    pub fn add_all(&mut self, other: &Self) {
        for (kind, count) in other.iter() {
            self.add(kind, count);
        }
    }

    /// The kinds that are not zero, with their amounts.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|(_, count)| *count > 0)
    }
}

impl Serialize for Totals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(kind, count)| (kind.as_str(), count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::MAX_COUNT;

    #[test]
    fn totals_hold_more_than_one_call_can_use_and_never_wrap() {
        let mut totals = Totals::default();
        assert_eq!(serde_json::to_string(&totals).unwrap(), "{}");
        for _ in 0..3 {
            totals.add(Kind::Output, MAX_COUNT);
        }
        totals.add(Kind::Input, 5);
        let mut more = totals.clone();
        more.add_all(&totals);
        assert_eq!(
            serde_json::to_string(&more).unwrap(),
            format!(r#"{{"input":10,"output":{}}}"#, 6 * MAX_COUNT)
        );
        more.add(Kind::Output, u64::MAX);
        assert_eq!(more.of(Kind::Output), u64::MAX);
    }
}
