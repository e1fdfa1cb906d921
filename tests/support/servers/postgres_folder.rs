//! The data folders of the tests' Postgres servers: copies of a template, in memory where there is room.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::statvfs;
use tempfile::TempDir;

use super::postgres::{Disk, USER, as_server_user, other_user, program};
use super::process::is_alive;

/// An empty database that each new server has from its template.
pub(super) const FIRST: &str = "first";

/// A data folder as `initdb` makes it, with the database [`FIRST`]. Making it takes a second, so it is
/// made once for each version of Postgres and stored beside cargo's build output.
pub(super) fn template() -> PathBuf {
    let version = Command::new(program("postgres")).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let version: String = version.chars().filter(char::is_ascii_alphanumeric).collect();
    let owner = other_user().map_or("self".to_owned(), |(uid, _)| uid.to_string());
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(home).unwrap();
    let template = home.join(format!("{version}-{owner}-{FIRST}"));
    // Every test is a process of its own. The first one makes the folder.
    let lock = File::create(home.join("postgres.lock")).unwrap();
    lock.lock().unwrap();
    if !template.exists() {
        let fresh = folder();
        let data = fresh.path().join("data");
        let mut initdb = as_server_user("initdb");
        initdb.arg("-D").arg(&data).args(["--username", USER, "--auth", "trust", "--no-sync"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--wal-segsize", "1"]);
        let output = initdb.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initdb: {errors}");
        create_first(&data);
        // The folder is renamed only when it is complete.
        let unfinished = template.with_extension("new");
        let _ = std::fs::remove_dir_all(&unfinished);
        copy(&data, &unfinished);
        std::fs::rename(&unfinished, &template).unwrap();
    }
    template
}

/// Creates the database [`FIRST`] in a data folder without a server, and removes `template0`, which no
/// test uses: each test copies fewer files.
fn create_first(data: &Path) {
    let mut postgres = as_server_user("postgres");
    // With this limit, the log of what is created here is removed at the end.
    postgres.args(["--single", "-c", "max_wal_size=2MB", "-c", "min_wal_size=2MB", "-D"]);
    postgres.arg(data).arg("postgres").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut process = postgres.stderr(Stdio::piped()).spawn().unwrap();
    let sql = format!(
        "CREATE DATABASE {FIRST}\n\
         UPDATE pg_database SET datistemplate = false WHERE datname = 'template0'\n\
         DROP DATABASE template0\n"
    );
    process.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    // A single-user server goes on after an error.
    assert!(output.status.success() && !errors.contains("ERROR"), "{FIRST}: {errors}");
}

/// The folder of the system whose files are in memory.
const MEMORY: &str = "/dev/shm";

/// The free space, in bytes, that [`MEMORY`] must have. Two dozen servers fit into it.
const ROOM_IN_MEMORY: u64 = 4 << 30;

/// The beginning of the names of the servers' folders in [`MEMORY`]. The number of the test's process
/// follows.
const PREFIX: &str = "farebox-postgres-";

/// A folder for a server's data. A server that does not wait for the disk gets one in memory, if
/// there is room: making a thousand files there takes a tenth of the time.
pub(super) fn data_folder(disk: Disk) -> TempDir {
    let free = statvfs(MEMORY).map_or(0, |memory| memory.f_bavail.saturating_mul(memory.f_frsize));
    if disk == Disk::Synced || free < ROOM_IN_MEMORY {
        return folder();
    }
    free_memory();
    let prefix = format!("{PREFIX}{}-", std::process::id());
    given_away(tempfile::Builder::new().prefix(&prefix).tempdir_in(MEMORY).unwrap())
}

/// Removes the folders in [`MEMORY`] that killed tests have left.
fn free_memory() {
    for entry in std::fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let creator = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if creator.and_then(|creator| creator.parse().ok()).is_some_and(|id| !is_alive(id)) {
            // Another test may be removing it, or it belongs to another user.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A folder that the server's user can reach.
pub(super) fn folder() -> TempDir {
    given_away(tempfile::tempdir().unwrap())
}

/// Gives a folder to the server's user.
fn given_away(folder: TempDir) -> TempDir {
    if let Some((uid, gid)) = other_user() {
        chown(folder.path(), Some(uid), Some(gid)).unwrap();
    }
    folder
}

/// Copies a folder, and keeps the owners of its files.
pub(super) fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    assert!(cp.args(["-a", "--reflink=auto"]).arg(from).arg(to).status().unwrap().success());
    std::fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
}
