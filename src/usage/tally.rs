//! Usage: an amount for each kind.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::kind::Kind;

/// The largest amount of one kind that counts as usage: 2^40. A larger number is not believed.
pub const MAX_COUNT: u64 = 1 << 40;

/// The amount of each kind that a call used. The JSON form has only the kinds that are not zero:
/// `{"input":600,"cached_input":400,"output":300}`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage([u64; Kind::ALL.len()]);

/// The error of a count above [`MAX_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than 2^40 of one kind")]
pub struct UsageError;

impl Usage {
    /// No usage.
    pub const NONE: Self = Self([0; Kind::ALL.len()]);

    /// The amount of `kind`.
    pub const fn of(&self, kind: Kind) -> u64 {
        self.0[kind.index()]
    }

    /// Sets the amount of `kind`.
    ///
    /// # Errors
    /// [`UsageError`] if the count is above [`MAX_COUNT`].
    pub const fn set(&mut self, kind: Kind, count: u64) -> Result<(), UsageError> {
        if count > MAX_COUNT {
            return Err(UsageError);
        }
        self.0[kind.index()] = count;
        Ok(())
    }

    /// This usage with `count` as the amount of `kind`.
    ///
    /// # Errors
    /// [`UsageError`] if the count is above [`MAX_COUNT`].
    pub fn with(mut self, kind: Kind, count: u64) -> Result<Self, UsageError> {
        self.set(kind, count)?;
        Ok(self)
    }

    /// The kinds that are not zero, with their amounts.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|(_, count)| *count > 0)
    }

    /// Whether no kind was used.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// The tokens of the request, of all kinds together.
    pub fn input_tokens(&self) -> u64 {
        self.sum(Kind::is_input)
    }

    /// The tokens of the answer, of all kinds together.
    pub fn output_tokens(&self) -> u64 {
        self.sum(Kind::is_output)
    }

    fn sum(&self, counts: impl Fn(Kind) -> bool) -> u64 {
        // There are at most ten such kinds of at most 2^40 each, so the sum does not overflow.
        self.iter().filter(|(kind, _)| counts(*kind)).map(|(_, count)| count).sum()
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(kind, count)| (kind.as_str(), count))).finish()
    }
}

impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (kind, count) in self.iter() {
            map.serialize_entry(kind.as_str(), &count)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Usage {
    /// Reads the form that [`Usage::serialize`] writes. A kind of a later version is an error, so
    /// that no usage is lost silently.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kinds;
        impl<'de> Visitor<'de> for Kinds {
            type Value = Usage;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a count of each kind of usage")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Usage, A::Error> {
                use serde::de::Error;
                let mut usage = Usage::NONE;
                while let Some((name, count)) = map.next_entry::<String, u64>()? {
                    let kind = Kind::parse(&name)
                        .ok_or_else(|| A::Error::custom(format_args!("unknown kind `{name}`")))?;
                    usage.set(kind, count).map_err(A::Error::custom)?;
                }
                Ok(usage)
            }
        }
        deserializer.deserialize_map(Kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_back_as_it_was_written() {
        let mut usage = Usage::NONE;
        assert_eq!(serde_json::to_string(&usage).unwrap(), "{}");
        usage.set(Kind::CachedInput, 400).unwrap();
        usage.set(Kind::Input, 600).unwrap();
        usage.set(Kind::Reasoning, MAX_COUNT).unwrap();
        let json = serde_json::to_string(&usage).unwrap();
        assert_eq!(json, r#"{"input":600,"cached_input":400,"reasoning":1099511627776}"#);
        assert_eq!(serde_json::from_str::<Usage>(&json).unwrap(), usage);
        assert_eq!((usage.input_tokens(), usage.output_tokens()), (1000, MAX_COUNT));
        for wrong in [r#"{"tokens":1}"#, r#"{"input":-1}"#, r#"{"input":1099511627777}"#] {
            assert!(serde_json::from_str::<Usage>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(usage.set(Kind::Output, MAX_COUNT + 1), Err(UsageError));
    }
}
