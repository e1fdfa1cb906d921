//! Operations that Postgres decides (new accounts, grants, purchases and keys), and the delivery of their effects to
//! Redis.

use std::collections::HashSet;

use crate::ledger::LedgerError;
use crate::ledger::operation::{Operation, Outcome, Refusal};
use crate::store::cluster::names::names;
use crate::store::cluster::postgres;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, IN_TIME};
use crate::store::cluster::warm;

/// Opens accounts. An account that Redis or Postgres has is open already, because accounts are never deleted. So only a
/// new account needs a transaction with locks, and no other transaction can have locked its row.
pub(crate) async fn open(shared: &Shared, operations: &[Operation]) -> Vec<Outcome> {
    let are_open = warm::are_open(shared, operations).await;
    let rest: Vec<_> = left(operations, &are_open);
    let mut decided = match rest.is_empty() {
        true => Vec::new(),
        false => match open_in_postgres(shared, &rest).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, "Postgres opens no account");
                Vec::new()
            }
        },
    }
    .into_iter();
    merged(&are_open, &mut decided)
}

async fn open_in_postgres(
    shared: &Shared,
    operations: &[Operation],
) -> Result<Vec<Outcome>, LedgerError> {
    shared.require_postgres()?;
    let are_open = postgres::exist(&shared.store, operations).await?;
    let new = left(operations, &are_open);
    let decided = match new.is_empty() {
        true => Vec::new(),
        false => postgres::decide(&shared.store, &new, shared.clock.now(0)).await?,
    };
    // If another gateway has just opened an account, Redis may not have its sign-up credits yet.
    deliver(shared).await;
    Ok(merged(&are_open, &mut decided.into_iter()))
}

/// The operations whose accounts are not open yet.
fn left(operations: &[Operation], are_open: &[bool]) -> Vec<Operation> {
    let left = operations.iter().zip(are_open).filter(|(_, is_open)| !**is_open);
    left.map(|(operation, _)| operation.clone()).collect()
}

/// Merges the outcomes of all operations, in order. `decided` has the outcomes for accounts that were not open, as far
/// as they were decided.
fn merged(are_open: &[bool], decided: &mut impl Iterator<Item = Outcome>) -> Vec<Outcome> {
    let outcome = |is_open: &bool| match is_open {
        true => Outcome::Opened { new: false },
        false => decided.next().unwrap_or(Outcome::Refused(Refusal::Unavailable)),
    };
    are_open.iter().map(outcome).collect()
}

/// Decides operations in Postgres together, and then applies them in Redis. If another transaction keeps a row locked
/// that one of the operations needs, each operation is decided alone, so that the others do not wait for that row. Only
/// the first operation that needs the row waits for it.
pub(crate) async fn decide(shared: &Shared, operations: &[Operation]) -> Vec<Outcome> {
    if let Err(error) = catch_up(shared, operations).await {
        return refused(operations, &error);
    }
    let decide =
        async |some: &[Operation]| postgres::decide(&shared.store, some, shared.clock.now(0)).await;
    let outcomes = match decide(operations).await {
        Err(LedgerError::RowLocked) if operations.len() > 1 => {
            let (mut outcomes, mut locked) = (Vec::with_capacity(operations.len()), HashSet::new());
            for one in operations.chunks(1) {
                let names = one.iter().flat_map(names).collect::<Vec<_>>();
                let decided = match names.iter().any(|name| locked.contains(name)) {
                    true => Err(LedgerError::RowLocked),
                    false => Box::pin(decide(one)).await,
                };
                if let Err(LedgerError::RowLocked) = decided {
                    locked.extend(names);
                }
                outcomes.extend(decided.unwrap_or_else(|error| refused(one, &error)));
            }
            outcomes
        }
        decided => decided.unwrap_or_else(|error| refused(operations, &error)),
    };
    deliver(shared).await;
    outcomes
}

/// Writes the decisions of Redis into Postgres first. A refund needs the entry of its capture. For other operations
/// this only keeps the order of an account's history, so they do not wait longer if another transaction locks an
/// account's row.
async fn catch_up(shared: &Shared, operations: &[Operation]) -> Result<(), LedgerError> {
    shared.require_postgres()?;
    match sync::sync_within(shared, IN_TIME).await {
        Err(LedgerError::RowLocked | LedgerError::Behind) if !operations.iter().any(is_refund) => {
            Ok(())
        }
        synced => synced,
    }
}

fn is_refund(operation: &Operation) -> bool {
    matches!(operation, Operation::Refund { .. } | Operation::RefundPart { .. })
}

fn refused(operations: &[Operation], error: &LedgerError) -> Vec<Outcome> {
    tracing::warn!(
        %error,
        "Postgres does not decide about a grant, a key or a payment; the caller gets 503, and may ask again \
         under the same id"
    );
    vec![Outcome::Refused(Refusal::Unavailable); operations.len()]
}

/// Applies the decisions of Postgres in Redis. If that fails, the syncer applies them later.
async fn deliver(shared: &Shared) {
    if let Err(error) = sync::deliver(shared).await {
        tracing::warn!(
            %error,
            "a decision of Postgres, such as a grant, is applied in Redis with the next sync, since Redis did \
             not answer"
        );
    }
}
