//! `farebox reconcile`

use clap::Args;
use http::Method;

use crate::cli::admin_client::AdminClient;
use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::ledger::{BackendKind, LedgerError};
use crate::metrics::Metrics;
use crate::store::{ImportError, SourceError, repair_cluster, repair_embedded};

/// Check that the ledger is consistent.
///
/// Checks every account, prints each difference, and ends with exit code 1 if there is one. On Redis and Postgres it
/// compares Redis with Postgres, and holds and accounts with the entries.
#[derive(Debug, Args)]
pub(super) struct Reconcile {
    /// Repair the differences where possible. Entries are the truth and are never edited: accounts
    /// are set to the sums of their entries. Data in Redis that differs is dropped and loaded again
    /// from Postgres, while gateways run. On the embedded ledger the gateway must be stopped.
    #[arg(long)]
    repair: bool,
}

impl Reconcile {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        block_on(async {
            if self.repair {
                repair(file).await?;
            }
            check(file).await
        })
    }
}

async fn repair(file: &ConfigFile) -> Result<(), CliError> {
    let mut config = file.load(Sections::LEDGER)?.ledger;
    let report = match config.backend {
        BackendKind::Embedded => match repair_embedded(&config.path).await {
            Err(SourceError::Ledger(LedgerError::Locked { path })) => {
                return Err(CliError::Failed(format!(
                    "a gateway has {} in use, with its balances in memory: stop it, repair, start it \
                     again; nothing was changed",
                    path.display()
                )));
            }
            repaired => repaired.map_err(ImportError::from)?,
        },
        BackendKind::Redis => {
            // This process must not take the place of a running gateway that has this name.
            config.gateway_name = None;
            let metrics = Metrics::new().map_err(|error| CliError::Failed(error.to_string()))?;
            repair_cluster(&config, metrics).await?
        }
    };
    for repaired in &report.repaired {
        println!("repaired {}: {}", repaired.account, repaired.what);
    }
    for left in &report.left {
        match &*left.account {
            "" => println!("left: {}", left.what),
            account => println!("left {account}: {}", left.what),
        }
    }
    Ok(())
}

/// Reconciles the config's ledger, and prints the result.
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
    Err(CliError::Failed(format!(
        "{} differences; `farebox reconcile --repair` repairs them where possible",
        differences.len()
    )))
}
