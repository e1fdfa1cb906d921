//! Reads the text of a config file.

use std::path::Path;

use crate::config::Mistake;

/// The largest file that is read, in bytes. It is far more than a price table needs, and still
/// little memory.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a file.
///
/// # Errors
/// The file is absent, too long or not text. If the line is known, the error has it.
pub(super) fn read_text(path: &Path) -> Result<String, (Option<usize>, Mistake)> {
    let unreadable = |error: std::io::Error| {
        let hint = "name the file with --config FILE; the gateway.toml that ships with Farebox is \
                    a good start";
        (None, Mistake::new("", format!("cannot be read: {error}"), hint))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        let message = format!("is {length} bytes long, more than any config should be");
        return Err((None, Mistake::new("", message, "is this the right file?")));
    }
    String::from_utf8(std::fs::read(path).map_err(unreadable)?).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        (Some(line), Mistake::new("", "is not UTF-8 text here", "save the file as UTF-8"))
    })
}
