//! All the mistakes of one file, as the user sees them.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Mistake;

/// One mistake and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Counted from 1; `None` for what is not in the file at all.
    pub line: Option<usize>,
    /// In characters, counted from 1; only where the line alone does not say enough.
    pub column: Option<usize>,
    /// What is wrong there.
    pub mistake: Mistake,
}

impl Located {
    /// Where it stands: `gateway.toml:41`.
    pub(crate) fn place(&self, file: &Path) -> String {
        let mut place = file.display().to_string();
        for number in [self.line, self.column].into_iter().flatten() {
            place.push_str(&format!(":{number}"));
        }
        place
    }

    /// The place, the `kind`, what is wrong, and the hint on a line of its own.
    pub(crate) fn shown(&self, file: &Path, kind: &str) -> String {
        let Mistake { message, hint, .. } = &self.mistake;
        let said = format!("{}: {kind}{message}", self.place(file));
        if hint.is_empty() { said } else { format!("{said}\n  hint: {hint}") }
    }
}

/// Why a config was refused: every mistake found, in the order of the file. Displays as one
/// paragraph a mistake, `gateway.toml:41: no upstream is named …` and its hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    file: PathBuf,
    found: Vec<Located>,
}

impl Mistakes {
    pub(crate) fn new(file: &Path, found: Vec<Located>) -> Self {
        Self { file: file.to_owned(), found }
    }

    /// The one mistake of a file that could not be read.
    pub(crate) fn of_file(file: &Path, (line, mistake): (Option<usize>, Mistake)) -> Self {
        Self::new(file, vec![Located { line, column: None, mistake }])
    }

    /// The mistakes in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Located> {
        self.found.iter()
    }

    /// How many there are, at least one.
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
