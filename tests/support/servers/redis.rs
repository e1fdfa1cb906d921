//! A private Redis (or Valkey).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Family, free_port};

/// How much of a Redis's data survives a `kill -9`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Redis is empty after a restart.
    None,
    /// The data as of about a second before.
    Rdb,
    /// All data whose writes Redis has confirmed.
    Aof,
}

/// A copy of a Redis's data at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot(Vec<u8>);

/// A Redis server for one test.
#[derive(Debug)]
pub struct Redis {
    address: SocketAddr,
    /// The port for clients with TLS.
    tls: Option<u16>,
    /// The password, with which each of the tests' own connections begins.
    password: Option<Box<str>>,
    options: Vec<String>,
    folder: TempDir,
    process: Option<Family>,
}

impl Redis {
    /// Starts an empty Redis.
    pub fn start(persistence: Persistence) -> Self {
        let options: &[&str] = match persistence {
            Persistence::None => &["--save", "", "--appendonly", "no"],
            Persistence::Rdb => &["--save", "1 1", "--appendonly", "no"],
            Persistence::Aof => &["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"],
        };
        Self::start_with(options)
    }

    /// Starts a replica of the Redis at `master`, and waits until it has all of the data. A
    /// [`super::CutProxy`] between the two can make it lag.
    pub fn replica_of(master: SocketAddr) -> Self {
        let of = format!("{} {}", master.ip(), master.port());
        let replica = Self::start_with(&["--save", "", "--appendonly", "no", "--replicaof", &of]);
        replica.wait_until("it is in sync", |redis| {
            redis.ask(&["INFO", "replication"]).contains("master_link_status:up")
        });
        replica
    }

    /// Starts a Sentinel that watches the Redis at `master` under the name `name`. Half a second
    /// after the master is gone, it makes one of its replicas the master.
    pub fn sentinel_of(master: SocketAddr, name: &str) -> Self {
        Self::sentinel_among(master, name, 1)
    }

    /// Starts one of several Sentinels. `quorum` of them must agree that the master is gone.
    pub fn sentinel_among(master: SocketAddr, name: &str, quorum: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("sentinel.conf");
        let lines = [
            format!("sentinel monitor {name} {} {} {quorum}", master.ip(), master.port()),
            format!("sentinel down-after-milliseconds {name} 500"),
            format!("sentinel failover-timeout {name} 2000"),
        ];
        std::fs::write(&config, lines.join("\n")).unwrap();
        Self::start_in(folder, &[config.to_str().unwrap(), "--sentinel"])
    }

