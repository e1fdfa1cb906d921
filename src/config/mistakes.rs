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

/// Why a config was refused: every mistake found, in the order of the file. Displays as one
/// paragraph a mistake, `gateway.toml:41: no upstream is named …` and its hint.
///
/// The warnings about a config that was not refused have the same form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    file: PathBuf,
    found: Vec<Located>,
}

impl Mistakes {
    pub(super) fn new(file: &Path, found: Vec<Located>) -> Self {
        Self { file: file.to_owned(), found }
    }

    /// The one mistake of a file that could not be read.
    pub(super) fn of_file(file: &Path, (line, mistake): (Option<usize>, Mistake)) -> Self {
        Self::new(file, vec![Located { line, column: None, mistake }])
    }

    /// The mistakes in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Located> {
        self.found.iter()
    }

    /// Each of them as its own text.
    pub fn paragraphs(&self) -> impl Iterator<Item = impl fmt::Display + '_> {
        self.found.iter().map(|located| Paragraph(&self.file, located))
    }

    /// How many there are: at least one, but for warnings.
    pub fn count(&self) -> usize {
        self.found.len()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, paragraph) in self.paragraphs().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{paragraph}")?;
        }
        Ok(())
    }
}

/// One of the [`Mistakes::paragraphs`].
struct Paragraph<'a>(&'a Path, &'a Located);

impl fmt::Display for Paragraph<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(file, Located { line, column, mistake }) = self;
        write!(f, "{}", file.display())?;
        for number in [line, column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        write!(f, ": {}", mistake.message)?;
        if mistake.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", mistake.hint) }
    }
}

impl std::error::Error for Mistakes {}
