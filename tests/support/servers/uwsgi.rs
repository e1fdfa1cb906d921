//! A private uWSGI, which runs a WSGI program in Python.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Family, free_port, program};

/// A uWSGI for one test.
#[derive(Debug)]
pub struct Uwsgi {
    port: u16,
    folder: TempDir,
    process: Option<Family>,
}

impl Uwsgi {
    /// Starts a uWSGI that runs this program for every path.
    pub fn running(python: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("program.py"), python).unwrap();
        let mut server = Self { port: free_port(), folder, process: None };
        // Another process may have taken the port in the meantime.
        while !server.try_start() {
            server.port = free_port();
        }
        server
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn try_start(&mut self) -> bool {
        let address = self.address();
        let mut command = Command::new(program("uwsgi-core", "--version"));
        command.args(["--plugin", "python3", "--need-app", "--die-on-term"]);
        command.arg("--http-socket").arg(address.to_string());
        command.arg("--wsgi-file").arg(self.folder.path().join("program.py"));
        let mut process = Family::start(&mut command, &self.folder.path().join("uwsgi.log"));
        let started = process.starts(|_| TcpStream::connect(address).is_ok());
        self.process = started.then_some(process);
        started
    }
}
