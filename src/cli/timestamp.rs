//! The time of a log line, as RFC 3339 writes it.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    /// The second of this thread's last line: its number since 1970, and its text up to the fraction.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Writes the present time in UTC, with microseconds. Formatting a date takes longer than the rest of a line,
/// so the text of a second is kept.
pub(super) struct Timestamp;

impl FormatTime for Timestamp {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        write_at(line, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

fn write_at(line: &mut impl Write, since_1970: Duration) -> fmt::Result {
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since_1970.as_secs() {
            *second = since_1970.as_secs();
            text.clear();
            text.push_str(&whole_second(*second).ok_or(fmt::Error)?);
        }
        line.write_str(text)
    })?;
    write!(line, ".{:06}Z", since_1970.subsec_micros())
}

/// A second as `2026-11-30T10:00:00`.
fn whole_second(since_1970: u64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(since_1970).ok()?).ok()?;
    let mut text = time.format(&Rfc3339).ok()?;
    // The `Z` comes after the fraction.
    text.pop();
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc_with_its_microseconds() {
        let written = |millis: u64| {
            let mut text = String::new();
            write_at(&mut text, Duration::from_millis(millis)).unwrap();
            text
        };
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_900, "1970-01-01T00:00:01.900000Z"),
            (1_001, "1970-01-01T00:00:01.001000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000000Z"),
            (1_900, "1970-01-01T00:00:01.900000Z"),
        ] {
            assert_eq!(written(millis), expected);
        }
    }
}
