//! Reloads accounts from Postgres into Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use fred::types::Value;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::store::cluster::compare::{self, ACCOUNTS, Folded};
use crate::store::cluster::postgres::{self, ColdAccount};
use crate::store::cluster::redis::connection::{arg, args};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{IN_TIME, NO_HURRY};
use crate::store::cluster::warm;

/// Drops accounts and their live holds from Redis, and loads them again. The batches that Redis decided about them stay
/// in the stream, and no gateway loads an account before all of these batches are in Postgres.
pub(crate) async fn replace(
    shared: &Shared,
    scripts: &Scripts,
    accounts: &BTreeSet<String>,
) -> Result<(), LedgerError> {
    let mut holds = compare::live_holds(shared, scripts).await?;
    let names: Vec<_> = accounts.iter().cloned().collect();
    let (_, stored) = postgres::stored_accounts(&shared.store, &names).await?;
    for account in accounts {
        let mut ids: BTreeSet<String> = stored[account].holds.keys().cloned().collect();
        ids.extend(holds.remove(account).unwrap_or_default());
        let mut words = args(["drop", account]);
        words.extend(ids.iter().map(|id| arg(id)));
        shared.maintain(scripts, words).await?;
    }
    load(shared, scripts, accounts, NO_HURRY).await
}

/// Drops and loads accounts while a locked row keeps batches back from Postgres: those of which Postgres has everything
/// that was decided, and no running call has a claim without a mark. Returns these. The others stay as they are: Redis
/// may be ahead of Postgres with their charges, and an account that is removed now could not be loaded before the row is
/// free.
pub(crate) async fn replace_folded(
    shared: &Shared,
    scripts: &Scripts,
    accounts: &BTreeSet<String>,
) -> Result<BTreeSet<String>, LedgerError> {
    let mut live = compare::live_holds(shared, scripts).await?;
    let names: Vec<_> = accounts.iter().cloned().collect();
    let mut replaced = BTreeSet::new();
    for some in names.chunks(ACCOUNTS) {
        let mut dropped = BTreeSet::new();
        let folded = compare::folded(shared, scripts, some).await?;
        let unmarked = unmarked(shared, some).await?;
        for (account, Folded { value, holds }) in folded {
            if unmarked.contains(&account) {
                continue;
            }
            let mut ids: BTreeSet<String> = holds.into_iter().collect();
            ids.extend(live.remove(&account).unwrap_or_default());
            let mut words = args(["drop_folded", &account]);
            words.push(Value::Bytes(value));
            words.extend(ids.iter().map(|id| arg(id)));
            if shared.maintain(scripts, words).await? == Value::Integer(1) {
                dropped.insert(account);
            }
        }
        load(shared, scripts, &dropped, IN_TIME).await?;
        replaced.append(&mut dropped);
    }
    Ok(replaced)
}

/// Those of the accounts with a running call whose claim has no mark in Postgres. Redis may have the mark, and a batch
/// that only marks a claim does not change the account.
async fn unmarked(shared: &Shared, accounts: &[String]) -> Result<BTreeSet<String>, LedgerError> {
    let ids: Vec<AccountId> = accounts.iter().filter_map(|id| id.parse().ok()).collect();
    let cold = postgres::cold_accounts(&shared.store, &ids).await?;
    let has_unmarked = |cold: &ColdAccount| {
        let mut claims = cold.holds.iter().filter_map(|hold| hold.claim.as_ref());
        claims.any(|claim| claim.mark.is_none())
    };
    let unmarked = cold.into_iter().filter(has_unmarked);
    Ok(unmarked.map(|cold| cold.account.as_str().to_owned()).collect())
}

/// Loads accounts at once, because the deadlines of their holds must be checked.
async fn load(
    shared: &Shared,
    scripts: &Scripts,
    accounts: &BTreeSet<String>,
    limit: Duration,
) -> Result<(), LedgerError> {
    let ids: Vec<AccountId> = accounts.iter().filter_map(|id| id.parse().ok()).collect();
    let nonce = warm::new_nonce();
    for some in ids.chunks(ACCOUNTS) {
        warm::warm_accounts(shared, scripts, some, &nonce, limit).await?;
    }
    Ok(())
}
