//! `farebox fold`

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::admin_client::AdminClient;
use crate::cli::{CliError, ConfigFile, block_on};

/// The longest time that a running gateway may take. It folds about ten thousand entries a second,
/// and serves calls meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Fold old ledger entries into opening balances.
///
/// Folds each account's old entries into one opening balance, which limits the size of the ledger.
/// The ids of folded entries still count once. Calls are served meanwhile; after an interruption,
/// repeat the command. In Postgres the tables of whole months are detached and kept for an archive.
#[derive(Debug, Args)]
pub(super) struct Fold {
    /// Fold the entries before this day, such as 2026-01-01 (UTC).
    #[arg(long, value_name = "DAY", value_parser = midnight)]
    before: OffsetDateTime,
    /// Drop the tables of whole months instead of detaching them (in Postgres).
    #[arg(long)]
    drop: bool,
}

impl Fold {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        block_on(async {
            let before = self.before.format(&Rfc3339);
            let before = before.map_err(|error| CliError::Failed(error.to_string()))?;
            let body = json!({ "before": before, "drop": self.drop });
            let admin = AdminClient::connect(file).await?.within(ANSWER_LIMIT);
            let report = admin.ask(Method::POST, "/admin/fold", Some(&body)).await;
            admin.close().await?;
            let report = report?;
            println!("folded {} entries of {} accounts", report["entries"], report["accounts"]);
            for table in report["months"].as_array().into_iter().flatten() {
                println!("detached: {}", table.as_str().unwrap_or_default());
            }
            Ok(())
        })
    }
}

/// The first moment of a day, in UTC.
fn midnight(day: &str) -> Result<OffsetDateTime, &'static str> {
    let midnight = OffsetDateTime::parse(&format!("{day}T00:00:00Z"), &Rfc3339);
    midnight.map_err(|_| "write a day such as 2026-01-01")
}
