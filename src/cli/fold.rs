//! `farebox fold`

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::AdminClient;
use super::{CliError, ConfigFile, block_on};

/// How long a running gateway may take: it folds some ten thousand entries a second, and serves
/// calls meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Fold old ledger entries into opening balances.
///
/// Folds each account's old entries into one opening balance, so that the ledger does not grow for
/// ever. Their ids still take effect once. Calls are served meanwhile; a folding that is cut off
/// can be made again. In Postgres the tables of whole months are detached, and stay for an archive.
#[derive(Debug, Args)]
pub(super) struct Fold {
    /// Entries before this day are folded, such as 2026-01-01 (UTC).
    #[arg(long, value_name = "DAY")]
    before: String,
    /// Drop the tables of whole months instead (in Postgres).
    #[arg(long)]
    drop: bool,
}

impl Fold {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        block_on(async {
            let body = json!({ "before": format!("{}T00:00:00Z", self.before), "drop": self.drop });
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
