//! Reads CSV files whose first line names their columns. All mistakes of a file are reported, each
//! with its line.

use std::collections::HashMap;
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use csv::StringRecord;

use crate::cli::CliError;

/// The columns that a file can have.
pub(super) struct Columns {
    /// The columns that a file must have.
    pub required: &'static [&'static str],
    /// The columns that a file may have.
    pub optional: &'static [&'static str],
}

/// The mistakes of a file, line by line.
pub(super) struct Mistakes {
    file: PathBuf,
    found: Vec<(u64, String)>,
}

impl Mistakes {
    /// Adds a mistake.
    pub fn add(&mut self, line: u64, mistake: String) {
        self.found.push((line, mistake));
    }

    /// Returns an error with all mistakes, in the order of their lines; `Ok` if there are none.
    pub fn refuse(mut self) -> Result<(), CliError> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(line, _)| *line);
        let mut text = String::new();
        for (line, mistake) in &self.found {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}:{line}: {mistake}", self.file.display());
        }
        let count = match self.found.len() {
            1 => "1 mistake".to_owned(),
            count => format!("{count} mistakes"),
        };
        Err(CliError::Failed(format!("{text}{count}; nothing was imported")))
    }
}

/// The rows that could be read, and the mistakes of those that could not.
pub(super) struct Rows<T> {
    /// The line of each row in the file, counted from 1.
    pub lines: Vec<u64>,
    /// The rows, in the file's order.
    pub rows: Vec<T>,
    /// The mistakes of the rows that could not be read.
    pub mistakes: Mistakes,
}

/// One row that is being read.
pub(super) struct Row<'a> {
    record: &'a StringRecord,
    places: &'a HashMap<String, usize>,
    mistakes: Vec<String>,
}

impl Row<'_> {
    /// A column's value; empty if the row has none.
    pub fn get(&self, column: &str) -> &str {
        self.places.get(column).and_then(|place| self.record.get(*place)).unwrap_or_default()
    }

    /// A column's value, unless it is empty.
    pub fn filled(&self, column: &str) -> Option<&str> {
        Some(self.get(column)).filter(|value| !value.is_empty())
    }

    /// A column's value, parsed. If that fails, a mistake is noted.
    pub fn parsed<T>(&mut self, column: &str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let parsed = self.get(column).parse();
        parsed.map_err(|error| self.wrong(format!("{column}: {error}"))).ok()
    }

    /// Notes a mistake.
    pub fn wrong(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }
}

/// Reads a whole file. If a row has a mistake, the mistake is noted and the row is left out.
///
/// # Errors
/// The file cannot be read, or its first line does not name the columns.
pub(super) fn read<T>(
    file: &Path,
    columns: &Columns,
    read_row: impl Fn(&mut Row<'_>) -> Option<T>,
) -> Result<Rows<T>, CliError> {
    let failed = |error: csv::Error| CliError::Failed(format!("{}: {error}", file.display()));
    let mut reader = csv::ReaderBuilder::new();
    let mut reader = reader.trim(csv::Trim::All).flexible(true).from_path(file).map_err(failed)?;
    let places = places_of(file, reader.headers().map_err(failed)?, columns)?;
    let named = reader.headers().map_err(failed)?.len();
    let mistakes = Mistakes { file: file.to_owned(), found: Vec::new() };
    let mut rows = Rows { lines: Vec::new(), rows: Vec::new(), mistakes };
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(failed)? {
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != named {
            let values = record.len();
            let mistake = format!("{values} values, where the first line names {named} columns");
            rows.mistakes.add(line, mistake);
            continue;
        }
        let text = match StringRecord::from_byte_record(std::mem::take(&mut record)) {
            Ok(text) => text,
            Err(_) => {
                rows.mistakes.add(line, "this line is not UTF-8 text".to_owned());
                continue;
            }
        };
        let mut row = Row { record: &text, places: &places, mistakes: Vec::new() };
        let value = read_row(&mut row);
        let mistakes = row.mistakes;
        match value {
            Some(value) if mistakes.is_empty() => {
                rows.lines.push(line);
                rows.rows.push(value);
            }
            _ => mistakes.into_iter().for_each(|mistake| rows.mistakes.add(line, mistake)),
        }
        record = text.into_byte_record();
    }
    Ok(rows)
}

/// The index of each column in a row.
fn places_of(
    file: &Path,
    header: &StringRecord,
    columns: &Columns,
) -> Result<HashMap<String, usize>, CliError> {
    let failed = |mistake: String| CliError::Failed(format!("{}:1: {mistake}", file.display()));
    let mut places = HashMap::new();
    for (place, name) in header.iter().enumerate() {
        let name = name.to_lowercase();
        if places.contains_key(&name) {
            return Err(failed(format!("the column {name} is named twice")));
        }
        places.insert(name, place);
    }
    if let Some(missing) = columns.required.iter().find(|name| !places.contains_key(**name)) {
        return Err(failed(format!(
            "no column {missing}; the first line must name the columns {}, separated by commas",
            columns.required.join(", ")
        )));
    }
    let is_read = |name: &str| columns.required.iter().chain(columns.optional).any(|c| *c == name);
    let mut others: Vec<&str> =
        places.keys().map(String::as_str).filter(|name| !is_read(name)).collect();
    if !others.is_empty() {
        others.sort_unstable();
        eprintln!("{}: these columns are ignored: {}", file.display(), others.join(", "));
    }
    Ok(places)
}

impl<T> Rows<T> {
    /// Leaves out each row whose `key` is already on an earlier line, and notes a mistake.
    pub fn refuse_repeated(&mut self, what: &str, key: impl Fn(&T) -> Option<&str>) {
        let mut first: HashMap<String, u64> = HashMap::with_capacity(self.rows.len());
        let (rows, lines) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.lines));
        for (row, line) in rows.into_iter().zip(lines) {
            if let Some(key) = key(&row) {
                if let Some(earlier) = first.get(key) {
                    let mistake = format!("the {what} {key} is on line {earlier} already");
                    self.mistakes.add(line, mistake);
                    continue;
                }
                first.insert(key.to_owned(), line);
            }
            self.rows.push(row);
            self.lines.push(line);
        }
    }
}
