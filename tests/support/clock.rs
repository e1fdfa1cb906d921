//! A wall clock that can be moved while a process goes by it, with libfaketime. The process's
//! monotonic clock stays as it is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::servers::is_alive;

/// The clock of the processes that were started with [`Clock::env`].
pub struct Clock {
    _folder: TempDir,
    offset: PathBuf,
}

impl Clock {
    /// As the machine's.
    pub fn new() -> Self {
        // Left by tests that were killed themselves.
        free_shared_memory();
        let folder = tempfile::tempdir().unwrap();
        // Postgres runs as another user.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let clock = Self { offset: folder.path().join("offset"), _folder: folder };
        clock.is_off_by("+0");
        clock
    }

    /// Moves it away from the machine's, by such as `+3d` or `-50m`.
    pub fn is_off_by(&self, offset: &str) {
        // Read at any moment: never half written.
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

/// The memory that libfaketime shares with a process's children is named after the process, and stays if that is killed:
/// one that gets its number later would find it, and may wait for it for ever.
fn free_shared_memory() {
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| {
            let number =
                name.strip_prefix("faketime_shm_").or(name.strip_prefix("sem.faketime_sem_"));
            number?.parse().ok()
        });
        if number.is_some_and(|process| !is_alive(process)) {
            // Another test may have been quicker.
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
