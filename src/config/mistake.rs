//! Mistakes in a config file and warnings about it, each with a hint.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One mistake in a config. The module that checks a section names the key. The loader, which has
/// the file, then finds the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key concerned, as a path from the top of the file: `routes[2].upstream`, with indexes
    /// from 0. If the file has no such key, its nearest parent in the file counts.
    pub key: String,
    /// The mistake, in one sentence without a full stop.
    pub message: String,
    /// The remedy, in one sentence without a full stop.
    pub hint: String,
}

impl Mistake {
    /// A mistake at `key`.
    pub fn new(
        key: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.hint) }
    }
}

/// A mistake where `value`, found at `key`, is outside `allowed`.
pub fn within<T: PartialOrd + Display>(
    key: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Option<Mistake> {
    if allowed.contains(&value) {
        return None;
    }
    let name = key.rsplit('.').next().unwrap_or(key);
    let (least, most) = allowed.into_inner();
    let message = format!("`{name}` cannot be {value}");
    Some(Mistake::new(key, message, format!("it can be {least} to {most}")))
}

/// One mistake with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The line, counted from 1; `None` for a key that is not in the file.
    pub line: Option<usize>,
    /// The column in characters, counted from 1. It is set only if the line alone does not show the
    /// place.
    pub column: Option<usize>,
    /// The file, if it is not the config itself but its `models_file`.
    pub file: Option<Arc<Path>>,
    /// The mistake at that place.
    pub mistake: Mistake,
}

impl Located {
    /// The place as text: `gateway.toml:41`. `file` is the config.
    pub(crate) fn place(&self, file: &Path) -> String {
        let mut place = self.file.as_deref().unwrap_or(file).display().to_string();
        for number in [self.line, self.column].into_iter().flatten() {
            place.push_str(&format!(":{number}"));
        }
        place
    }

    /// The mistake as text: the place, the `kind` and the message on one line, and the hint on the
    /// next.
    pub(crate) fn shown(&self, file: &Path, kind: &str) -> String {
        let Mistake { message, hint, .. } = &self.mistake;
        let first_line = format!("{}: {kind}{message}", self.place(file));
        if hint.is_empty() { first_line } else { format!("{first_line}\n  hint: {hint}") }
    }
}

/// All mistakes of a refused config, in the order of the file, followed by those of its `models_file`.
/// The text form has one paragraph for each mistake: `gateway.toml:41: no upstream is named …` and its
/// hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    file: PathBuf,
    found: Vec<Located>,
}

impl Mistakes {
    pub(crate) fn new(file: &Path, found: Vec<Located>) -> Self {
        Self { file: file.to_owned(), found }
    }

    /// The mistake of a file that could not be read at all.
    pub(crate) fn of_file(file: &Path, (line, mistake): (Option<usize>, Mistake)) -> Self {
        Self::new(file, vec![Located { line, column: None, file: None, mistake }])
    }

    /// The mistakes in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Located> {
        self.found.iter()
    }

    /// The number of mistakes, at least one.
    pub fn count(&self) -> usize {
        self.found.len()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, located) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&located.shown(&self.file, ""))?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The warnings about one file, in its order. A gateway starts in spite of them, and logs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    file: PathBuf,
    found: Vec<Located>,
}

impl Warnings {
    pub(crate) fn new(file: &Path, found: Vec<Located>) -> Self {
        Self { file: file.to_owned(), found }
    }

    /// Each warning as `gateway.toml:41: warning: …`, with its hint on a second line.
    pub fn shown(&self) -> impl Iterator<Item = String> + '_ {
        self.found.iter().map(|located| located.shown(&self.file, "warning: "))
    }

    /// Writes each warning to the log.
    pub fn log(&self) {
        for located in &self.found {
            let at = located.place(&self.file);
            let (message, hint) = (&located.mistake.message, &located.mistake.hint);
            tracing::warn!(at, hint, "{message}");
        }
    }
}
