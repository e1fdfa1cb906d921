//! A private PgBouncer in transaction mode, in front of a Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use super::postgres::{Postgres, USER, as_user};
use super::postgres_folder::folder;
use super::process::{Family, free_port, program};

/// The number of connections to Postgres. There are so few that each client's transactions are
/// spread over all of them. So if a client leaves state in a session, another client meets it.
const POOL: u32 = 5;

/// A PgBouncer for one test.
#[derive(Debug)]
pub struct Bouncer {
    port: u16,
    before: SocketAddr,
    folder: TempDir,
    process: Option<Family>,
}

impl Bouncer {
    /// Starts a PgBouncer in front of this Postgres. The PgBouncer connects again after the
    /// Postgres restarts.
    pub fn before(postgres: &Postgres) -> Self {
        let before = postgres.address();
        let mut bouncer = Self { port: free_port(), before, folder: folder(), process: None };
        // Another process may have taken the port in the meantime.
        while !bouncer.try_start() {
            bouncer.port = free_port();
        }
        bouncer
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Kills the PgBouncer (SIGKILL), which breaks every connection on both sides.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Asks the PgBouncer to end at once.
    pub fn stop(&mut self) {
        self.process.take().unwrap().end(Signal::TERM);
    }

    /// Starts the PgBouncer again on the same port, after it has ended.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        assert!(self.try_start(), "it does not start again: {}", self.said());
    }

    /// The PgBouncer's log since its last start.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn try_start(&mut self) -> bool {
        let config = self.folder.path().join("pgbouncer.ini");
        let lines = [
            "[databases]".to_owned(),
            format!("* = host=127.0.0.1 port={} user={USER}", self.before.port()),
            "[pgbouncer]".to_owned(),
            "listen_addr = 127.0.0.1".to_owned(),
            format!("listen_port = {}", self.port),
            "unix_socket_dir =".to_owned(),
            "auth_type = any".to_owned(),
            "pool_mode = transaction".to_owned(),
            format!("default_pool_size = {POOL}"),
            // By default, a PgBouncer that loses its Postgres waits 15 s before it connects again.
            "server_login_retry = 1".to_owned(),
        ];
        std::fs::write(&config, lines.join("\n")).unwrap();
        let mut command = as_user(&program("pgbouncer", "--version"));
        command.arg(&config);
        let mut process = Family::start(&mut command, &self.log());
        let started = process.starts(|process| process.said().contains("process up"));
        self.process = started.then_some(process);
        started
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("pgbouncer.log")
    }
}
