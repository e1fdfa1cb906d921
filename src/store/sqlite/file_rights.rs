//! The embedded ledger's files are their owner's alone: they hold what every customer has and has paid.

use std::fs::{OpenOptions, Permissions, metadata, set_permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Read and written by the owner, whatever the umask.
pub(crate) const MODE: u32 = 0o600;

/// The rights of everybody else.
const OTHERS: u32 = 0o077;

/// The ledger's own file, where `path` is a symbolic link to it: SQLite and the lock stand beside that.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| match std::fs::read_link(path) {
        // The link is there, and its ledger is still to be made.
        Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
        Err(_) => path.to_owned(),
    })
}

/// Another file that stands beside the ledger's.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Makes the ledger at `path`, empty, where there is none, and takes the rights of others away where it
/// or a file beside it has any. SQLite gives its own files those of the ledger. Where that cannot be done
/// the log says so, and whoever opens the file next says what is wrong with it.
pub(crate) fn secure(path: &Path) {
    let path = real_path(path);
    // One that is there is opened as it is.
    let _ = make(&path);
    for ending in ["", "-wal", "-shm"] {
        tighten(&beside(&path, ending));
    }
}

/// Makes an empty file that nobody else may read.
///
/// # Errors
/// Where there is one already, or it cannot be made.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    // The umask may have taken the owner's rights as well.
    set_permissions(path, Permissions::from_mode(MODE))
}

/// Takes the rights of others away, where the file is there and has any.
pub(crate) fn tighten(path: &Path) {
    let Ok(found) = metadata(path) else { return };
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return;
    }
    match set_permissions(path, Permissions::from_mode(mode & !OTHERS)) {
        Ok(()) => tracing::warn!(
            file = %path.display(),
            "other users could read or write a file of the ledger; now only its owner can"
        ),
        Err(error) => tracing::warn!(
            file = %path.display(),
            %error,
            "other users can read or write a file of the ledger, and this one may not change that; run \
             `chmod 600` on it as its owner"
        ),
    }
}
