//! Writes a log line as one JSON object, with amounts as exact numbers.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime as _;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::timestamp::Timestamp;

/// The fields whose text is a decimal. `tracing` has no type for decimals, and a float would round
/// them.
const AMOUNTS: [&str; 4] = ["amount", "available_after", "cost", "credits"];

/// Formats an event as JSON. Farebox uses no spans.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        line.write_str("{\"timestamp\":\"")?;
        Timestamp.format_time(&mut line)?;
        write!(line, "\",\"level\":\"{}\"", about.level())?;
        let mut fields = Fields { line: &mut line, target: None, done: Ok(()) };
        event.record(&mut fields);
        let Fields { target, done, .. } = fields;
        done?;
        line.write_str(",\"target\":")?;
        write_text(&mut line, target.as_deref().unwrap_or(about.target()))?;
        line.write_str("}\n")
    }
}

/// Writes the fields of an event as members of the object.
struct Fields<'a, 'w> {
    line: &'a mut Writer<'w>,
    /// The target of a line from the `log` crate.
    target: Option<String>,
    done: fmt::Result,
}

impl Fields<'_, '_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        // The module and the line number of a line from the `log` crate are left out. Only its
        // target is written, which names the module.
        if self.done.is_ok() && !field.name().starts_with("log.") {
            self.done = self
                .line
                .write_char(',')
                .and_then(|()| write_text(self.line, field.name()))
                .and_then(|()| self.line.write_char(':'))
                .and_then(|()| value(self.line));
        }
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |line| match value.is_finite() {
            true => write!(line, "{value}"),
            false => line.write_str("null"),
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        self.member(field, |line| write_text(line, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let is_number = AMOUNTS.contains(&field.name()) && is_decimal(&text);
        self.member(field, |line| match is_number {
            true => line.write_str(&text),
            false => write_text(line, &text),
        });
    }
}

/// True if the text has the form of credits and is a JSON number: digits, with at most one point
/// between them.
fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    digits(whole) && digits(part) && (whole == "0" || !whole.starts_with('0'))
}

/// Writes a JSON string.
fn write_text(line: &mut Writer<'_>, text: &str) -> fmt::Result {
    line.write_char('"')?;
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        line.write_str(&text[plain..at])?;
        plain = at + 1;
        if escape.is_empty() {
            write!(line, "\\u{byte:04x}")?;
        } else {
            line.write_str(escape)?;
        }
    }
    line.write_str(&text[plain..])?;
    line.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_json_numbers_and_nothing_else_is() {
        for number in ["5", "0.25", "-3.000001", "0", "9007199254.740992"] {
            assert!(is_decimal(number), "{number}");
            assert!(serde_json::from_str::<serde_json::Number>(number).is_ok(), "{number}");
        }
        for other in ["", "-", "05", "1.", ".5", "1.2.3", "1e5", "NaN", "x", "1 "] {
            assert!(!is_decimal(other), "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_json_string(text in ".*") {
            let mut written = String::new();
            write_text(&mut Writer::new(&mut written), &text).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}
