//! Payments: what is sold for money, and what becomes of it. Pure.

mod facts;
mod known;
mod record;
#[cfg(test)]
mod tests;

pub use facts::{Dispute, Due, Facts, Money, OnDispute, Progress, Refund, Sale, Stage};
pub(super) use known::KnownPayments;
pub use record::{Payment, Settled, TakeFacts};

/// Credits in a stored document: a count of micro-credits.
mod micros {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::credits::Credits;

    pub fn serialize<S: Serializer>(credits: &Credits, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(credits.micros())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Credits, D::Error> {
        let micros = u64::deserialize(deserializer)?;
        Credits::from_micros(micros).ok_or_else(|| D::Error::custom("too many credits"))
    }
}
