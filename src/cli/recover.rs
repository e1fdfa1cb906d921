//! `farebox recover`

use clap::Args;

use super::{CliError, ConfigFile, block_on};
use crate::config::Sections;
use crate::ledger::{BackendKind, in_credits};
use crate::metrics::Metrics;
use crate::store::{ChangedAccount, RecoveryPlan, plan_recovery, recover_cluster};

/// Say what a recovery of Redis would do, or have one made.
///
/// Says what Redis and Postgres have, and has the ledger recovered: the gateways hand over what
/// they remember, and the next epoch begins with what Postgres then has. Gateways do so by
/// themselves when Redis has lost data; this is for a night when they are to do it all the same.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// Change nothing: only say what would be replayed, restored and lost, and which balances change.
    #[arg(long)]
    dry_run: bool,
}

impl Recover {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let mut config = file.load(Sections::LEDGER)?.ledger;
        if config.backend != BackendKind::Redis {
            return Err(CliError::Failed(
                "the embedded ledger has nothing to recover: it is whole whenever it is opened; \
                 `farebox reconcile` checks it"
                    .to_owned(),
            ));
        }
        // A gateway of this name may be serving; this process is another one.
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
        println!("nothing is lost that was decided");
    }
    plan.lost.iter().for_each(|line| println!("lost: {line}"));
    if plan.changed == 0 {
        println!("every balance that Redis shows stays as it is");
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
        "to give an account what Redis showed, once it has recovered: farebox account adjust ACCOUNT \
         CREDITS --reason …, by the difference"
    );
}
