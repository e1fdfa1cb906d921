//! Operations that Postgres decides (new accounts, grants, purchases and keys), and the delivery of their effects to
//! Redis.
//!
//! Operations are decided together, in one transaction, as long as no other transaction keeps one of their rows locked.
//! If one does, the operations are halved until those that need the row are apart. The others do not wait for the row;
//! those that need it wait later, each alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ledger::LedgerError;
use crate::ledger::backend::Later;
use crate::ledger::operation::{HoldId, Operation, Origin, Outcome, Refusal};
use crate::store::cluster::asked::{Asked, Stuck};
use crate::store::cluster::postgres::{self, Fate, RowWait};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, WRITTEN_WITHIN};
use crate::store::cluster::warm;

/// How long operations that are decided alone are tried again, and the time between two attempts. The syncer of a slow
/// Postgres may keep the row of an account for more than half a second.
const ALONE_FOR: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(20);

/// How long the operations of a group are decided together. The rest is then decided alone.
const TOGETHER_FOR: Duration = Duration::from_secs(1);

/// How long operations other than refunds wait until Postgres has caught up with Redis. They need it only for the order
/// of an account's history.
const ORDERED_WITHIN: Duration = Duration::from_millis(250);

/// The time between two looks whether the charge of a call has come that is to be refunded.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Opens accounts. An account that Redis or Postgres has is open already, because accounts are never deleted. So only a
/// new account needs a transaction with locks. Returns the work on accounts whose rows are locked.
pub(crate) async fn open(shared: Arc<Shared>, asked: Asked) -> Option<Later<()>> {
    let are_open = warm::are_open(&shared, asked.operations()).await;
    let asked = answer_open(asked, &are_open);
    if asked.is_empty() {
        return None;
    }
    let are_open = async {
        shared.require_postgres()?;
        postgres::exist(&shared.store, asked.operations()).await
    };
    let are_open = match are_open.await {
        Ok(are_open) => are_open,
        Err(error) => {
            refuse(&shared, asked, &error);
            return None;
        }
    };
    if are_open.contains(&true) {
        // Another gateway may have made the account just now, and its sign-up credits may not be in Redis yet.
        deliver(&shared).await;
    }
    let asked = answer_open(asked, &are_open);
    let stuck = decide_together(&shared, asked).await;
    stuck.map(|stuck| alone(shared, stuck))
}

/// Answers for the accounts that are open. Returns the operations on the others.
fn answer_open(mut asked: Asked, are_open: &[bool]) -> Asked {
    let mut left = Vec::new();
    for (place, is_open) in are_open.iter().enumerate() {
        match is_open {
            true => asked.answer(place, Outcome::Opened { new: false }),
            false => left.push(place),
        }
    }
    asked.take(&left)
}

/// Decides grants, refunds, purchases, keys and imports. Returns the work on refunds and on operations whose rows are
/// locked, which may take longer.
pub(crate) async fn decide(shared: Arc<Shared>, asked: Asked) -> Option<Later<()>> {
    let (refunds, others) = asked.partition(is_refund);
    let mut stuck = None;
    if !others.is_empty() {
        match keep_order(&shared).await {
            Ok(()) => stuck = decide_together(&shared, others).await,
            Err(error) => refuse(&shared, others, &error),
        }
    }
    if refunds.is_empty() {
        return stuck.map(|stuck| alone(shared, stuck));
    }
    Some(Box::pin(async move {
        let others = async {
            if let Some(stuck) = stuck {
                decide_alone(&shared, stuck).await;
            }
        };
        tokio::join!(others, refund(&shared, refunds));
    }))
}

/// Whether the operation gives a capture back.
pub(crate) fn is_refund(operation: &Operation) -> bool {
    refunded(operation).is_some()
}

/// The hold whose capture the operation gives back.
fn refunded(operation: &Operation) -> Option<&HoldId> {
    match operation {
        Operation::Refund { hold, .. } | Operation::RefundPart { hold, .. } => Some(hold),
        _ => None,
    }
}

