//! Warming: loads into Redis the accounts and ended holds that a batch needs and that Redis does
//! not have. Redis removes accounts that are idle, and forgets ended holds.
//!
//! A gateway stores a nonce in Redis, and then reads Postgres. Redis accepts the result only if the
//! nonce is still there, because then nothing has changed in between.

use std::time::Duration;

use fred::types::Value;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::operation::{Operation, Origin};
use crate::store::cluster::adaptive::chunks_within;
use crate::store::cluster::cold_claims;
use crate::store::cluster::postgres::{self, ColdAccount, Fate};
use crate::store::cluster::redis::connection::{arg, args};
use crate::store::cluster::redis::record::{self, HotAccount};
use crate::store::cluster::redis::reply::Needs;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, IN_TIME, NO_HURRY, WRITTEN_WITHIN};

/// The shortest life that a restored hold gets, in milliseconds, so that it does not expire at once
/// if a clock was set forward.
const MIN_TTL_MS: i64 = 60_000;

/// The longest lifetime that an API hold can have, in milliseconds. A restored hold gets no more,
/// even if a clock was set back.
const MAX_API_TTL_MS: i64 = 24 * 3_600_000;

/// The most accounts that are loaded together after a recovery.
const ACCOUNTS: usize = 500;

/// The most holds that are loaded together, unless one account has more.
const HOLDS: usize = 5000;

/// After this many failures in a row, the store is taken to be the cause, and not a single account.
const FAILURES: usize = 3;

/// Loads the accounts and ends of holds that a batch needs. If they change meanwhile, nothing is loaded, and the batch
/// asks again.
pub(crate) async fn warm(
    shared: &Shared,
    scripts: &Scripts,
    needs: &Needs,
) -> Result<(), LedgerError> {
    shared.require_postgres()?;
    let nonce = new_nonce();
    cold_claims::load(shared, scripts, &needs.claims, &needs.left).await?;
    // The accounts come first, because the fate of a hold may have to wait until Postgres has caught up.
    warm_accounts(shared, scripts, &needs.accounts, &nonce, IN_TIME).await?;
    let mut accounts = Vec::new();
    if !needs.holds.is_empty() {
        let names = needs.holds.iter().map(|id| format!("i:{id}"));
        announce_read(shared, scripts, &nonce, names).await?;
        // Redis may have decided about an id and then forgotten it. Postgres must have that
        // decision first.
        sync::catch_up_unless_stuck(shared, WRITTEN_WITHIN).await?;
        for (id, fate) in
            needs.holds.iter().zip(postgres::fates(&shared.store, &needs.holds).await?)
        {
            match record_of(&fate) {
                Ok(record) => {
                    let words = ["warm_ended", &nonce, id.as_str(), &record];
                    shared.maintain(scripts, args(words)).await?;
                }
                // A live hold is loaded with its account.
                Err(account) => accounts.push(account),
            }
        }
    }
    warm_accounts(shared, scripts, &accounts, &nonce, IN_TIME).await
}

/// Loads accounts with their live holds. `limit` is how long Postgres may take to store earlier
/// decisions of Redis.
///
/// # Errors
/// Fails if a store is unreachable, or if an account cannot be loaded. The other accounts are
/// loaded nevertheless.
pub(crate) async fn warm_accounts(
    shared: &Shared,
    scripts: &Scripts,
    accounts: &[AccountId],
    nonce: &str,
    limit: Duration,
) -> Result<(), LedgerError> {
    let (mut left, mut result) = (vec![accounts], Ok(()));
    while let Some(some) = left.pop() {
        match warm_together(shared, scripts, some, nonce, limit).await {
            Ok(()) => {}
            // A store that is unreachable for one account is unreachable for all.
            Err(error) if error.is_outage() => return Err(error),
            Err(error) if some.len() == 1 => {
                let account = some.first().map_or("", AccountId::as_str);
                tracing::error!(
                    account, %error,
                    "an account cannot be brought to Redis, so its calls get 503; `farebox reconcile` says what is \
                     wrong with it"
                );
                result = Err(error);
            }
            Err(_) => {
                let (one, other) = some.split_at(some.len() / 2);
                left.extend([other, one]);
            }
        }
    }
    result
}

async fn warm_together(
    shared: &Shared,
    scripts: &Scripts,
    accounts: &[AccountId],
    nonce: &str,
    limit: Duration,
) -> Result<(), LedgerError> {
    if accounts.is_empty() {
        return Ok(());
    }
    let names = || accounts.iter().map(|id| format!("a:{id}"));
    if !announce_read(shared, scripts, nonce, names()).await? {
        // A repair removed one of these accounts. Postgres must first have all decisions of Redis about it.
        sync::sync_within(shared, limit).await?;
        sync::announce_durable(shared, scripts).await?;
        announce_read(shared, scripts, nonce, names()).await?;
    }
    for cold in postgres::cold_accounts(&shared.store, accounts).await? {
        let words = warm_account_args(nonce, &cold, shared.watch.now_ms());
        shared.maintain(scripts, words).await?;
    }
    Ok(())
}

