//! A private lighttpd, which runs a CGI program.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::process::{Family, free_port, program};

/// A lighttpd for one test.
#[derive(Debug)]
pub struct Lighttpd {
    port: u16,
    folder: TempDir,
    process: Option<Family>,
}

impl Lighttpd {
    /// Starts a lighttpd that runs this shell script for calls of `path`.
    pub fn running(path: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pages").join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
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
        let config = self.folder.path().join("lighttpd.conf");
        let lines = [
            format!("server.document-root = {:?}", self.folder.path().join("pages")),
            "server.bind = \"127.0.0.1\"".to_owned(),
            format!("server.port = {}", self.port),
            "server.modules = (\"mod_cgi\")".to_owned(),
            "cgi.assign = (\"\" => \"\")".to_owned(),
        ];
        std::fs::write(&config, lines.join("\n") + "\n").unwrap();
        let mut command = Command::new(program("lighttpd", "-v"));
        command.arg("-D").arg("-f").arg(&config);
        let mut process = Family::start(&mut command, &self.folder.path().join("lighttpd.log"));
        let address = self.address();
        let started = process.starts(|_| TcpStream::connect(address).is_ok());
        self.process = started.then_some(process);
        started
    }
}
