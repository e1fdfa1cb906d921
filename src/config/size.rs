//! Sizes of memory as people write them: `64 KiB`, `256 MiB`, `1 GiB`.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A size in bytes from the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    /// A size of whole mebibytes.
    pub const fn from_mib(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    fn parse(text: &str) -> Option<Self> {
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text.get(number.len()..)?;
        let (_, bytes) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let number = number.trim_end();
        let is_plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| number.parse::<u64>().ok()?.checked_mul(bytes).map(Self)).flatten()
    }
}

/// Writes the size as in the config.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &(&str, u64)| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        let (name, bytes) = UNITS.into_iter().find(fits).unwrap_or(("B", 1));
        write!(f, "{} {name}", self.0 / bytes)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in quotes, such as \"64 KiB\" or \"256 MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| {
                    E::custom(format_args!(
                        "`{text}` is not a size; write it like \"64 KiB\" or \"256 MiB\""
                    ))
                })
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown_as_people_write_them() {
        for (text, bytes) in
            [("1 B", 1), ("64 KiB", 64 << 10), ("256 MiB", 256 << 20), ("2 GiB", 2 << 30)]
        {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(Size::parse("3MiB"), Some(Size::from_mib(3)));
        assert_eq!(Size(1025).to_string(), "1025 B");
        for text in ["", "1", "KiB", "-1 KiB", "1 KB", "1.5 MiB", "1 kib", "99999999999 GiB"] {
            assert_eq!(Size::parse(text), None, "{text:?}");
        }
    }
}