    /// Starts a Redis with these options, in addition to its address and folder.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options)
    }

    fn start_in(folder: TempDir, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let address = local(free_port());
        let (tls, password) = (None, None);
        let mut redis = Self { address, tls, password, options, folder, process: None };
        // Another process may have taken the port in the meantime.
        while !redis.try_start() {
            redis.address = local(free_port());
        }
        redis
    }

    /// Requires this password from every client from now on, also after a restart.
    pub fn require(&mut self, password: &str) {
        assert_eq!(self.ask(&["CONFIG", "SET", "requirepass", password]), "OK");
        self.options.extend(["--requirepass".to_owned(), password.to_owned()]);
        self.password = Some(password.into());
    }

    /// Starts a Redis that offers TLS with this certificate, in addition to the plain port that the
    /// tests use.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Self {
        Self::start_with_tls_for(certificate, key, None)
    }

    /// Like [`Self::start_with_tls`]. If `clients` is an authority, every client must show a
    /// certificate that the authority signed.
    pub fn start_with_tls_for(certificate: &Path, key: &Path, clients: Option<&Path>) -> Self {
        let mut redis = Self::start(Persistence::None);
        let tls = free_port();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        for (option, value) in [
            ("tls-cert-file", text(certificate)),
            ("tls-key-file", text(key)),
            ("tls-ca-cert-file", text(clients.unwrap_or(certificate))),
            ("tls-auth-clients", if clients.is_some() { "yes" } else { "no" }.to_owned()),
            ("tls-port", tls.to_string()),
        ] {
            redis.options.extend([format!("--{option}"), value]);
        }
        redis.tls = Some(tls);
        redis.kill();
        redis.restart();
        redis
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address for clients: that of the TLS port, if there is one.
    pub fn door(&self) -> SocketAddr {
        self.tls.map_or(self.address, local)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Ends the server by SIGTERM. The server first saves its data, if it saves at all.
    pub fn stop(&mut self) {
        self.process.take().unwrap().end(Signal::TERM);
    }

    /// Starts again on the same port with the same folder, after [`Redis::kill`] or
    /// [`Redis::stop`].
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        assert!(self.try_start(), "it does not start again: {}", self.said());
    }

    /// Kills the server (SIGKILL), and starts it again with the data of `snapshot`.
    pub fn restart_from(&mut self, snapshot: &Snapshot) {
        self.kill();
        std::fs::write(self.dump(), &snapshot.0).unwrap();
        self.restart();
        // The snapshot is for this start only, not for a later restart.
        std::fs::remove_file(self.dump()).unwrap();
    }

    /// Pauses the server (SIGSTOP). The system still accepts connections, but nothing answers.
    pub fn pause(&self) {
        self.process.as_ref().unwrap().pause();
    }

    /// Resumes a paused server (SIGCONT).
    pub fn resume(&self) {
        self.process.as_ref().unwrap().resume();
    }

    /// A copy of the server's present data. Use this only on a server that does not save by itself.
    pub fn snapshot(&self) -> Snapshot {
        assert_eq!(self.ask(&["SAVE"]), "OK");
        let snapshot = Snapshot(std::fs::read(self.dump()).unwrap());
        std::fs::remove_file(self.dump()).unwrap();
        snapshot
    }

    /// Deletes all data.
    pub fn flush_all(&self) {
        assert_eq!(self.ask(&["FLUSHALL"]), "OK");
    }

    /// Removes every script from the server's cache.
    pub fn script_flush(&self) {
        assert_eq!(self.ask(&["SCRIPT", "FLUSH"]), "OK");
    }

    /// Makes a replica a master, which it stays after a restart.
    pub fn promote(&mut self) {
        assert_eq!(self.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
        let of = self.options.iter().position(|option| option == "--replicaof");
        let of = of.expect("it is not a replica");
        self.options.drain(of..of + 2);
    }

    /// Runs one command on a new connection. The elements of a list are returned one per line, and
    /// an error as its text.
    pub fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Like [`Self::ask`], for a server that may not answer.
    pub fn try_ask(&self, command: &[&str]) -> std::io::Result<String> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(socket.try_clone()?);
        let mut ask = |command: &[&str]| {
            let mut request = format!("*{}\r\n", command.len());
            for word in command {
                request += &format!("${}\r\n{word}\r\n", word.len());
            }
            socket.write_all(request.as_bytes())?;
            let mut words = Vec::new();
            read_reply(&mut reader, &mut words)?;
            std::io::Result::Ok(words.join("\n"))
        };
        if let Some(password) = &self.password {
            ask(&["AUTH", password])?;
        }
        ask(command)
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(std::time::Instant::now() < limit, "waited for: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_start(&mut self) -> bool {
        let mut command = Command::new(program());
        // A config file, if there is one, must be the first argument.
        command.args(&self.options);
        command.args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1"]);
        command.arg("--dir").arg(self.folder.path());
        // Without this option, a master waits for more replicas before it sends its data to the
        // first.
        command.args(["--repl-diskless-sync-delay", "0"]);
        let mut process = Family::start(&mut command, &self.log());
        let answers = |_: &Family| self.try_ask(&["PING"]).is_ok_and(|reply| reply == "PONG");
        let ready = ["Ready to accept connections", "Sentinel ID is"];
        let said = |process: &Family| ready.iter().any(|ready| process.said().contains(ready));
        // The server's own log is checked first: if the port is taken, another server would answer.
        let started = process.starts(|process| said(process) && answers(process));
        self.process = started.then_some(process);
        started
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }

    fn dump(&self) -> PathBuf {
        self.folder.path().join("dump.rdb")
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The program to run: Redis, or Valkey if that is installed instead. `FAREBOX_REDIS_SERVER` can
/// name another one.
fn program() -> &'static str {
    static FOUND: LazyLock<String> = LazyLock::new(|| {
        let named = std::env::var("FAREBOX_REDIS_SERVER").ok();
        let known = ["redis-server", "valkey-server"].map(str::to_owned);
        let runs = |program: &String| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let found = named.into_iter().chain(known).find(runs);
        found.expect("redis-server is missing; scripts/setup.sh test installs it")
    });
    &FOUND
}

/// Reads one reply of the Redis protocol, version 2.
fn read_reply(reader: &mut BufReader<TcpStream>, words: &mut Vec<String>) -> std::io::Result<()> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    match (kind, rest.parse::<i64>()) {
        ("$" | "*", Ok(-1)) => words.push("(nil)".into()),
        ("$", Ok(length)) => {
            let mut bytes = vec![0; length as usize + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length as usize);
            words.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        ("*", Ok(count)) => {
            for _ in 0..count {
                read_reply(reader, words)?;
            }
        }
        _ => words.push(rest.to_owned()),
    }
    Ok(())
}
