//! Operations that Postgres decides, and their way to Redis: newcomers, and grants, purchases and keys.

use crate::ledger::LedgerError;
use crate::ledger::operation::{Operation, Outcome, Refusal};
use crate::store::cluster::postgres;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, IN_TIME};
use crate::store::cluster::warm;

/// Opens accounts. An account that Redis has is open already, and one that Postgres has as well: it never ceases to
/// exist. So only a new one needs a transaction that locks, and nobody else can have locked its row.
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
    if new.is_empty() {
        return Ok(merged(&are_open, &mut Vec::new().into_iter()));
    }
    let decided = postgres::decide(&shared.store, &new, shared.clock.now(0)).await?;
    deliver(shared).await;
    Ok(merged(&are_open, &mut decided.into_iter()))
}

/// The operations whose accounts are not open.
fn left(operations: &[Operation], are_open: &[bool]) -> Vec<Operation> {
    let left = operations.iter().zip(are_open).filter(|(_, is_open)| !**is_open);
    left.map(|(operation, _)| operation.clone()).collect()
}

/// The outcomes of all: those of the accounts that are not open are in `decided`, as far as they were decided.
fn merged(are_open: &[bool], decided: &mut impl Iterator<Item = Outcome>) -> Vec<Outcome> {
    let outcome = |is_open: &bool| match is_open {
        true => Outcome::Opened { new: false },
        false => decided.next().unwrap_or(Outcome::Refused(Refusal::Unavailable)),
    };
    are_open.iter().map(outcome).collect()
}

/// Decides operations in Postgres together, and then applies them in Redis. Where another transaction keeps a row locked
/// that one of them needs, each is decided by itself, so that the others do not wait for it.
pub(crate) async fn decide(shared: &Shared, operations: &[Operation]) -> Vec<Outcome> {
    if let Err(error) = catch_up(shared, operations).await {
        return refused(operations, &error);
    }
    let decide =
        async |some: &[Operation]| postgres::decide(&shared.store, some, shared.clock.now(0)).await;
    let outcomes = match decide(operations).await {
        Err(LedgerError::RowLocked) if operations.len() > 1 => {
            let mut outcomes = Vec::with_capacity(operations.len());
            for one in operations.chunks(1) {
                outcomes.extend(decide(one).await.unwrap_or_else(|error| refused(one, &error)));
            }
            outcomes
        }
        decided => decided.unwrap_or_else(|error| refused(operations, &error)),
    };
    deliver(shared).await;
    outcomes
}

/// Lets Postgres have the decisions of Redis. A refund needs the entry of its capture. Other operations only follow the
/// charges before them in the account's history, so they do not wait longer where somebody locks the row of an account.
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

/// Applies in Redis what Postgres decided. If that fails, the syncer does it later.
async fn deliver(shared: &Shared) {
    if let Err(error) = sync::deliver(shared).await {
        tracing::warn!(
            %error,
            "a decision of Postgres, such as a grant, is applied in Redis with the next sync, since Redis did \
             not answer"
        );
    }
}