/// Loads every account with a live hold, if this gateway has opened the epoch and has not loaded them
/// yet. After an error, call this again.
pub(crate) async fn warm_after_recovery(shared: &Shared) -> Result<(), LedgerError> {
    if let Some(epoch) = shared.epoch.unwarmed() {
        warm_held_accounts(shared).await?;
        cold_claims::load_all(shared).await?;
        shared.epoch.end_warming(epoch);
    }
    Ok(())
}

/// Loads every account that has a live hold and is not in Redis, so that the deadlines of the holds
/// are checked.
pub(crate) async fn warm_held_accounts(shared: &Shared) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let nonce = new_nonce();
    let held = postgres::accounts_with_holds(&shared.store).await?;
    let (mut result, mut failures) = (Ok(()), 0);
    for some in chunks_within(&held, ACCOUNTS, HOLDS, |(_, holds)| *holds) {
        match warm_cold(shared, &scripts, some, &nonce).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                result = Err(error);
            }
        }
        if failures == FAILURES {
            break;
        }
    }
    result
}

/// Loads the accounts that Redis does not have.
async fn warm_cold(
    shared: &Shared,
    scripts: &Scripts,
    held: &[(AccountId, usize)],
    nonce: &str,
) -> Result<(), LedgerError> {
    let keys = held.iter().map(|(account, _)| scripts.account_key(account.as_str()));
    let values = shared.redis.values(keys.collect()).await?;
    let cold = held.iter().zip(values).filter(|(_, value)| value.is_none());
    let cold: Vec<_> = cold.map(|((account, _), _)| account.clone()).collect();
    warm_accounts(shared, scripts, &cold, nonce, NO_HURRY).await
}

/// Returns, for each operation, whether it opens an account that is in Redis and exists. Accounts are never deleted, so
/// the order of the operations does not matter.
pub(crate) async fn are_open(shared: &Shared, operations: &[Operation]) -> Vec<bool> {
    let none = vec![false; operations.len()];
    let opened = operations.iter().map(|operation| match operation {
        Operation::Open { account, .. } => Some(account),
        _ => None,
    });
    let Some(scripts) = shared.epoch.scripts() else { return none };
    let key = |account: &AccountId| scripts.account_key(account.as_str());
    let keys: Vec<_> = opened.clone().flatten().map(key).collect();
    if keys.is_empty() {
        return none;
    }
    let sent = shared.lease.sending();
    let values = match shared.redis.hot_values(keys).await {
        Ok(values) if shared.lease.may_answer(sent) => values,
        _ => return none,
    };
    let mut exists = values.into_iter().map(|value| {
        value.and_then(|value| HotAccount::parse(&value)).is_some_and(|account| account.exists)
    });
    opened.map(|opened| opened.is_some() && exists.next() == Some(true)).collect()
}

/// A nonce for [`warm_accounts`].
pub(crate) fn new_nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Stores the nonce under each of these names. Returns false if Postgres must first have everything
/// that Redis decided.
async fn announce_read(
    shared: &Shared,
    scripts: &Scripts,
    nonce: &str,
    names: impl Iterator<Item = String>,
) -> Result<bool, LedgerError> {
    let mut words = args(["announce_read", nonce]);
    words.extend(names.map(|name| arg(&name)));
    Ok(shared.maintain(scripts, words).await? == Value::Integer(1))
}

/// The record of a hold that has ended or does not exist. For a live hold, `Err` has its account.
fn record_of(fate: &Fate) -> Result<String, AccountId> {
    Ok(match fate {
        Fate::Live { account, .. } => return Err(account.clone()),
        Fate::Captured { account, amount } => record::captured_record(account, *amount),
        Fate::Ended { account, amount, origin, ending } => {
            record::ended_record(account, *amount, *origin, *ending)
        }
        Fate::Unknown => record::UNKNOWN_HOLD.to_owned(),
    })
}

/// The arguments of `warm_account`. `now_ms` is the time on Redis's clock, which set the deadlines.
fn warm_account_args(nonce: &str, cold: &ColdAccount, now_ms: i64) -> Vec<Value> {
    let flag = |set: bool| if set { "1" } else { "0" };
    let mut words = args([
        "warm_account",
        nonce,
        cold.account.as_str(),
        flag(cold.exists),
        &cold.balance.micros().to_string(),
        &cold.grant_seq.to_string(),
        flag(cold.frozen),
    ]);
    words.push(Value::Bytes(cold.digest.clone().into()));
    for hold in &cold.holds {
        let max_ms = match hold.origin {
            Origin::Call => MIN_TTL_MS,
            Origin::Api => MAX_API_TTL_MS,
        };
        let ttl_ms = hold.expires_ms.saturating_sub(now_ms).clamp(MIN_TTL_MS, max_ms);
        let (id, account) = (hold.id.as_str(), &cold.account);
        let claim = hold.claim.as_ref().map(|claim| claim.id);
        let record =
            record::live_record(hold.amount, hold.origin, account, hold.owner, claim, &hold.route);
        let claim = hold.claim.as_ref().map(|claim| cold_claims::running(claim, &hold.id, now_ms));
        words.extend(args([id, &ttl_ms.to_string(), &record, claim.as_deref().unwrap_or("")]));
    }
    words
}
