//! `farebox reconcile --repair`: makes Postgres agree with its entries, and Redis agree with Postgres.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::ledger::LedgerError;
use crate::ledger::backend::Backend as _;
use crate::ledger::config::LedgerConfig;
use crate::ledger::report::{Difference, RepairReport};
use crate::metrics::Metrics;
use crate::store::cluster::compare;
use crate::store::cluster::ledger::ClusterLedger;
use crate::store::cluster::postgres;
use crate::store::cluster::replace::replace;
use crate::store::cluster::setup::{PATIENCE, RETRY_EVERY};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync;
use crate::store::cluster::warm;

/// The most rounds of repairs. A second round is needed only if something keeps damaging Redis.
const ROUNDS: usize = 20;

/// Repairs the differences that `farebox reconcile` finds, as far as they can be repaired. Gateways may
/// serve meanwhile.
///
/// # Errors
/// Fails if Redis or Postgres cannot be reached.
pub async fn repair_cluster(
    config: &LedgerConfig,
    metrics: Metrics,
) -> Result<RepairReport, LedgerError> {
    let config = LedgerConfig { is_command: true, ..config.clone() };
    let mut ledger = ClusterLedger::open(&config, metrics).await?;
    let report = repair(&ledger.shared).await;
    let limit = Instant::now() + PATIENCE;
    while !ledger.close().await && Instant::now() < limit {
        tokio::time::sleep(RETRY_EVERY).await;
    }
    report
}

async fn repair(shared: &Shared) -> Result<RepairReport, LedgerError> {
    sync::sync(shared).await?;
    let mut report = postgres::repair(&shared.store).await?;
    let mut wrong: BTreeSet<String> =
        report.repaired.iter().map(|repaired| repaired.account.clone()).collect();
    let scripts = shared.epoch.require()?;
    for _ in 0..ROUNDS {
        for Difference { account, what } in compare::compare(shared).await? {
            let what = format!("{what}: brought to Redis again, as Postgres has it");
            report.repaired.push(Difference { account: account.clone(), what });
            wrong.insert(account);
        }
        if wrong.is_empty() {
            break;
        }
        replace(shared, &scripts, &std::mem::take(&mut wrong)).await?;
    }
    // An earlier repair may have removed accounts from Redis, and been interrupted before it loaded
    // them again.
    warm::warm_held_accounts(shared).await?;
    sync::deliver(shared).await?;
    Ok(report)
}
