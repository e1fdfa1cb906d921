//! Log lines, on standard error.

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
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::flood::{FLOODS, Limit};
use super::json_line::JsonLine;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// How long a line about an ordinary call may wait for others, so that they are written together:
/// a write a line would cost every call some microseconds.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// How much may wait.
const FLUSH_AT_BYTES: usize = 64 * 1024;

static IS_JSON: AtomicBool = AtomicBool::new(false);

static LINES: Lines = Lines { waiting: Mutex::new(Vec::new()) };

/// Starts logging. A gateway logs at `info`, and at `warn` for Pingora and the databases' clients (a Postgres
/// sends notices of what is as it should be); a command that answers and ends logs at `warn`, since its
/// answer is what counts. RUST_LOG says otherwise. Pingora's lines below `info`, with the heads that it
/// forwards and the upstream's credentials in them, are never written ([`Limit`]), and its lines at `trace`
/// are not built in at all (Cargo.toml).
pub(super) fn start(format: LogFormat, is_gateway: bool) {
    // What is not built in is not asked for: the filter would complain beside the log.
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).map(|asked| asked.replace("trace", "debug"));
    let asked = asked.ok().filter(|asked| !asked.trim().is_empty());
    let filter = asked.and_then(|asked| EnvFilter::try_new(asked).ok());
    let usual = match is_gateway {
        true => "info,pingora_core=warn,sqlx=warn",
        // How far a long one has come, and why it waits.
        false => {
            "warn,farebox::ledger::postgres::import=info,farebox::ledger::postgres::months=info"
        }
    };
    let filter = filter.unwrap_or_else(|| EnvFilter::new(usual));
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(UtcTime::rfc_3339())
        .with_ansi(io::stderr().is_terminal())
        .with_writer(&LINES);
    let subscriber = tracing_subscriber::registry().with(filter).with(Limit);
    // A second start, in tests, changes nothing.
    let started = match format {
        LogFormat::Text => subscriber.with(lines).try_init(),
        LogFormat::Json => subscriber.with(lines.event_format(JsonLine)).try_init(),
    };
    if started.is_ok() {
        // Without the thread lines wait until the buffer is full or something is wrong.
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(|| {
            loop {
                std::thread::sleep(FLUSH_EVERY);
                FLOODS.tell(false);
                LINES.flush();
            }
        });
    }
}

/// True where log lines are JSON: then all else that a running gateway says is JSON as well.
pub(super) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Says why a command failed, as the last line of a log in JSON. A filter that lets no such line through
/// does not keep it back: without it nobody could tell why a gateway did not start.
pub(super) fn tell_failure(error: &dyn Display) {
    if tracing::enabled!(Level::ERROR) {
        tracing::error!(%error, "failed");
    } else {
        let error = error.to_string();
        eprintln!("{}", json!({ "level": "ERROR", "message": "failed", "error": error }));
    }
}

/// Writes what waits; the last thing a command does.
pub(super) fn finish() {
    FLOODS.tell(true);
    LINES.flush();
}

/// Lines on their way to standard error.
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
        // Where standard error is gone there is nobody to tell.
        let _ = io::stderr().write_all(waiting);
        waiting.clear();
    }
}

/// One event's lines; the formatter writes an event in one piece.
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

    /// What each call says can wait; everything else is written at once.
    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line {
        Line { at_once: *about.level() < Level::INFO || about.target() != "farebox::usage" }
    }
}
