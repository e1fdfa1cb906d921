//! The version of a price table. Each metered entry of the ledger names it.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// The number of bytes of the hash that are shown.
const SHOWN_BYTES: usize = 8;

/// The version of a price table: the first 16 hexadecimal digits of the SHA-256 of its listing, as
/// `GET /credits/prices` answers it. If the listing is kept, it shows which prices applied to an
/// old call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricesVersion(Arc<str>);

impl PricesVersion {
    /// The version of the table with this listing.
    pub fn of(listing: &str) -> Self {
        let hash = Sha256::digest(listing.as_bytes());
        Self(hex::encode(&hash[..SHOWN_BYTES]).into())
    }

    /// The digits.
    pub fn as_str(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for PricesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_sixteen_digits_and_changes_with_the_listing() {
        assert_eq!(PricesVersion::of("[]").to_string(), "4f53cda18c2baa0c");
        assert_ne!(PricesVersion::of("[]"), PricesVersion::of("[1]"));
    }
}
