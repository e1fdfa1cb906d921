//! A private Postgres.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak};

use rustix::process::Signal;
use tempfile::TempDir;

use super::postgres_folder::{FIRST, copy, data_folder, template};
use super::process::{Family, free_port, is_alive};

/// Whether Postgres waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// The server does not wait, which is fast. Data would be lost only if the machine crashed, not
    /// if the process does.
    Relaxed,
    /// The server waits (fsync), as in production.
    Synced,
}

/// A Postgres server for one test.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    disk: Disk,
    env: Vec<(String, String)>,
    /// More settings, as `-c` takes them.
    settings: Vec<String>,
    /// Whether no test has asked for the database [`FIRST`] yet, which the template has.
    has_first: AtomicBool,
    folder: TempDir,
    process: Option<Family>,
}

impl Postgres {
    pub fn start() -> Self {
        Self::start_on(Disk::Relaxed)
    }

    pub fn start_on(disk: Disk) -> Self {
        Self::start_with(disk, &[])
    }

    /// Starts a Postgres with these variables.
    pub fn start_with(disk: Disk, env: &[(String, String)]) -> Self {
        let folder = data_folder(disk);
        copy(&template(), &folder.path().join("data"));
        let mut postgres = Self::start_in(folder, disk, env);
        postgres.has_first = AtomicBool::new(true);
        postgres
    }

    /// Starts a hot standby that follows this server by streaming replication. It can only be read.
    pub fn replica(&self) -> Self {
        self.replica_through(self.address())
    }

    /// Like [`Self::replica`], but the standby connects to `door`, which leads to this server. A
    /// proxy at `door` can make the standby lag.
    pub fn replica_through(&self, door: SocketAddr) -> Self {
        let folder = data_folder(self.disk);
        let mut backup = as_server_user("pg_basebackup");
        let url = Self::url_at(door, "postgres");
        backup.arg("-D").arg(folder.path().join("data")).args(["-d", &url]);
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        let output = backup.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_basebackup: {errors}");
        Self::start_in(folder, self.disk, &self.env)
    }

    /// Promotes a standby to a server of its own, and waits until that is done.
    pub fn promote(&self) {
        assert_eq!(self.sql("postgres", "SELECT pg_promote()"), "t");
    }

