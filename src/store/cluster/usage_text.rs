//! The usage of a metered call as text. The text is a part of batches, and of the charges that a stopping gateway
//! leaves.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::credits::Credits;
use crate::usage::{Usage, UsageRecord};

/// A usage record as JSON, in one line. This version ignores members that a later version adds.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    /// The credits that were held, in micro-credits.
    #[serde(rename = "h")]
    held: u64,
    #[serde(rename = "m", borrow, default, skip_serializing_if = "Option::is_none")]
    model: Option<Cow<'a, str>>,
    #[serde(rename = "u")]
    usage: Usage,
    #[serde(rename = "p", borrow)]
    prices: Cow<'a, str>,
}

/// Formats a record as text.
pub(crate) fn write(record: &UsageRecord) -> String {
    let UsageRecord { held, model, usage, prices } = record;
    let text = Text {
        held: held.micros(),
        model: model.as_deref().map(Cow::Borrowed),
        usage: *usage,
        prices: Cow::Borrowed(prices),
    };
    // All keys are strings, so the record always serializes.
    serde_json::to_string(&text).unwrap_or_default()
}

/// Reads a text that [`write`] wrote; `None` for any other text.
pub(crate) fn read(text: &str) -> Option<UsageRecord> {
    let Text { held, model, usage, prices } = serde_json::from_str(text).ok()?;
    Some(UsageRecord {
        held: Credits::from_micros(held)?,
        model: model.map(Arc::from),
        usage,
        prices: Arc::from(prices),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Kind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_record_reads_back_from_one_line(
            held in 0..=(1u64 << 53),
            model in proptest::option::of(".*"),
            counts in proptest::collection::vec(0..=(1u64 << 40), Kind::ALL.len()),
            prices in "[0-9a-f]{0,16}",
        ) {
            let mut usage = Usage::NONE;
            for (kind, count) in Kind::ALL.into_iter().zip(counts) {
                usage.set(kind, count).unwrap();
            }
            let record = UsageRecord {
                held: Credits::from_micros(held).unwrap(),
                model: model.map(Into::into),
                usage,
                prices: prices.into(),
            };
            let line = write(&record);
            prop_assert!(!line.contains('\n') && !line.contains('\0'));
            prop_assert_eq!(read(&line), Some(record));
        }
    }

    #[test]
    fn a_record_is_short_and_may_grow() {
        let usage = Usage::NONE.with(Kind::Input, 600).unwrap();
        let held = Credits::from_micros(1500).unwrap();
        let record = UsageRecord { held, model: Some("m".into()), usage, prices: "01ab".into() };
        let line = r#"{"h":1500,"m":"m","u":{"input":600},"p":"01ab"}"#;
        assert_eq!(write(&record), line);
        assert_eq!(read(&line.replace(r#""p""#, r#""k":"key","p""#)), Some(record));
        assert_eq!(read("{}"), None);
        assert_eq!(read(""), None);
    }
}
