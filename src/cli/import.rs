//! `farebox import`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::{AdminClient, segment};
use super::{CliError, ConfigFile, block_on, reconcile};
use crate::config::Sections;
use crate::credits::Credits;
use crate::ledger::{BackendKind, Imported, import};
use crate::price::PackConfig;

/// Bring accounts over from an embedded ledger, or from an earlier system.
///
/// Brings accounts over: a whole embedded ledger into Redis and Postgres (--from), or what accounts
/// had in any earlier system (--csv).
#[derive(Debug, Args)]
pub(super) struct Import {
    /// An embedded ledger whose gateway is stopped. All of it is moved into the empty ledger of
    /// --config, in one transaction: entries under their ids, balances, holds of the API, keys,
    /// payments, Stripe's events. FILE stays as it is. Broken off, it has done nothing; repeat it.
    #[arg(long, value_name = "FILE", required_unless_present = "csv", conflicts_with = "csv")]
    from: Option<PathBuf>,
    /// A CSV file with the columns account, credits and id; the first line names them. Each row is
    /// a grant; repeatable: a row whose id was imported before is no second one. With the column
    /// payment_intent (pi_…), a later refund or dispute of that payment takes credits back, in
    /// proportion to the column paid (79.00 EUR); left empty, that is the price of the pack with
    /// as many credits.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

impl Import {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        match (&self.from, &self.csv) {
            (Some(from), _) => import_ledger(file, from),
            (None, Some(csv)) => import_rows(file, csv),
            // clap asks for one of them.
            (None, None) => Ok(()),
        }
    }
}

fn import_ledger(file: &ConfigFile, from: &Path) -> Result<(), CliError> {
    let config = file.load(Sections::LEDGER)?.ledger;
    if config.backend != BackendKind::Redis {
        return Err(CliError::Failed(format!(
            "{}: [ledger] says backend = \"embedded\"; --from moves a ledger into one with \
             backend = \"redis\", a redis_url and a postgres_url",
            file.path().display()
        )));
    }
    block_on(async {
        let (moved, schema) = (from.display(), &config.postgres_schema);
        match import(&config, from).await? {
            Imported::Before => println!("{moved} was moved into the schema {schema} before"),
            Imported::Moved(rows) => {
                let rows: Vec<_> =
                    rows.iter().map(|(name, count)| format!("{count} {name}")).collect();
                println!("moved {moved} into the schema {schema}: {}", rows.join(", "));
            }
        }
        reconcile::check(file).await
    })
}

fn import_rows(file: &ConfigFile, csv: &Path) -> Result<(), CliError> {
    let rows = read_csv(csv, &["account", "credits", "id"])?;
    let packs = file.load(Sections::PACKS)?.packs;
    block_on(async {
        let admin = AdminClient::connect(file).await?;
        let mut done = Ok(());
        let mut imported = 0;
        for row in &rows {
            let path = format!("/admin/accounts/{}/grants", segment(row.get("account")));
            let mut body = json!({
                "credits": row.get("credits"),
                "id": row.get("id"),
                "reason": "import",
                "source": "import",
            });
            if let Some(payment_intent) = row.filled("payment_intent") {
                let paid = row.filled("paid").map(str::to_owned);
                let Some(paid) = paid.or_else(|| price_of(row.get("credits"), &packs)) else {
                    done = Err(CliError::Failed(format!(
                        "{}:{}: no pack has {} credits, so say what was paid for them in the \
                         column paid, such as 79.00 EUR",
                        csv.display(),
                        row.line,
                        row.get("credits")
                    )));
                    break;
                };
                body["payment"] = json!({ "payment_intent": payment_intent, "paid": paid });
            }
            if let Err(error) = admin.ask(Method::POST, &path, Some(&body)).await {
                let line = row.line;
                let csv = csv.display();
                done = Err(CliError::Failed(format!("{csv}:{line}: {error}")));
                break;
            }
            imported += 1;
        }
        admin.close().await?;
        println!("{imported} of {} rows are imported", rows.len());
        done
    })
}

/// What the pack with so many credits costs.
fn price_of(credits: &str, packs: &[PackConfig]) -> Option<String> {
    let credits: Credits = credits.parse().ok()?;
    packs.iter().find(|pack| pack.credits == credits).map(|pack| pack.price.to_string())
}

/// One row of a CSV file, by its columns' names.
pub(super) struct Row {
    /// Where it stands, from 1.
    pub line: usize,
    values: HashMap<String, String>,
}

impl Row {
    /// A column's value, where there is one.
    fn filled(&self, column: &str) -> Option<&str> {
        Some(self.get(column)).filter(|value| !value.is_empty())
    }

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