    fn start_in(folder: TempDir, disk: Disk, env: &[(String, String)]) -> Self {
        let env = env.to_vec();
        let (port, settings, has_first) = (free_port(), Vec::new(), AtomicBool::new(false));
        let mut postgres = Self { port, disk, env, settings, has_first, folder, process: None };
        // Tests that were killed may have left shared memory behind.
        free_shared_memory();
        // Another process may have taken the port in the meantime.
        while !postgres.try_start() {
            postgres.port = free_port();
        }
        postgres
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Returns the name of an empty database, which is created unless the template's is still unused.
    pub fn database(&self) -> String {
        if self.has_first.swap(false, Ordering::Relaxed) {
            return FIRST.to_owned();
        }
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Copies a database, which may be in use, and returns the copy's name.
    pub fn copy_of(&self, database: &str) -> String {
        let copy = self.database();
        let dump = Command::new(program("pg_dump")).arg(self.url(database)).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let dumped = tempfile::tempdir().unwrap();
        let file = dumped.path().join("dump.sql");
        std::fs::write(&file, dump.stdout).unwrap();
        let mut psql = Command::new(program("psql"));
        psql.args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-d", &self.url(&copy)]);
        let loaded = psql.arg("-f").arg(&file).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        copy
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        Self::url_at(self.address(), database)
    }

    /// The URL of a database that is reached through a proxy at `address`.
    pub fn url_at(address: SocketAddr, database: &str) -> String {
        format!("postgres://{USER}@{address}/{database}")
    }

    /// Runs SQL. Returns a line for each row, with `|` between the columns.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Like [`Self::sql`], for SQL that may fail.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(program("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "-v"]);
        psql.args(["ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql]);
        let output = psql.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        output.status.success().then(|| text(&output.stdout)).ok_or_else(|| text(&output.stderr))
    }

    /// Reads a file in the data folder, by its relative path.
    pub fn read(&self, file: &str) -> Vec<u8> {
        let mut read = as_user(Path::new("cat"));
        read.arg(self.folder.path().join("data").join(file));
        let output = read.output().unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Offers TLS with this certificate from now on, and requires a certificate that `clients`
    /// signed from every client that uses TLS. All three parameters are the texts of PEM files. A
    /// client without TLS needs no certificate.
    pub fn require_certificates(&mut self, certificate: &str, key: &str, clients: &str) {
        let rules = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n\
                     hostnossl all all 127.0.0.1/32 trust\n";
        for (name, text) in [
            ("server.crt", certificate),
            ("server.key", key),
            ("ca.crt", clients),
            ("rules", rules),
        ] {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = other_user() {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
        }
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", path("server.crt")),
            format!("ssl_key_file={}", path("server.key")),
            format!("ssl_ca_file={}", path("ca.crt")),
            format!("hba_file={}", path("rules")),
        ];
        self.settings.extend(settings);
        self.stop();
        self.restart();
    }

    /// Kills the server and the processes of its connections (SIGKILL).
    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Shuts down fast: connections are closed, and everything is written.
    pub fn stop(&mut self) {
        self.process.take().unwrap().end(Signal::INT);
    }

    /// Starts again on the same port with the same data, after [`Postgres::kill`] or
    /// [`Postgres::stop`].
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        assert!(self.try_start(), "it does not start again: {}", self.said());
    }

    /// Makes a backup: stops, copies all of the data, and starts again.
    pub fn back_up(&mut self) {
        self.stop();
        copy(&self.folder.path().join("data"), &self.backup());
        self.restart();
    }

    /// Restores the backup of [`Postgres::back_up`]. Later changes are lost.
    pub fn take_back(&mut self) {
        self.stop();
        let data = self.folder.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        copy(&self.backup(), &data);
        self.restart();
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    /// Pauses the server (SIGSTOP). The system still accepts connections, but nothing answers.
    pub fn pause(&self) {
        self.process.as_ref().unwrap().pause();
    }

    /// Resumes a paused server (SIGCONT).
    pub fn resume(&self) {
        self.process.as_ref().unwrap().resume();
    }

    /// The id of the server's segment of shared memory.
    pub fn shared_memory(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap();
        let line = text.lines().nth(6).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// The server's log since its last start.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn try_start(&mut self) -> bool {
        // `env` sets these variables for Postgres only: `setpriv`, which changes the user, must not
        // have them.
        let mut command = as_user(Path::new("env"));
        command.args(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(program("postgres")).arg("-D").arg(self.folder.path().join("data"));
        // The memory is in the server's folder, which is removed with it, and not in the machine's
        // `/dev/shm`.
        command.args(["-c", "dynamic_shared_memory_type=mmap"]);
        command.args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        if self.disk == Disk::Relaxed {
            command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let mut process = Family::start(&mut command, &self.log());
        // This also matches a standby's "ready to accept read-only connections".
        let ready = "database system is ready to accept";
        let started = process.starts(|process| process.said().contains(ready));
        self.process = started.then_some(process);
        started
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("postgres.log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.process.take());
        free_shared_memory();
    }
}

/// Removes segments of shared memory that killed servers left. Each segment is a few bytes, from
/// which a Postgres sees at its next start whether its earlier process still runs. The system has
/// room for 4 096 segments; when they are used up, no Postgres can start.
fn free_shared_memory() {
    const SIZE: i64 = 56;
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let owner = other_user().map_or(rustix::process::geteuid().as_raw(), |(uid, _)| uid);
    let mut ipcrm = Command::new("ipcrm");
    let mut found = false;
    for line in table.lines().skip(1) {
        // key shmid perms size cpid lpid nattch uid …
        let fields: Vec<i64> =
            line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        if let [_, id, _, SIZE, creator, _, 0, uid, ..] = fields[..]
            && uid == i64::from(owner)
            && u32::try_from(creator).is_ok_and(|creator| !is_alive(creator))
        {
            ipcrm.args(["-m", &id.to_string()]);
            found = true;
        }
    }
    if found {
        // Another test may have removed them already.
        let _ = ipcrm.stderr(Stdio::null()).status();
    }
}

/// The server that the tests of this process share, for tests that need only a database of their own, and neither stop nor
/// pause the server. The server ends when the last test drops it.
pub fn shared_postgres() -> Arc<Mutex<Postgres>> {
    static SHARED: Mutex<Weak<Mutex<Postgres>>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let postgres = Arc::new(Mutex::new(Postgres::start()));
        *shared = Arc::downgrade(&postgres);
        postgres
    })
}

/// The superuser of the tests' servers.
pub(super) const USER: &str = "farebox";

/// A command that runs one of Postgres's programs as another user, since Postgres refuses root.
pub(super) fn as_server_user(name: &str) -> Command {
    as_user(&program(name))
}

/// A command that runs a program as another user if the tests run as root.
pub(super) fn as_user(program: &Path) -> Command {
    let Some((uid, gid)) = other_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
    command.args(["--clear-groups", "--"]).arg(program);
    // That user may not be allowed to enter the tests' working directory.
    command.current_dir("/");
    command
}

/// The user and group to change to, if the tests run as root.
pub(super) fn other_user() -> Option<(u32, u32)> {
    static FOUND: LazyLock<Option<(u32, u32)>> = LazyLock::new(find_other_user);
    *FOUND
}

fn find_other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let number = |flag, user| {
        let output = Command::new("id").args([flag, user]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().ok()
    };
    let users = ["postgres", "nobody"].into_iter();
    let found = users.filter_map(|user| Some((number("-u", user)?, number("-g", user)?))).next();
    Some(found.expect("Postgres refuses root, and there is no user `postgres` or `nobody`"))
}

/// The path of one of Postgres's programs. Debian keeps the server's programs in a folder for each
/// version, which is not on the PATH.
pub(super) fn program(name: &str) -> PathBuf {
    static TOLD: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let output = Command::new("pg_config").arg("--bindir").output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = TOLD
        .clone()
        .into_iter()
        .chain(debian_folders())
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    found
        .unwrap_or_else(|| panic!("Postgres' {name} is missing; scripts/setup.sh test installs it"))
}

/// Debian's folders, the newest version first.
fn debian_folders() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut versions: Vec<u32> = versions.collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|version| format!("/usr/lib/postgresql/{version}/bin").into()).collect()
}