/// Refunds captures. A refund needs the entry of its capture, so all decisions of Redis have to be in Postgres first. No
/// other operation waits for this, so there is time until a busy account is written.
///
/// The capture of a call that was answered may be in no store yet: another gateway has it, and decides it after an earlier
/// grant of the account, which may wait for a locked row. The call has its hold until then. So a refund of a call that
/// has its hold waits for the capture, and is refused as unsettled if that takes too long. Only a call without one has
/// no capture. A call of this gateway that has its hold still runs, since a capture would have been decided before the
/// refund. Its capture waits for the refund, which is therefore refused at once.
async fn refund(shared: &Shared, refunds: Asked) {
    let (until, mut stuck) = (Instant::now() + WRITTEN_WITHIN, Stuck::default());
    let mut left = match decide_settled(shared, refunds, until, &mut stuck).await {
        Ok(unsettled) => unsettled,
        Err((refunds, error)) => return refuse(shared, refunds, &error),
    };
    while !left.is_empty() && Instant::now() < until {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        // Without a look the charges count as not settled.
        left = match decide_settled(shared, left, until, &mut stuck).await {
            Ok(unsettled) | Err((unsettled, _)) => unsettled,
        };
    }
    refuse_unsettled(left);
    if !stuck.asked.is_empty() {
        decide_alone(shared, stuck).await;
    }
}

/// Decides refunds, except those of other gateways' unsettled calls, which it returns. Refunds whose rows are locked are
/// added to `stuck`.
///
/// # Errors
/// Fails if Postgres does not have all decisions of Redis in time. Nothing is decided then.
async fn decide_settled(
    shared: &Shared,
    refunds: Asked,
    until: Instant,
    stuck: &mut Stuck,
) -> Result<Asked, (Asked, LedgerError)> {
    let unsettled = match unsettled(shared, refunds.operations(), until).await {
        Ok(unsettled) => unsettled,
        Err(error) => return Err((refunds, error)),
    };
    let owner_of = |operation: &Operation| unsettled.get(refunded(operation)?).copied();
    let (left, settled) = refunds.partition(|refund| owner_of(refund).is_some());
    let own = Some(shared.settings.incarnation);
    let (running, left) = left.partition(|refund| owner_of(refund) == own);
    refuse_unsettled(running);
    if !settled.is_empty()
        && let Some(locked) = decide_together(shared, settled).await
    {
        stuck.add(locked.asked);
    }
    Ok(left)
}

/// Those calls, of the ones that are to be refunded, that have a hold and no capture in Postgres, which has all earlier
/// decisions of Redis by then; each with its gateway.
async fn unsettled(
    shared: &Shared,
    refunds: &[Operation],
    until: Instant,
) -> Result<HashMap<HoldId, i64>, LedgerError> {
    shared.require_postgres()?;
    sync::catch_up(shared, until.saturating_duration_since(Instant::now())).await?;
    let calls: Vec<_> = refunds.iter().filter_map(refunded).cloned().collect();
    let fates = postgres::fates(&shared.store, &calls).await?;
    let unsettled = calls.into_iter().zip(fates).filter_map(|(call, fate)| match fate {
        Fate::Live { origin: Origin::Call, owner, .. } => Some((call, owner)),
        _ => None,
    });
    Ok(unsettled.collect())
}

/// Writes the decisions of Redis into Postgres first, so that an account's history has the order in which its operations
/// were decided. If Postgres does not take them in time, or a locked row keeps them back, operations go on without it.
async fn keep_order(shared: &Shared) -> Result<(), LedgerError> {
    shared.require_postgres()?;
    match sync::catch_up_unless_stuck(shared, ORDERED_WITHIN).await {
        Err(LedgerError::RowLocked | LedgerError::Behind) => Ok(()),
        synced => synced,
    }
}

