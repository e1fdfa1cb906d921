//! The commit that a folder of sources is of. The program `git` is not needed for that.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The number of digits of a commit that are shown.
const DIGITS: usize = 10;

/// A commit, as far as it is known.
#[derive(Debug, Default)]
pub struct Found {
    /// The first digits of its name; `None` where nothing tells it.
    pub commit: Option<String>,
    /// The files that change when another commit is checked out.
    pub read: Vec<PathBuf>,
}

/// Looks for the commit of `folder`: the one that the builder has `named`, the one that is checked out in a
/// clone, the one that an archive of `git archive` or a package of `cargo package` was made from.
pub fn find(folder: &Path, named: Option<&str>) -> Found {
    if let Some(commit) = named.and_then(short) {
        return Found { commit: Some(commit), read: Vec::new() };
    }
    if let Some(found) = checked_out(folder) {
        return found;
    }
    let archived = read_to_string(folder.join("build/commit.txt")).ok();
    let packaged = read_to_string(folder.join(".cargo_vcs_info.json")).ok();
    let packaged = packaged.as_deref().and_then(|json| json.split("\"sha1\":").nth(1));
    let packaged = packaged.and_then(|rest| rest.split('"').nth(1));
    let commit = archived.as_deref().and_then(short).or_else(|| packaged.and_then(short));
    Found { commit, read: Vec::new() }
}

/// The commit that a clone, or a work tree of one, has checked out.
fn checked_out(folder: &Path) -> Option<Found> {
    let dot_git = folder.join(".git");
    let git = match read_to_string(&dot_git) {
        // A work tree has a file there that says where its folder is.
        Ok(pointer) => folder.join(pointer.strip_prefix("gitdir:")?.trim()),
        Err(_) if dot_git.is_dir() => dot_git,
        Err(_) => return None,
    };
    // Branches belong to the clone, of which there may be several work trees.
    let common = match read_to_string(git.join("commondir")) {
        Ok(common) => git.join(common.trim()),
        Err(_) => git.clone(),
    };
    let head = read_to_string(git.join("HEAD")).ok()?;
    let (commit, files) = match head.trim().strip_prefix("ref: ") {
        None => (short(&head), vec![]),
        Some(branch) => {
            let loose = common.join(branch);
            let packed = common.join("packed-refs");
            let commit = read_to_string(&loose).ok().as_deref().and_then(short).or_else(|| {
                let packed = read_to_string(&packed).ok()?;
                let line = packed.lines().find(|line| line.split(' ').nth(1) == Some(branch))?;
                short(line)
            });
            (commit, vec![loose, packed])
        }
    };
    // A commit on a packed branch makes its own file: only the log tells of that.
    let files = files.into_iter().chain([git.join("HEAD"), git.join("logs/HEAD")]);
    Some(Found { commit, read: files.filter(|file| file.is_file()).collect() })
}

/// The first digits of the commit that `text` begins with; `None` where it does not begin with one.
fn short(text: &str) -> Option<String> {
    let text = text.trim();
    let name = text.split(char::is_whitespace).next().unwrap_or(text);
    let is_name = (7..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit());
    is_name.then(|| name[..name.len().min(DIGITS)].to_ascii_lowercase())
}
