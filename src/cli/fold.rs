//! `farebox fold`

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::AdminClient;
use super::{CliError, ConfigFile, block_on};

/// Folds each account's old entries into one opening balance, so that the file does not grow for
/// ever. Their ids still take effect once.
#[derive(Debug, Args)]
pub(super) struct Fold {
    #[command(flatten)]
    config: ConfigFile,
    /// Entries before this day are folded, such as 2026-01-01 (UTC).
    #[arg(long, value_name = "DAY")]
    before: String,
}

impl Fold {
    pub fn run(self) -> Result<(), CliError> {
        block_on(async {
            let body = json!({ "before": format!("{}T00:00:00Z", self.before) });
            let report =
                AdminClient::ask_once(&self.config, Method::POST, "/admin/fold", Some(&body))
                    .await?;
            println!("folded {} entries of {} accounts", report["entries"], report["accounts"]);
            Ok(())
        })
    }
}
