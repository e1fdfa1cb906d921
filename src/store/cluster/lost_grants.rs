//! Grants that Redis has applied and Postgres has lost, in a failover to a replica that lacked them.
//!
//! Usually the heartbeat notices a failover: the epoch ends, and every account is loaded from Postgres again. If the
//! failover was not noticed, the digests of the deliveries show it, and only the affected account is loaded again. In
//! both cases each account for which Redis knew more is logged with the amount, because a buyer has paid for these
//! credits or the seller has given them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::ledger::report::in_credits;
use crate::store::cluster::compare;
use crate::store::cluster::postgres::{self, Recovery};
use crate::store::cluster::redis::record::HotAccount;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::replace::replace;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync;

/// How long a recovery looks for accounts for which Redis knew more than Postgres.
const LOOK_FOR: Duration = Duration::from_secs(5);

/// How often a recovery that reads from Redis sends Postgres a statement, so that Postgres does not end
/// its transaction as idle.
const STAY_EVERY: Duration = Duration::from_secs(1);

/// Delivers the decisions of Postgres, and reloads into Redis the accounts for which Redis has applied other decisions.
pub(crate) async fn deliver(shared: &Shared) -> Result<(), LedgerError> {
    for account in sync::deliver(shared).await? {
        bring_anew(shared, account).await?;
    }
    Ok(())
}

async fn bring_anew(shared: &Shared, account: String) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    // Another gateway may have reloaded the account meanwhile.
    let Some(amount) = compare::missing(shared, &scripts, &account).await? else { return Ok(()) };
    log(&account, amount);
    let epoch = scripts.epoch.number;
    replace(shared, &scripts, &BTreeSet::from([account])).await?;
    postgres::note_failover(&shared.store, epoch, false).await
}

/// Logs each account for which Redis knew more than Postgres, after a failover that was noticed. Call this when all
/// decisions of Redis have been written and Redis no longer decides anything.
pub(crate) async fn report(
    shared: &Shared,
    ended: &Scripts,
    recovery: &mut Recovery,
) -> Result<(), LedgerError> {
    let (began, mut stayed) = (Instant::now(), Instant::now());
    let prefix = ended.account_key("");
    let mut cursor = "0".to_owned();
    loop {
        let keys;
        (cursor, keys) = shared.redis.scan(&cursor, &format!("{prefix}*")).await?;
        if !keys.is_empty() {
            let names: Vec<_> =
                keys.iter().filter_map(|key| Some(key.get(prefix.len()..)?.to_owned())).collect();
            let values = shared.redis.values(keys).await?;
            let stored = recovery.stored_accounts(&names).await?;
            stayed = Instant::now();
            for (name, value) in names.iter().zip(values) {
                let hot = value.and_then(|value| HotAccount::parse(&value));
                if let Some(amount) = hot.and_then(|hot| stored.get(name)?.missing(&hot)) {
                    log(name, amount);
                }
            }
        }
        if cursor == "0" {
            return Ok(());
        }
        if began.elapsed() > LOOK_FOR {
            tracing::error!(
                "not every account was looked at for grants that Postgres has lost, since that took too long: compare \
                 the last day with Stripe (`farebox stripe reconcile`), and give again what was given by hand"
            );
            return Ok(());
        }
        if stayed.elapsed() >= STAY_EVERY {
            recovery.keep_alive().await?;
            stayed = Instant::now();
        }
    }
}

fn log(account: &str, amount: i64) {
    tracing::error!(
        account,
        amount = in_credits(amount),
        "Redis had heard of a grant, a refund or a freeze of this account that Postgres does not have: Postgres was \
         failed over to a replica that lacked it, or restored. Postgres counts; what was bought comes back from Stripe, \
         anything else has to be granted again"
    );
}
