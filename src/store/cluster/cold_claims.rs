//! Claims that Postgres has and Redis lost with an earlier epoch.
//!
//! The claims of running calls are loaded together with the accounts of their holds (`warm`). The claims of charged
//! calls are loaded after a recovery; a call that asks for one earlier has that one loaded. No nonce is needed for
//! them: Postgres has every claim that was charged before the epoch began, a charged claim does not change, and Redis
//! already has its own later decisions when these rows arrive.

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

/// The number of claims that are loaded at once after a recovery.
const AT_ONCE: i64 = 1000;

/// How long Redis remembers that Postgres does not have a claim, in milliseconds.
const NONE_FOR_MS: i64 = 60_000;

/// Loads the claims that a batch needs, and the calls that were left with one of the ids in `left`.
///
/// # Errors
/// Fails if a store is unreachable.
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

/// Like [`load_all`], but only if the gateway that opened the epoch has not loaded the claims: it may have stopped
/// early.
///
/// # Errors
/// Fails if a store is unreachable.
pub(crate) async fn load_all_if_cold(shared: &Shared) -> Result<(), LedgerError> {
    let scripts = shared.epoch.require()?;
    let are_cold = shared.maintain(&scripts, args(["are_claims_cold"])).await?;
    if are_cold == Value::Integer(1) { load_all(shared).await } else { Ok(()) }
}

/// Loads the claims of all charged calls, and records in Redis that none is missing any more.
///
/// # Errors
/// Fails if a store is unreachable. Claims that were already loaded stay in Redis.
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

/// Formats the claim of a running call for `warm_account`.
pub(crate) fn running(claim: &KeyClaim, hold: &HoldId, now_ms: i64) -> String {
    let left_ms = claim.until_ms.saturating_sub(now_ms).max(0).saturating_add(RUNS_FOR_MS);
    format!("{} {left_ms} {}", claim.id, value('R', claim, hold))
}

/// Formats the claim of a charged call for `warm_claims`.
fn charged(ChargedClaim { hold, claim }: &ChargedClaim, now_ms: i64) -> [Value; 3] {
    let left_ms = claim.until_ms.saturating_sub(now_ms).max(1);
    [claim.id.to_string(), left_ms.to_string(), value('C', claim, hold)].map(|word| arg(&word))
}

/// Formats a claim as Redis stores it; `layout.lua` describes the form.
fn value(state: char, claim: &KeyClaim, hold: &HoldId) -> String {
    let mark = claim.mark.as_ref().map_or_else(|| "-".to_owned(), RequestMark::to_string);
    format!("{state} {} {hold} {mark}", claim.until_ms)
}

/// Formats the calls that were left with each of these ids for `warm_left`. An id without such calls gets an empty
/// list.
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
