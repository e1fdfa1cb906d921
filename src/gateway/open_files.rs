//! The limit of open files, and how many client connections it allows.
//!
//! Each client connection needs a file descriptor, and the upstream connection of a running call
//! needs another. A process without free descriptors can no longer open the ledger's files, reach
//! Redis or Postgres, or answer probes. So the number of connections is kept below the limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::gateway::private_listener;

/// The number of files that are reserved for the ledger, its servers, the listeners, logs and name
/// look-ups.
const RESERVE: usize = 96;

/// The smallest number of client connections with which a gateway starts.
const FEWEST: usize = 16;

/// The most idle upstream connections that stay open.
const UPSTREAM_IDLE: usize = 1024;

/// How the process's file descriptors are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The system's limit; `None` if there is none.
    pub limit: Option<usize>,
    /// The most client connections at a time.
    pub connections: usize,
    /// The most idle connections to upstreams.
    pub upstream_idle: usize,
}

/// The error if the system allows this process too few open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files, and needs {} at least; raise the limit \
     (`ulimit -n 65536`, LimitNOFILE= of a systemd unit)",
    least()
)]
pub struct TooFewFiles {
    limit: usize,
}

impl OpenFiles {
    /// Raises the process's soft limit to its hard limit. Divides the result for a config that asks
    /// for `max_connections`.
    ///
    /// # Errors
    /// The limit leaves no room for clients.
    pub fn raise(max_connections: usize) -> Result<Self, TooFewFiles> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current != maximum {
            // If the system refuses this, the soft limit stays as it is.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        }
        let limit = getrlimit(Resource::Nofile).current;
        Self::share(
            limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            max_connections,
        )
    }

    /// Divides `limit` among clients and upstreams.
    fn share(limit: Option<usize>, max_connections: usize) -> Result<Self, TooFewFiles> {
        let files = limit.unwrap_or(usize::MAX);
        let shared = files.saturating_sub(RESERVE + 2 * private_listener::MAX_CONNECTIONS);
        let upstream_idle = UPSTREAM_IDLE.min(shared / 8);
        let fitting = (shared - upstream_idle) / 2;
        if fitting < FEWEST {
            return Err(TooFewFiles { limit: files });
        }
        Ok(Self { limit, connections: max_connections.min(fitting), upstream_idle })
    }
}

/// The lowest limit with which a gateway starts.
fn least() -> usize {
    (1..).find(|limit| OpenFiles::share(Some(*limit), 1).is_ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_all_files() {
        for limit in [least(), 400, 500, 1024, 4096, 65_536, 1 << 20] {
            let shared = OpenFiles::share(Some(limit), 20_000).unwrap();
            let used = 2 * shared.connections + shared.upstream_idle;
            assert!(
                used + RESERVE + 2 * private_listener::MAX_CONNECTIONS <= limit,
                "{limit}: {shared:?}"
            );
            assert!(shared.connections >= FEWEST);
        }
    }

    #[test]
    fn a_high_limit_leaves_the_config_s_number_alone() {
        for limit in [Some(1 << 20), None] {
            let shared = OpenFiles::share(limit, 20_000).unwrap();
            assert_eq!((shared.connections, shared.upstream_idle), (20_000, 1024));
        }
    }

    #[test]
    fn too_low_a_limit_says_what_is_needed() {
        let error = OpenFiles::share(Some(64), 20_000).unwrap_err();
        let least = least();
        assert!(error.to_string().contains(&format!("needs {least} at least")), "{error}");
        assert!(OpenFiles::share(Some(least - 1), 1).is_err());
    }
}
