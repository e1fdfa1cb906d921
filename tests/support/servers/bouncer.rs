//! A private PgBouncer in transaction mode, before a Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use super::postgres::{Postgres, USER, as_user, folder};
use super::process::{Family, free_port, program};

/// So few connections to Postgres that transactions of one client are spread over all of them: what is
/// left in a session meets another one.
const POOL: u32 = 5;

/// A PgBouncer of one test.
#[derive(Debug)]
pub struct Bouncer {
    port: u16,
    before: SocketAddr,
    folder: TempDir,
    process: Option<Family>,
}

impl Bouncer {
    /// Starts one that leads to this Postgres, also over its restarts.
    pub fn before(postgres: &Postgres) -> Self {
        let before = postgres.address();
        let mut bouncer = Self { port: free_port(), before, folder: folder(), process: None };
        // Somebody else may have taken the port in between.
        while !bouncer.try_start() {
            bouncer.port = free_port();
        }
        bouncer
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// SIGKILL: every connection on both sides breaks.
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Ends at once.
    pub fn stop(&mut self) {
        self.process.take().unwrap().end(Signal::TERM);
    }

    /// Starts again, on the same port, after its end.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        assert!(self.try_start(), "it does not start again: {}", self.said());
    }

    /// Its log since its last start.
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
            // As it is shipped it waits for 15 s before it looks for a Postgres again that was away.
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
