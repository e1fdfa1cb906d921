//! The `models_file`: more `[[models]]` in a file of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;

use crate::config::document::Document;
use crate::config::list::List;
use crate::config::read::Reader;
use crate::config::report::Report;
use crate::config::{Env, Located, Mistake, Sections, variables};
use crate::gateway::config::text::read_text;
use crate::price::metered::ModelConfig;

/// The key of the config that names the file.
pub(super) const KEY: &str = "models_file";

/// The name of the only list in the file.
const LIST: &str = "models";

/// The path and the text of a `models_file`.
pub(super) struct Written {
    path: PathBuf,
    text: String,
}

/// A `models_file` that is TOML, with the mistakes found so far.
pub(super) struct ModelsFile<'d> {
    path: &'d Path,
    report: Report<'d>,
    pub(super) models: List<ModelConfig>,
}

/// Reads the file that `document` names, if it names one; `base` is the folder of the config. A file that
/// cannot be read is a mistake of the config.
pub(super) fn open(
    document: &Document<'_>,
    base: &Path,
    env: Env<'_>,
    report: &mut Report<'_>,
) -> Option<Written> {
    let value = document.table().get(KEY).map(Spanned::get_ref)?;
    let Some(name) = value.as_str().map(|text| variables::expand(text, env)) else {
        let hint = "put the name in quotes: models_file = \"models.toml\"";
        report.add(KEY, None, "`models_file` wants a string", hint);
        return None;
    };
    for (message, hint) in name.failed {
        report.add(KEY, None, message, hint);
    }
    if name.text.is_empty() {
        if !report.covers(KEY) {
            report.add(
                KEY,
                None,
                "`models_file` names no file",
                "write its name, or remove the key",
            );
        }
        return None;
    }
    let path = base.join(&name.text);
    match read_text(&path) {
        Ok(text) => Some(Written { path, text }),
        Err((line, mistake)) => {
            let place = line.map_or(String::new(), |line| format!(":{line}"));
            let message = format!("{}{place} {}", path.display(), mistake.message);
            let hint = "a relative name starts from the folder of this config";
            report.add(KEY, None, message, if line.is_some() { &mistake.hint } else { hint });
            None
        }
    }
}

impl Written {
    /// Parses the file.
    ///
    /// # Errors
    /// The first place that is not TOML.
    pub(super) fn parse(&self) -> Result<Document<'_>, Located> {
        Document::parse(&self.text)
            .map_err(|syntax| Located { file: Some(self.path.as_path().into()), ..syntax })
    }

    /// Reads the models of the file, parsed as `document`.
    pub(super) fn read<'d>(&'d self, document: &'d Document<'d>, env: Env<'_>) -> ModelsFile<'d> {
        let mut report = Report::new(document);
        for (name, _) in document.table() {
            let (offset, name) = (name.span().start, name.get_ref().as_ref());
            if name != LIST {
                let message = format!("unknown section `{name}`");
                report.add(name, Some(offset), message, "a models_file has [[models]] alone");
            }
        }
        let mut reader = Reader { document, sections: Sections::MODELS, env, report: &mut report };
        let models = reader.list(LIST, Sections::MODELS);
        ModelsFile { path: &self.path, report, models }
    }
}

impl ModelsFile<'_> {
    /// Adds mistakes that the checks found. Their keys number the models of this file alone.
    pub(super) fn add_checked(&mut self, found: Vec<Mistake>) {
        self.report.add_checked(self.models.in_file_order(found));
    }

    /// Warnings with their places.
    pub(super) fn locate(&self, warnings: Vec<Mistake>) -> Vec<Located> {
        let warnings = self.report.locate(self.models.in_file_order(warnings));
        in_file(self.path, warnings)
    }

    /// The mistakes in the order of the file.
    pub(super) fn finish(self) -> Vec<Located> {
        in_file(self.path, self.report.finish())
    }
}

fn in_file(path: &Path, found: Vec<Located>) -> Vec<Located> {
    let path: Arc<Path> = path.into();
    found.into_iter().map(|found| Located { file: Some(path.clone()), ..found }).collect()
}

/// Splits mistakes about the models of both files into those of the config, which has `own` models,
/// and those of the `models_file`. The latter are renumbered from the first model of their own
/// file.
pub(super) fn split(found: Vec<Mistake>, own: usize) -> (Vec<Mistake>, Vec<Mistake>) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for mut mistake in found {
        match place_in(&mistake.key).filter(|(index, _)| *index >= own) {
            Some((index, rest)) => {
                mistake.key = format!("{LIST}[{}]{rest}", index - own);
                theirs.push(mistake);
            }
            None => ours.push(mistake),
        }
    }
    (ours, theirs)
}

/// Splits the key of a value of a model into the index of the model and the rest of the key.
fn place_in(key: &str) -> Option<(usize, String)> {
    let (index, rest) = key.strip_prefix(LIST)?.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest.to_owned()))
}