/// Decides operations together, and applies them in Redis. Returns those that need a row which another transaction keeps
/// locked, and those that have to be decided after them.
async fn decide_together(shared: &Shared, asked: Asked) -> Option<Stuck> {
    let (began, mut stuck, mut parts) = (Instant::now(), Stuck::default(), vec![asked]);
    while let Some(part) = parts.pop() {
        let mut part = stuck.add_later(part);
        if part.is_empty() {
            continue;
        }
        if began.elapsed() > TOGETHER_FOR {
            stuck.add(part);
            continue;
        }
        match decide_in_postgres(shared, part.operations(), RowWait::Together).await {
            Ok(outcomes) => part.answer_all(outcomes),
            Err(LedgerError::RowLocked) => match part.operations().len() {
                1 => stuck.add(part),
                len => {
                    let second = part.split_off(len / 2);
                    parts.extend([second, part]);
                }
            },
            Err(error) => refuse(shared, part, &error),
        }
    }
    (!stuck.asked.is_empty()).then_some(stuck)
}

fn alone(shared: Arc<Shared>, stuck: Stuck) -> Later<()> {
    Box::pin(async move { decide_alone(&shared, stuck).await })
}

/// Decides each operation alone, as soon as its rows are free. Of operations that name the same, the first one comes first.
async fn decide_alone(shared: &Shared, Stuck { asked: mut rest, .. }: Stuck) {
    let until = Instant::now() + ALONE_FOR;
    loop {
        let mut locked = Stuck::default();
        while !rest.is_empty() {
            let others = rest.split_off(1);
            let one = std::mem::replace(&mut rest, others);
            let mut one = locked.add_later(one);
            if one.is_empty() {
                continue;
            }
            match attempt_alone(shared, one.operations()).await {
                Ok(outcomes) => one.answer_all(outcomes),
                Err(LedgerError::RowLocked) => locked.add(one),
                Err(error) => refuse(shared, one, &error),
            }
        }
        rest = locked.asked;
        if rest.is_empty() {
            return;
        }
        if Instant::now() >= until {
            return refuse(shared, rest, &LedgerError::RowLocked);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Decides operations that are alone. Attempts take turns, so that operations on a row that is only busy come between
/// those on a row that stays locked.
async fn attempt_alone(
    shared: &Shared,
    operations: &[Operation],
) -> Result<Vec<Outcome>, LedgerError> {
    let _turn = shared.waiting_for_rows.acquire().await;
    decide_in_postgres(shared, operations, RowWait::Alone).await
}

/// Decides operations in Postgres in one transaction, and applies them in Redis.
async fn decide_in_postgres(
    shared: &Shared,
    operations: &[Operation],
    wait: RowWait,
) -> Result<Vec<Outcome>, LedgerError> {
    let now = shared.clock.now(0);
    let outcomes = Box::pin(postgres::decide(&shared.store, operations, now, wait)).await?;
    deliver(shared).await;
    Ok(outcomes)
}

/// Refuses operations: they are dropped without an outcome. While Postgres is away, the log has said so already.
fn refuse(shared: &Shared, asked: Asked, error: &LedgerError) {
    drop(asked);
    if !shared.store.is_up() {
        return tracing::debug!(%error, "Postgres is away, so an operation on a grant or the like is refused");
    }
    tracing::warn!(
        %error,
        "Postgres does not decide about a new account, a grant, a key or a payment; the caller gets 503, and may ask \
         again under the same id"
    );
}

/// Refuses refunds of calls that have their holds.
fn refuse_unsettled(mut asked: Asked) {
    for operation in asked.operations() {
        tracing::warn!(
            call = refunded(operation).map(HoldId::as_str),
            "a refund gets 503, since its call still runs, or is charged in a moment: the charge may wait in its gateway for \
             an earlier grant of the account; ask again"
        );
    }
    let unsettled = Outcome::Refused(Refusal::Unsettled);
    asked.answer_all(vec![unsettled; asked.operations().len()]);
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
