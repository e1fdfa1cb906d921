//! Reloads accounts from Postgres into Redis.

use std::collections::BTreeSet;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::store::cluster::compare::{self, ACCOUNTS};
use crate::store::cluster::postgres;
use crate::store::cluster::redis::connection::{arg, args};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::NO_HURRY;
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
    // The accounts are loaded at once, because the deadlines of their holds must be checked.
    let ids: Vec<AccountId> = accounts.iter().filter_map(|id| id.parse().ok()).collect();
    let nonce = warm::new_nonce();
    for some in ids.chunks(ACCOUNTS) {
        warm::warm_accounts(shared, scripts, some, &nonce, NO_HURRY).await?;
    }
    Ok(())
}
