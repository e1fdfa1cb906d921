//! The database of the cluster ledger. It decides grants, refunds and keys, and stores everything.
//!
//! [`Store`] is the pool; its documentation lists the functions of this folder. Postgres may stand
//! behind PgBouncer in transaction mode, so everything happens inside transactions: no session
//! state is used, no statement is prepared under a name, and every table is named with its schema.

mod answers;
mod append;
mod batches;
mod blocker;
mod calls;
mod claims;
mod compare;
mod copy;
mod deliveries;
mod entries;
mod fold;
mod grants;
mod holds;
mod hosts;
mod leases;
mod lookup;
mod migrate;
mod months;
mod owed;
mod partitions;
mod payments;
mod read;
mod reconcile;
mod recovery;
mod recovery_plan;
mod repair;
mod replays;
mod shard;
mod slices;
mod store;
mod syncers;
mod tally;
mod transaction;

pub(crate) use answers::{
    NewAnswer, keep_answers, make_answer_partitions, purge_answers, read_answer, secret,
};
pub(crate) use append::{Appended, append, appended, lock_appends, remove_folded, try_append};
pub(crate) use batches::{Written, write_batches};
pub(crate) use blocker::{Blocker, blocker};
pub(crate) use calls::{forget_calls, make_call_partitions};
pub(crate) use claims::{
    ChargedClaim, ColdUntil, charged_claims, charged_claims_after, left_calls, purge_claims,
};
pub(crate) use compare::{StoredAccount, stored_accounts};
pub(crate) use deliveries::{Delivery, deliveries, remove_deliveries};
pub(crate) use fold::fold;
pub(crate) use grants::{RowWait, decide};
pub(crate) use holds::{
    CallHold, accounts_with_holds, call_holds, call_holds_of_gone, expire_released,
    purge_ended_holds, release_expired,
};
pub(crate) use leases::{
    LEASE, LayoutUsers, REDIS_IS_REACHED_FOR, join, layout_users, leave, lost_gateways, rejoin,
    remove_gone, renew,
};
pub(crate) use lookup::{ColdAccount, Fate, cold_accounts, exist, fates};
pub(crate) use migrate::{agree_on_settings, migrate};
pub(crate) use owed::{leave_owed, recover_if_owed};
pub(crate) use partitions::{Month, make_partition, make_partitions};
pub(crate) use payments::{buyers, customer, event, events, ledger_id, payment, unpaid};
pub(crate) use read::{LISTED, account, accounts, crashed, entries, keys, keys_since, own_keys};
pub(crate) use reconcile::{reconcile, reconcile_in};
pub(crate) use recovery::{
    Candidate, Recovery, Replayed, begin_recovery, check_in, give_up, give_up_unless_reached,
};
pub(crate) use recovery_plan::{Snapshot, Syncer, snapshot};
pub(crate) use repair::{find_locked, repair, stays_locked};
pub(crate) use replays::{read_replays, write_replays};
pub(crate) use shard::{
    Checkpoint, NumberedBatch, StreamBatch, checkpoint, digest, note_failover, read_checkpoint,
    server_identity,
};
pub(crate) use store::Store;
pub(crate) use syncers::{elect, step_down};
