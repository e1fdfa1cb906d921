//! Limits the log lines that any client can cause without an account. They must neither fill the
//! disk nor hide other lines.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The target of Farebox's own log lines that any client can cause.
const ANYBODY: &str = "farebox::anybody";

/// The target of lines from the `log` crate, in which Pingora reports mistakes of clients.
const LOG_CRATE: &str = "log";

/// The most lines of one kind that are written within [`SPAN`].
const MOST: u32 = 5;

const SPAN: Duration = Duration::from_secs(1);

/// The kind of a line: the place in the program that it comes from.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Kind {
    Own(Identifier),
    /// The module and line number of a line from the `log` crate.
    Logged(String, u64),
}

/// Counts the lines of one kind in the last [`SPAN`].
struct Seen {
    since: Instant,
    written: u32,
    left_out: u64,
}

/// The counts of each kind. There can be no more kinds than places in the program that log.
pub(super) struct Floods(Mutex<Option<HashMap<Kind, Seen>>>);

/// Tells how many lines of one kind were not written.
struct LeftOut {
    from: String,
    lines: u64,
}

pub(super) static FLOODS: Floods = Floods(Mutex::new(None));

impl Floods {
    /// True if a line of this kind may be written.
    fn admits(&self, kind: Kind, now: Instant) -> bool {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Seen { since: now, written: 0, left_out: 0 };
        let seen = kinds.get_or_insert_default().entry(kind).or_insert_with(fresh);
        if now.saturating_duration_since(seen.since) >= SPAN {
            (seen.since, seen.written) = (now, 0);
        }
        let is_written = seen.written < MOST;
        if is_written {
            seen.written += 1;
        } else {
            seen.left_out = seen.left_out.saturating_add(1);
        }
        is_written
    }

    /// The number of lines that were left out since the last report, for each kind whose span is
    /// over. With `at_the_end`, all kinds are included.
    fn left_out(&self, now: Instant, at_the_end: bool) -> Vec<LeftOut> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports = Vec::new();
        for (kind, seen) in kinds.iter_mut().flatten() {
            let is_over = at_the_end || now.saturating_duration_since(seen.since) >= SPAN;
            if seen.left_out > 0 && is_over {
                let lines = std::mem::take(&mut seen.left_out);
                let from = match kind {
                    Kind::Own(place) => place_of(place),
                    Kind::Logged(module, line) => format!("{module}, line {line}"),
                };
                reports.push(LeftOut { from, lines });
            }
        }
        reports
    }

    /// Logs how many lines were left out.
    pub fn report(&self, at_the_end: bool) {
        for LeftOut { from, lines } in self.left_out(Instant::now(), at_the_end) {
            tracing::warn!(
                lines,
                from,
                "left out log lines from one place, which came more than {MOST} times a second"
            );
        }
    }
}

fn place_of(place: &Identifier) -> String {
    let about = place.0.metadata();
    format!(
        "{}, line {}",
        about.module_path().unwrap_or_default(),
        about.line().unwrap_or_default()
    )
}

/// A layer that leaves out the lines that [`FLOODS`] does not admit. It also leaves out Pingora's
/// lines below `info`, whatever RUST_LOG says: they contain heads and bodies, with credentials and
/// cookies.
pub(super) struct Limit;

impl<S: Subscriber> Layer<S> for Limit {
    fn enabled(&self, about: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *about.level() <= Level::INFO || !about.target().starts_with("pingora")
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let about = event.metadata();
        let kind = match about.target() {
            ANYBODY => Kind::Own(about.callsite()),
            LOG_CRATE => {
                let mut place = Place::default();
                event.record(&mut place);
                Kind::Logged(place.module, place.line)
            }
            _ => return true,
        };
        FLOODS.admits(kind, Instant::now())
    }
}

/// The place in the program that a line from the `log` crate names.
#[derive(Default)]
struct Place {
    module: String,
    line: u64,
}

impl Visit for Place {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            value.clone_into(&mut self.module);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log.line" {
            self.line = value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_a_few_times_a_second_and_the_rest_is_counted() {
        let floods = Floods(Mutex::new(None));
        let kind = |line| Kind::Logged("pingora".to_owned(), line);
        let begun = Instant::now();
        let admitted = |line: u64, at: Duration| floods.admits(kind(line), begun + at);
        let written = (0..100).filter(|_| admitted(1, Duration::ZERO)).count();
        assert_eq!(written, MOST as usize);
        assert!(admitted(2, Duration::ZERO), "another kind has a limit of its own");
        assert!(floods.left_out(begun + SPAN / 2, false).is_empty(), "more may come");
        let reports = floods.left_out(begun + SPAN, false);
        assert_eq!((reports.len(), reports[0].lines), (1, 95));
        assert_eq!(reports[0].from, "pingora, line 1");
        assert!(floods.left_out(begun + SPAN, true).is_empty(), "each is reported once");
        assert!(admitted(1, SPAN), "in the next second");
    }
}
