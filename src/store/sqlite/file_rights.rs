//! Access rights. Only their owner may read the ledger's files, because they have every customer's
//! balance and payments.

use std::fs::{OpenOptions, Permissions, metadata, set_permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The rights of the files: only the owner may read and write, whatever the umask.
pub(crate) const MODE: u32 = 0o600;

/// The rights of all other users.
const OTHERS: u32 = 0o077;

/// The path of the ledger's file itself, if `path` is a symbolic link to it. SQLite's other files
/// and the lock are beside that file.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| match std::fs::read_link(path) {
        // The link leads to a ledger that does not exist yet.
        Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
        Err(_) => path.to_owned(),
    })
}

/// The path of another file that stands beside the ledger's and has this ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Makes an empty file at `path` if there is none, and removes the rights of other users from it
/// and from the files beside it. SQLite gives its own files the rights of the ledger. If this
/// fails, it is only logged, because opening the file then reports the error.
pub(crate) fn secure(path: &Path) {
    let path = real_path(path);
    // An existing file is left unchanged.
    let _ = make(&path);
    for ending in ["", "-wal", "-shm"] {
        tighten(&beside(&path, ending));
    }
}

/// Makes an empty file that only its owner may read.
///
/// # Errors
/// Fails if the file exists or cannot be made.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    // The umask may have removed the owner's rights as well.
    set_permissions(path, Permissions::from_mode(MODE))
}

/// Removes the rights of other users, if the file exists and they have any.
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
            "other users can read or write a file of the ledger, and this user may not change that; run \
             `chmod 600` on it as its owner"
        ),
    }
}
