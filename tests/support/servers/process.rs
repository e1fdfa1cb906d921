//! A server's process together with its children.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest time that a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A range of ports for this test alone: its first port, and the number of ports. The range is
/// below the ports that the system assigns to connections. Each running test locks a range. So no
/// two tests choose the same port, even before a server listens on it, and even if they run from
/// different checkouts.
pub fn own_ports() -> (u16, u16) {
    const FIRST: u16 = 20_000;
    const EACH: u16 = 200;
    const RANGES: u32 = 60;
    static OWN: OnceLock<(u16, File)> = OnceLock::new();
    let (first, _lock) = OWN.get_or_init(|| {
        // Nextest numbers the tests that run at the same time, so the first range is usually free.
        let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok();
        let slot = slot.and_then(|slot| slot.parse().ok()).unwrap_or_else(std::process::id);
        let ranges = (0..RANGES).map(|more| slot.wrapping_add(more) % RANGES);
        let mut free = ranges.filter_map(|range| {
            // Not in TMPDIR, which may be a folder of this run alone.
            let file = format!("/tmp/farebox-test-ports-{range}");
            let file = File::options().create(true).append(true).open(file).unwrap();
            file.try_lock().is_ok().then_some((FIRST + range as u16 * EACH, file))
        });
        free.next().expect("all ranges of ports are taken by other tests")
    });
    (*first, EACH)
}

/// A port of this test's range on which no process listens.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (first, count) = own_ports();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The path of a server's program, which must print its version when called with `asked`. Debian
/// keeps some of these programs in folders that only root has on the PATH.
pub fn program(name: &str, asked: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = folders.into_iter().chain(std::env::split_paths(&path));
    let found = found.find_map(|folder| {
        let program = folder.join(name);
        program.is_file().then_some(program)
    });
    let found =
        found.unwrap_or_else(|| panic!("{name} is missing; scripts/setup.sh test installs it"));
    let runs = Command::new(&found).arg(asked).output();
    assert!(runs.is_ok_and(|output| output.status.success()), "{} does not run", found.display());
    found
}

/// A process and its children: Postgres has one for each connection, Redis one for each save.
/// Dropping this kills them all.
#[derive(Debug)]
pub struct Family {
    child: Child,
    log: PathBuf,
}

impl Family {
    /// Starts a command whose output goes to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let out = File::create(log).unwrap();
        command.stdin(Stdio::null()).stderr(out.try_clone().unwrap()).stdout(out);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Waits until the server is `ready`. False if its port is in use by another process.
    pub fn starts(&mut self, ready: impl Fn(&Self) -> bool) -> bool {
        let started = self.wait_until(ready);
        let taken = "address already in use";
        let said = self.said();
        assert!(started || said.to_lowercase().contains(taken), "it does not start: {said}");
        started
    }

    /// Waits until `ready` is true. False if the process ends before that.
    pub fn wait_until(&mut self, ready: impl Fn(&Self) -> bool) -> bool {
        let limit = Instant::now() + START_LIMIT;
        while !ready(self) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < limit, "it does not start: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// The log so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGSTOP to the process and its children. The signal is sent twice: after the first
    /// time, no process is left that makes more children.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
        self.signal_all(Signal::STOP);
    }

    /// Sends SIGCONT to the process and its children.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Sends a signal to the parent only.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(pid(self.child.id()), signal);
    }

    /// Kills the process and its children (SIGKILL), and waits until they have ended.
    pub fn kill(&mut self) {
        let members = self.signal_all(Signal::KILL);
        let _ = self.child.wait();
        self.await_end(&members);
    }

    /// Asks the parent to end with `signal`, and waits until the parent and its children have
    /// ended.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        let members = members(self.child.id());
        self.signal(signal);
        let limit = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.await_end(&members);
                return status;
            }
            assert!(Instant::now() < limit, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn signal_all(&self, signal: Signal) -> Vec<u32> {
        let members = members(self.child.id());
        for member in &members {
            // The process may have ended in the meantime.
            let _ = kill_process(pid(*member), signal);
        }
        members
    }

    /// Waits until all members have ended. Until then the server's files and shared memory are in
    /// use.
    fn await_end(&self, members: &[u32]) {
        let limit = Instant::now() + START_LIMIT;
        while members.iter().any(|member| is_alive(*member)) {
            assert!(Instant::now() < limit, "a child of {} does not end", self.child.id());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).unwrap()
}

/// The process itself, followed by all its descendants.
fn members(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, stat(process)?.1)))
        .collect();
    let mut members = vec![root];
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        members.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    members
}

pub fn is_alive(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z')
}

/// The state and the parent of a process.
fn stat(process: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The process's name comes first, in parentheses. It may contain any character, so reading
    // starts after the last one.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
