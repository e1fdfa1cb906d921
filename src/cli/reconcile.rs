//! `farebox reconcile`

use clap::Args;
use http::Method;

use super::admin_client::AdminClient;
use super::{CliError, ConfigFile, block_on};

/// Checks what the ledger must always hold, and says where it does not; exit code 1 then.
#[derive(Debug, Args)]
pub(super) struct Reconcile {
    #[command(flatten)]
    config: ConfigFile,
}

impl Reconcile {
    pub fn run(self) -> Result<(), CliError> {
        block_on(check(&self.config))
    }
}

/// Has the ledger of a config examined, and says what was found.
pub(super) async fn check(config: &ConfigFile) -> Result<(), CliError> {
    let report = AdminClient::ask_once(config, Method::GET, "/admin/reconcile", None).await?;
    println!(
        "{} accounts ({} in debt), {} entries, {} live holds",
        report["accounts"], report["debts"], report["entries"], report["live_holds"]
    );
    let differences = report["differences"].as_array().map_or(&[][..], Vec::as_slice);
    for difference in differences {
        let text = |key: &str| difference[key].as_str().unwrap_or_default().to_owned();
        println!("{}: {}", text("account"), text("what"));
    }
    if differences.is_empty() {
        println!("clean");
        return Ok(());
    }
    Err(CliError::Failed(format!("{} things do not hold", differences.len())))
}
