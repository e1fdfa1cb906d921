//! `farebox recover`

use clap::Args;

use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::ledger::{BackendKind, in_credits};
use crate::metrics::Metrics;
use crate::store::{ChangedAccount, RecoveryPlan, plan_recovery, recover_cluster};

/// Show what a recovery of Redis would do, and run it.
///
/// Prints the state of Redis and Postgres, then runs a recovery: the gateways hand over the batches
/// in their memory, and the next epoch begins with the state of Postgres. Gateways do this by
/// themselves when Redis has lost data; use this command to recover Redis in other cases.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// Change nothing: only print what would be replayed, restored and lost, and which balances
    /// change.
    #[arg(long)]
    dry_run: bool,
}

impl Recover {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let mut config = file.load(Sections::LEDGER)?.ledger;
        if config.backend != BackendKind::Redis {
            return Err(CliError::Failed(
                "the embedded ledger needs no recovery, since SQLite repairs it when it is opened; \
                 `farebox reconcile` checks it"
                    .to_owned(),
            ));
        }
        // This process must not take the place of a running gateway that has this name.
        config.gateway_name = None;
        block_on(async {
            print(&plan_recovery(&config).await?);
            if self.dry_run {
                println!("nothing was changed");
                return Ok(());
            }
            let metrics = Metrics::new().map_err(|error| CliError::Failed(error.to_string()))?;
            let epoch = recover_cluster(&config, metrics).await?;
            println!("epoch {epoch} has begun; `farebox reconcile` checks it");
            Ok(())
        })
    }
}

fn print(plan: &RecoveryPlan) {
    plan.state.iter().for_each(|line| println!("{line}"));
    println!("a recovery:");
    plan.steps.iter().for_each(|line| println!("  {line}"));
    if plan.lost.is_empty() {
        println!("no decided operation is lost");
    }
    plan.lost.iter().for_each(|line| println!("lost: {line}"));
    if plan.changed == 0 {
        println!("no balance would change");
        return;
    }
    println!("{} accounts would have another balance than Redis shows now:", plan.changed);
    for ChangedAccount { account, redis, postgres, after } in &plan.accounts {
        let redis = redis.map_or_else(|| "unreadable".to_owned(), in_credits);
        println!(
            "  {account}: Redis {redis}, Postgres {}, afterwards {}",
            in_credits(*postgres),
            in_credits(*after)
        );
    }
    println!(
        "to restore the balance that Redis showed, after the recovery: farebox account adjust ACCOUNT \
         CREDITS --reason …, by the difference"
    );
}
