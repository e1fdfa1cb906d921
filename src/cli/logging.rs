//! Writes log lines to standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::app::USAGE_TARGET;
use crate::cli::flood::{FLOODS, Limit};
use crate::cli::json_line::JsonLine;
use crate::cli::text_line::TextLine;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// The longest time for which a line about an ordinary call waits, so that several lines are
/// written together. Writing each line at once would add some microseconds to every call.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Waiting lines are written once they have this many bytes.
const FLUSH_AT_BYTES: usize = 64 * 1024;

/// The filter of a gateway if RUST_LOG is not set.
const GATEWAY_FILTER: &str = "info,pingora_core=warn,sqlx=warn";

/// The filter of other commands if RUST_LOG is not set. Two modules are let through: they log the
/// progress of a long command, and the reason why it waits.
const COMMAND_FILTER: &str = "warn,farebox::store::cluster::import=info,\
                              farebox::store::cluster::postgres::months=info";

static IS_JSON: AtomicBool = AtomicBool::new(false);

static LINES: Lines = Lines { waiting: Mutex::new(Vec::new()) };

/// Starts logging. A gateway logs from `info` on, but only from `warn` on for Pingora and the
/// databases' clients, because Postgres sends notices about ordinary states. Other commands log
/// from `warn` on, so that their output stays readable. RUST_LOG overrides this.
///
/// Pingora's lines below `info` contain the forwarded heads and the upstream's credentials. So they
/// are never written ([`Limit`]), and its lines at `trace` are not even compiled in (Cargo.toml).
pub(super) fn start(format: LogFormat, is_gateway: bool) {
    // Lines at `trace` are not compiled in. If they were asked for, the filter would print a
    // warning.
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).map(|asked| asked.replace("trace", "debug"));
    let asked = asked.ok().filter(|asked| !asked.trim().is_empty());
    let filter = asked.and_then(|asked| EnvFilter::try_new(asked).ok());
    let usual = if is_gateway { GATEWAY_FILTER } else { COMMAND_FILTER };
    let filter = filter.unwrap_or_else(|| EnvFilter::new(usual));
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(&LINES);
    let subscriber = tracing_subscriber::registry().with(filter).with(Limit);
    // In tests, logging may have been started before. This then has no effect.
    let started = match format {
        LogFormat::Text => subscriber.with(lines.event_format(TextLine::new())).try_init(),
        LogFormat::Json => subscriber.with(lines.event_format(JsonLine)).try_init(),
    };
    if started.is_ok() {
        // If the thread cannot be started, lines wait until the buffer is full or a warning is
        // written.
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(|| {
            loop {
                std::thread::sleep(FLUSH_EVERY);
                FLOODS.report(false);
                LINES.flush();
            }
        });
    }
}

/// True if log lines are JSON. All other output of a running gateway is JSON then, too.
pub(super) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Logs the cause of a failed command, as the last line of a JSON log. It is written even if
/// RUST_LOG turns errors off: otherwise nothing would tell why a gateway did not start.
pub(super) fn log_failure(error: &dyn Display) {
    if tracing::enabled!(Level::ERROR) {
        tracing::error!(%error, "failed");
    } else {
        let error = error.to_string();
        eprintln!("{}", json!({ "level": "ERROR", "message": "failed", "error": error }));
    }
}

/// Writes all waiting lines. A command calls this last.
pub(super) fn finish() {
    FLOODS.report(true);
    LINES.flush();
}

/// Lines that wait to be written to standard error.
struct Lines {
    waiting: Mutex<Vec<u8>>,
}

impl Lines {
    fn add(&self, line: &[u8], at_once: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend_from_slice(line);
        if at_once || waiting.len() >= FLUSH_AT_BYTES {
            write_out(&mut waiting);
        }
    }

    fn flush(&self) {
        write_out(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn write_out(waiting: &mut Vec<u8>) {
    if !waiting.is_empty() {
        // If standard error fails, there is nowhere to report that.
        let _ = io::stderr().write_all(waiting);
        waiting.clear();
    }
}

/// The writer of one event. The formatter writes each event in one call.
struct Line {
    at_once: bool,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.add(line, self.at_once);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for &'static Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { at_once: true }
    }

    /// Lines about ordinary calls may wait; all others are written at once.
    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line { at_once: *about.level() < Level::INFO || about.target() != USAGE_TARGET }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_name_modules_that_exist() {
        let directives = [GATEWAY_FILTER, COMMAND_FILTER].into_iter().flat_map(|f| f.split(','));
        let modules = directives.filter_map(|one| one.split('=').next()?.strip_prefix("farebox::"));
        let modules: Vec<&str> = modules.collect();
        assert_eq!(modules.len(), 2);
        for module in modules {
            let path = format!("{}/src/{}", env!("CARGO_MANIFEST_DIR"), module.replace("::", "/"));
            let exists = |file: String| std::path::Path::new(&file).exists();
            assert!(exists(format!("{path}.rs")) || exists(format!("{path}/mod.rs")), "{module}");
        }
    }
}
