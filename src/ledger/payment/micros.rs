//! Credits in a stored document: a count of micro-credits. For `#[serde(with = "…")]`.

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use crate::credits::Credits;

pub(super) fn serialize<S: Serializer>(
    credits: &Credits,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(credits.micros())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Credits, D::Error> {
    let micros = u64::deserialize(deserializer)?;
    Credits::from_micros(micros).ok_or_else(|| D::Error::custom("too many credits"))
}
