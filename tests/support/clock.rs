//! A wall clock that a test can move while processes use it, by means of libfaketime. The
//! processes' monotonic clock is not changed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::servers::is_alive;

/// The wall clock of the processes that were started with [`Clock::env`].
pub struct Clock {
    _folder: TempDir,
    offset: PathBuf,
}

impl Clock {
    /// A clock that shows the machine's time.
    pub fn new() -> Self {
        // Tests that were killed may have left shared memory behind.
        free_shared_memory();
        let folder = tempfile::tempdir().unwrap();
        // The folder must be readable for Postgres, which runs as another user.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let clock = Self { offset: folder.path().join("offset"), _folder: folder };
        clock.is_off_by("+0");
        clock
    }

    /// Sets the clock's difference from the machine's, such as `+3d` or `-50m`.
    pub fn is_off_by(&self, offset: &str) {
        // A process may read the file at any moment, so it is replaced as a whole.
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{offset}\n")).unwrap();
        std::fs::rename(&new, &self.offset).unwrap();
    }

    /// The variables that make a process use this clock.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
        let env = [
            ("LD_PRELOAD", text(libfaketime())),
            ("FAKETIME_TIMESTAMP_FILE", text(self.offset.clone())),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        env.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        free_shared_memory();
    }
}

/// Removes shared memory of processes that were killed. libfaketime shares memory with a process's
/// children, and names it after the process. If the process is killed, the memory stays, and a
/// later process with the same number would use it and might wait for it for ever.
fn free_shared_memory() {
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| {
            let number =
                name.strip_prefix("faketime_shm_").or(name.strip_prefix("sem.faketime_sem_"));
            number?.parse().ok()
        });
        if number.is_some_and(|process| !is_alive(process)) {
            // Another test may have removed the file already.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|library| library.exists());
    found.expect("libfaketime is missing: scripts/setup.sh test installs it")
}
