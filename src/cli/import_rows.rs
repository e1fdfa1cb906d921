//! Sends a file's rows to the ledger. A dry run checks all rows first; if none is refused, they are
//! imported in chunks.

use http::Method;
use serde::Serialize;
use serde_json::Value;

use crate::cli::CliError;
use crate::cli::admin_client::AdminClient;
use crate::cli::csv_rows::Rows;
use crate::credits::Credits;

/// The number of rows in one request. The ledger decides nothing else while it imports them.
const CHUNK: usize = 1000;

/// The admin route that imports the rows.
pub(super) struct Destination {
    /// The path of the route.
    pub path: &'static str,
    /// The member of the request's body that has the rows.
    pub list: &'static str,
    /// The word for one row in messages.
    pub row: &'static str,
}

/// The outcome of all rows.
#[derive(Default)]
struct Totals {
    imported: u64,
    existing: u64,
    credits: Credits,
}

impl Destination {
    /// Checks all rows, then sends them unless this is a dry run. Rows that were imported before
    /// change nothing, so a file may be sent again. Returns the outcome as a sentence.
    pub async fn send<T: Serialize>(
        &self,
        admin: &AdminClient,
        mut rows: Rows<T>,
        dry_run: bool,
    ) -> Result<String, CliError> {
        let mut tried = Totals::default();
        for (chunk, lines) in rows.rows.chunks(CHUNK).zip(rows.lines.chunks(CHUNK)) {
            let answer = self.ask(admin, chunk, true).await?;
            tried.add(&answer);
            for refused in answer["refused"].as_array().into_iter().flatten() {
                let row = refused["row"].as_u64().and_then(|row| usize::try_from(row).ok());
                let line = row.and_then(|row| lines.get(row)).copied().unwrap_or_default();
                let detail = refused["detail"].as_str().unwrap_or_default().to_owned();
                rows.mistakes.add(line, detail);
            }
        }
        rows.mistakes.refuse()?;
        if dry_run {
            return Ok(format!("would have {}; nothing was changed", self.summary(&tried)));
        }
        let mut done = Totals::default();
        for (chunk, lines) in rows.rows.chunks(CHUNK).zip(rows.lines.chunks(CHUNK)) {
            let answer = self.ask(admin, chunk, false).await.map_err(|error| {
                let [first, last] = [lines.first(), lines.last()].map(|line| line.copied());
                let [first, last] = [first, last].map(Option::unwrap_or_default);
                CliError::Failed(format!(
                    "lines {first} to {last}: {error}\n{} before that; repeat the command to go on",
                    self.summary(&done)
                ))
            })?;
            done.add(&answer);
        }
        Ok(self.summary(&done))
    }

    async fn ask<T: Serialize>(
        &self,
        admin: &AdminClient,
        chunk: &[T],
        dry_run: bool,
    ) -> Result<Value, CliError> {
        let failed = |error: serde_json::Error| CliError::Failed(error.to_string());
        let chunk = serde_json::to_string(chunk).map_err(failed)?;
        let body = format!("{{\"{}\":{chunk},\"dry_run\":{dry_run}}}", self.list);
        admin
            .send(Method::POST, self.path, Some(body), "repeat the command, which counts once")
            .await
    }

    fn summary(&self, totals: &Totals) -> String {
        let Totals { imported, existing, credits } = totals;
        let credits = match credits.is_zero() {
            true => String::new(),
            false => format!(" with {credits} credits"),
        };
        let rows = if *imported == 1 { "" } else { "s" };
        let were = if *existing == 1 { "was" } else { "were" };
        format!("imported {imported} {}{rows}{credits}; {existing} {were} there already", self.row)
    }
}

impl Totals {
    fn add(&mut self, answer: &Value) {
        let count = |name: &str| answer[name].as_u64().unwrap_or_default();
        self.imported += count("imported");
        self.existing += count("existing");
        let credits = answer["credits"].to_string().parse().unwrap_or_default();
        self.credits = [self.credits, credits].into_iter().sum();
    }
}
