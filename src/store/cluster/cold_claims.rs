//! Claims that Postgres has and Redis lost with an earlier epoch.
//!
//! The claims of running calls come with the accounts of their holds (`warm`). Those of charged calls are loaded behind
//! a recovery, and one by one where a call asks for one before that. No nonce is needed for them: Postgres has every
//! claim that was charged before the epoch began, a charged claim does not change, and whatever Redis decides later
//! stands in Redis already when these rows come.

use std::collections::HashMap;

use fred::types::Value;

use crate::ledger::LedgerError;
use crate::ledger::claim::{ClaimId, RequestMark};
use crate::ledger::operation::HoldId;
use crate::store::cluster::claim_text::{KeyClaim, LeftCall, RUNS_FOR_MS};
use crate::store::cluster::postgres::{self, ChargedClaim};
use crate::store::cluster::redis::connection::{arg, args};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;

/// The number of claims that are loaded at once behind a recovery.
const AT_ONCE: i64 = 1000;

/// How long Redis remembers that Postgres has no such claim, in milliseconds.
const NONE_FOR_MS: i64 = 60_000;

/// Loads what a batch needs: claims, and the calls that were left with an id.
///
/// # Errors
/// Where a store is unreachable.
pub(crate) async fn load(
    shared: &Shared,
    scripts: &Scripts,
    claims: &[ClaimId],
    left: &[ClaimId],
) -> Result<(), LedgerError> {
    let now_ms = shared.watch.now_ms();
    if !claims.is_empty() {
        let found = postgres::charged_claims(&shared.store, claims, now_ms).await?;
        let mut words = args(["warm_claims"]);
        found.iter().for_each(|claim| words.extend(charged(claim, now_ms)));
        for id in claims.iter().filter(|id| found.iter().all(|found| found.claim.id != **id)) {
            words.extend(args([&id.to_string(), &NONE_FOR_MS.to_string(), "N 0 - -"]));
        }
        shared.maintain(scripts, words).await?;
    }
    if !left.is_empty() {
        let found = postgres::left_calls(&shared.store, left).await?;
        shared.maintain(scripts, left_words(left, &found, now_ms)).await?;
    }
    Ok(())
}

/// As [`load_all`], where the gateway that opened the epoch has not done it: it may have ended before.
///
/// # Errors
/// Where a store is unreachable.
pub(crate) async fn load_all_if_cold(shared: &Shared) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let are_cold = shared.maintain(&scripts, args(["are_claims_cold"])).await?;
    if are_cold == Value::Integer(1) { load_all(shared).await } else { Ok(()) }
}

/// Loads the claims of all charged calls, and notes in Redis that none is missing any more.
///
/// # Errors
/// Where a store is unreachable. Claims that were loaded before stay in Redis.
pub(crate) async fn load_all(shared: &Shared) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let mut after = None;
    loop {
        let now_ms = shared.watch.now_ms();
        let some = postgres::charged_claims_after(&shared.store, after, now_ms, AT_ONCE).await?;
        let Some(last) = some.last() else { break };
        after = Some(last.claim.id);
        let mut words = args(["warm_claims"]);
        some.iter().for_each(|claim| words.extend(charged(claim, now_ms)));
        shared.maintain(&scripts, words).await?;
    }
    shared.maintain(&scripts, args(["claims_are_warm"])).await?;
    Ok(())
}

/// The claim of a running call, as `warm_account` takes it.
pub(crate) fn running(claim: &KeyClaim, hold: &HoldId, now_ms: i64) -> String {
    let left_ms = claim.until_ms.saturating_sub(now_ms).max(0).saturating_add(RUNS_FOR_MS);
    format!("{} {left_ms} {}", claim.id, value('R', claim, hold))
}

/// The claim of a charged call, as `warm_claims` takes it.
fn charged(ChargedClaim { hold, claim }: &ChargedClaim, now_ms: i64) -> [Value; 3] {
    let left_ms = claim.until_ms.saturating_sub(now_ms).max(1);
    [claim.id.to_string(), left_ms.to_string(), value('C', claim, hold)].map(|word| arg(&word))
}

/// A claim as Redis has it: `layout.lua` describes it.
fn value(state: char, claim: &KeyClaim, hold: &HoldId) -> String {
    let mark = claim.mark.as_ref().map_or_else(|| "-".to_owned(), RequestMark::to_string);
    format!("{state} {} {hold} {mark}", claim.until_ms)
}

/// The calls that were left with each of these ids, also where there is none, as `warm_left` takes them.
fn left_words(ids: &[ClaimId], found: &[(LeftCall, bool)], now_ms: i64) -> Vec<Value> {
    let mut lists: HashMap<ClaimId, (String, i64)> = HashMap::new();
    for (call, used) in found.iter().filter(|(call, _)| call.until_ms > now_ms) {
        let (list, left_ms) = lists.entry(call.id).or_default();
        if !list.is_empty() {
            list.push(' ');
        }
        *list += &format!("{} {} {}", call.hold, call.until_ms, u8::from(*used));
        *left_ms = (*left_ms).max(call.until_ms - now_ms);
    }
    let mut words = args(["warm_left"]);
    for id in ids {
        let (list, left_ms) = lists.remove(id).unwrap_or_else(|| (String::new(), NONE_FOR_MS));
        words.extend([id.to_string(), left_ms.to_string(), list].map(|word| arg(&word)));
    }
    words
}
