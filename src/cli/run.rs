//! What `serve` and `demo` share: the runtime, and the signals.

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;

/// A runtime of `threads` workers; 0 for one a core.
pub(super) fn runtime(threads: usize) -> Result<Runtime, CliError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().thread_name("farebox").build();
    runtime.map_err(|error| CliError::Failed(format!("no runtime: {error}")))
}

/// SIGTERM, SIGINT and SIGHUP.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// A write beyond a file-size limit then fails, as on a full disk, and does not kill.
    _file_size: Signal,
}

/// What the operator asks for.
pub(super) enum Asked {
    Stop,
    Reload,
}

/// SIGXFSZ, which has no name in tokio; the number is the same on every Linux but MIPS.
const FILE_SIZE: i32 = 25;

impl Signals {
    /// Listens from now on.
    pub fn listen() -> Result<Self, CliError> {
        let listen =
            |kind| signal(kind).map_err(|error| CliError::Failed(format!("no signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
            _file_size: listen(SignalKind::from_raw(FILE_SIZE))?,
        })
    }

    /// The next thing asked for.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}
