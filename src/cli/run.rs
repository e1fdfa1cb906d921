//! The runtimes of commands, and the signals that `serve` and `demo` handle.

use std::io::Write as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::error::CliError;

/// A runtime with `threads` workers; 0 means one for each core.
pub(super) fn runtime(threads: usize) -> Result<Runtime, CliError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().thread_name("farebox").build();
    runtime.map_err(|error| CliError::Failed(format!("the runtime cannot start: {error}")))
}

/// Runs the future of a short command on a runtime of one thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| CliError::Failed(format!("the runtime cannot start: {error}")))?
        .block_on(work)
}

/// The signals SIGTERM, SIGINT and SIGHUP.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// The signal of a write beyond the file-size limit. Without a handler it would kill the
    /// process; with one, the write fails as on a full disk.
    _file_size: Signal,
}

/// A request of the operator, made by a signal.
pub(super) enum Request {
    Stop,
    Reload,
}

/// The number of SIGXFSZ, for which tokio has no name. It is the same on every Linux except MIPS.
const FILE_SIZE: i32 = 25;

impl Signals {
    /// Installs the handlers.
    pub fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| CliError::Failed(format!("signals cannot be handled: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
            _file_size: listen(SignalKind::from_raw(FILE_SIZE))?,
        })
    }

    /// Waits for the next request.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.hang_up.recv() => Request::Reload,
        }
    }
}

/// Writes a command's result to standard output. If the reader has stopped early, as `head` does,
/// that is not an error.
pub(super) fn print(text: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}
