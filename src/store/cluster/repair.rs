//! `farebox reconcile --repair`: makes Postgres agree with its entries, and Redis agree with Postgres.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::ledger::LedgerError;
use crate::ledger::backend::Backend as _;
use crate::ledger::config::LedgerConfig;
use crate::ledger::report::{Difference, RepairReport};
use crate::metrics::Metrics;
use crate::store::cluster::compare::{self, Compared};
use crate::store::cluster::ledger::ClusterLedger;
use crate::store::cluster::postgres;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::replace::{replace, replace_folded};
use crate::store::cluster::setup::{PATIENCE, RETRY_EVERY};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync;
use crate::store::cluster::warm;

/// The most rounds of repairs. A second round is needed only if something keeps damaging Redis.
const ROUNDS: usize = 20;

/// Why something is left, in the report.
const KEPT_BACK: &str = "Postgres does not have the newest decisions of Redis: look in pg_stat_activity for the \
                         transaction that keeps a row locked and end it, then repair again";

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
    // Where a row stays locked, everything that does not need it is repaired nevertheless.
    is_synced(sync::sync(shared).await)?;
    let mut report = postgres::repair(&shared.store).await?;
    repair_redis(shared, &mut report).await?;
    // An earlier repair may have removed accounts from Redis, and been interrupted before it loaded
    // them again.
    is_synced(warm::warm_held_accounts(shared).await)?;
    sync::deliver(shared).await?;
    Ok(report)
}

/// Whether Postgres has all batches. False if a locked row keeps some of them back, or if there are too many.
fn is_synced(synced: Result<(), LedgerError>) -> Result<bool, LedgerError> {
    match synced {
        Ok(()) => Ok(true),
        Err(LedgerError::RowLocked | LedgerError::Behind) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Loads the accounts that differ in Redis from Postgres again. While a locked row keeps batches back from Postgres, an
/// account with a decision in one of these batches stays as it is: Postgres would give its charges back.
async fn repair_redis(shared: &Shared, report: &mut RepairReport) -> Result<(), LedgerError> {
    let mut wrong: BTreeSet<String> =
        report.repaired.iter().map(|repaired| repaired.account.clone()).collect();
    let scripts = shared.epoch.require()?;
    let mut not_compared = 0;
    for _ in 0..ROUNDS {
        let Compared { differences, skipped } = compare::compare(shared).await?;
        not_compared = skipped;
        wrong.extend(differences.iter().map(|difference| difference.account.clone()));
        if is_synced(sync::sync(shared).await)? {
            if wrong.is_empty() {
                if skipped == 0 {
                    break;
                }
                // The row has been freed since.
                continue;
            }
            if is_synced(replace(shared, &scripts, &wrong).await)? {
                report.repaired.extend(differences.into_iter().map(loaded_again));
            } else {
                // A row was locked just now.
                let how = "it is removed from Redis, and its calls get 503";
                let listed: BTreeSet<_> =
                    differences.iter().map(|left| left.account.clone()).collect();
                report.left.extend(differences.into_iter().map(|left| kept_back(left, how)));
                let others = wrong.difference(&listed);
                let others =
                    others.map(|account| Difference::new(account, "it is repaired in Postgres"));
                report.left.extend(others.map(|left| kept_back(left, how)));
            }
        } else {
            let replaced = replace_folded(shared, &scripts, &wrong).await?;
            let (again, left): (Vec<_>, Vec<_>) =
                differences.into_iter().partition(|one| replaced.contains(&one.account));
            let is_done = again.is_empty();
            report.repaired.extend(again.into_iter().map(loaded_again));
            if is_done {
                let how = "it stays so in Redis";
                report.left.extend(left.into_iter().map(|left| kept_back(left, how)));
                return report_behind(shared, &scripts, skipped, report).await;
            }
        }
        wrong.clear();
    }
    match not_compared {
        0 => Ok(()),
        skipped => report_behind(shared, &scripts, skipped, report).await,
    }
}

fn loaded_again(Difference { account, what }: Difference) -> Difference {
    Difference { account, what: format!("{what}: brought to Redis again, as Postgres has it") }
}

fn kept_back(Difference { account, what }: Difference, how: &str) -> Difference {
    Difference { account, what: format!("{what}: {how}, since {KEPT_BACK}") }
}

/// Lists the accounts whose locked rows keep batches back, and the number of accounts that were not compared.
async fn report_behind(
    shared: &Shared,
    scripts: &Scripts,
    skipped: usize,
    report: &mut RepairReport,
) -> Result<(), LedgerError> {
    if skipped > 0 {
        let what = format!("{skipped} accounts in Redis were not compared, since {KEPT_BACK}");
        report.left.push(Difference::new("", what));
    }
    let charged = sync::first_unwritten_charges(shared, scripts).await?;
    for account in postgres::find_locked(&shared.store, charged).await? {
        let line = postgres::stays_locked(&account);
        if !report.left.contains(&line) {
            report.left.push(line);
        }
    }
    Ok(())
}
