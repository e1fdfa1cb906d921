//! `farebox import`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::{AdminClient, segment};
use super::{CliError, ConfigFile, block_on};

/// Grants what accounts had in an earlier system. Repeatable: a row whose id was imported before
/// is no second grant.
#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(flatten)]
    config: ConfigFile,
    /// A CSV file with the columns account, credits and id; the first line names them.
    #[arg(long, value_name = "FILE")]
    csv: PathBuf,
}

impl Import {
    pub fn run(self) -> Result<(), CliError> {
        let rows = read_csv(&self.csv, &["account", "credits", "id"])?;
        block_on(async {
            let admin = AdminClient::connect(&self.config).await?;
            let mut done = Ok(());
            let mut imported = 0;
            for row in &rows {
                let path = format!("/admin/accounts/{}/grants", segment(row.get("account")));
                let body = json!({
                    "credits": row.get("credits"),
                    "id": row.get("id"),
                    "reason": "import",
                    "source": "import",
                });
                if let Err(error) = admin.ask(Method::POST, &path, Some(&body)).await {
                    let line = row.line;
                    let file = self.csv.display();
                    done = Err(CliError::Failed(format!("{file}:{line}: {error}")));
                    break;
                }
                imported += 1;
            }
            admin.close().await?;
            println!("{imported} of {} rows are imported", rows.len());
            done
        })
    }
}

/// One row of a CSV file, by its columns' names.
pub(super) struct Row {
    /// Where it stands, from 1.
    pub line: usize,
    values: HashMap<String, String>,
}

impl Row {
    /// A column's value; empty where there is none.
    pub fn get(&self, column: &str) -> &str {
        self.values.get(column).map_or("", String::as_str)
    }
}

/// Reads a CSV file whose first line names its columns, `required` among them.
pub(super) fn read_csv(file: &Path, required: &[&str]) -> Result<Vec<Row>, CliError> {
    let failed = |error: csv::Error| CliError::Failed(format!("{}: {error}", file.display()));
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(file).map_err(failed)?;
    let columns: Vec<String> =
        reader.headers().map_err(failed)?.iter().map(str::to_lowercase).collect();
    if let Some(missing) = required.iter().find(|name| !columns.iter().any(|c| c == *name)) {
        return Err(CliError::Failed(format!(
            "{}: no column {missing}; the first line must name the columns {}",
            file.display(),
            required.join(", ")
        )));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let values = columns.iter().cloned().zip(record.iter().map(str::to_owned)).collect();
        rows.push(Row { line, values });
    }
    Ok(rows)
}
