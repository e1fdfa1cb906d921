//! Writes a log line as text for people.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::FormatTime as _;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::app::USAGE_TARGET;
use crate::cli::timestamp::Timestamp;

/// Formats an event as `tracing` does. The line that every paid call writes is formatted here, to the same bytes,
/// because `tracing`'s formatter spends most of its time on colours, even if it writes none.
pub(super) struct TextLine(Format<Full, Timestamp>);

impl TextLine {
    pub fn new() -> Self {
        Self(Format::default().with_timer(Timestamp))
    }
}

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        if about.target() != USAGE_TARGET || line.has_ansi_escapes() {
            return self.0.format_event(context, line, event);
        }
        Timestamp.format_time(&mut line)?;
        write!(line, " {:>5} ", about.level().as_str())?;
        line.write_str(about.target())?;
        line.write_str(": ")?;
        let mut fields = Fields { line: &mut line, is_first: true, done: Ok(()) };
        event.record(&mut fields);
        fields.done?;
        line.write_char('\n')
    }
}

/// Writes the fields of an event: the message, then ` name=value` for each of the others.
struct Fields<'a, 'w> {
    line: &'a mut Writer<'w>,
    is_first: bool,
    done: fmt::Result,
}

impl Fields<'_, '_> {
    fn write(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.done.is_ok() {
            self.done = self.begin(field).and_then(|()| value(self.line));
        }
    }

    fn begin(&mut self, field: &Field) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.line.write_char(' ')?;
        }
        if field.name() == "message" {
            return Ok(());
        }
        self.line.write_str(field.name())?;
        self.line.write_char('=')
    }
}

impl Visit for Fields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\');
        if !is_plain {
            return self.record_debug(field, &value);
        }
        self.write(field, |line| {
            line.write_char('"')?;
            line.write_str(value)?;
            line.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, |line| write!(line, "{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::app::{Usage, log_usage};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn the_line_of_a_charge_is_the_one_that_the_usual_formatter_writes() {
        for ansi in [false, true] {
            let (ours, usual) = (Lines::default(), Lines::default());
            let layer = tracing_subscriber::fmt::layer().with_ansi(ansi);
            let layer = layer.with_writer(ours.clone()).event_format(TextLine::new());
            let other = tracing_subscriber::fmt::layer().with_ansi(ansi);
            let other = other.with_writer(usual.clone()).with_timer(Timestamp);
            let both = tracing_subscriber::registry().with(layer).with(other);
            tracing::subscriber::with_default(both, || {
                for (model, route) in [(None, "/a/b"), (Some("gpt \"4\\\u{1b}[0m"), "/é\n")] {
                    log_usage(&Usage {
                        account: &"alice@example.com".parse().unwrap(),
                        route,
                        model,
                        cost: "0.25".parse().unwrap(),
                        available_after: "-3".parse().unwrap(),
                        request_id: "0193-7",
                    });
                }
                tracing::warn!(upstream = "ai", "another line");
            });
            // The two formatters read the clock one after the other, so their times may differ.
            let without_time = |lines: &Lines| {
                let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
                let cut = |line: &str| line.split_once('Z').unwrap().1.to_owned();
                text.lines().map(cut).collect::<Vec<_>>()
            };
            let lines = without_time(&ours);
            assert_eq!(lines, without_time(&usual));
            assert_eq!(lines.len(), 3);
        }
    }
}
