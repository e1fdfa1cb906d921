//! Operations on holds that are decided in Redis, but beside the pipeline, because they wait for Postgres.

use std::sync::Arc;

use crate::ledger::backend::Later;
use crate::ledger::operation::{Operation, Outcome};
use crate::ledger::wall_ms;
use crate::store::cluster::api_ends;
use crate::store::cluster::asked::Asked;
use crate::store::cluster::redis::reply::{Decision, Verdict};
use crate::store::cluster::redis::request::BatchItem;
use crate::store::cluster::shared::{HoldsToAskFor, Shared};
use crate::store::cluster::undo::release_of;
use crate::store::cluster::work::{self, DecidedBatch, OnMiss};

/// Decides the calls of accounts that Redis does not have. Returns the work on calls that wait until Postgres has caught
/// up with Redis.
pub(crate) async fn decide_calls(shared: Arc<Shared>, mut asked: Asked) -> Option<Later<()>> {
    let mut decided = ask_redis(&shared, &asked, OnMiss::WarmAccounts).await;
    let rest = asked.take(&decided.cold);
    let repeated = decided.take_repeated();
    let repeated = repeated.map(|(places, decided)| (asked.take(&places), decided));
    answer(&shared, asked, decided).await;
    if repeated.is_none() && rest.is_empty() {
        return None;
    }
    Some(Box::pin(async move {
        let repeated = async {
            if let Some((asked, decided)) = repeated {
                answer(&shared, asked, decided).await;
            }
        };
        tokio::join!(repeated, decide_in_order(&shared, rest));
    }))
}

/// Lets Redis decide operations of the API. If Redis lacks data that they need, as it does for each new id of a hold, the
/// data are loaded first, for all of them at once. Returns the work that is left: the decisions wait until Postgres has
/// them in its tables, and some have to be corrected.
pub(crate) async fn decide_api(shared: Arc<Shared>, mut asked: Asked) -> Option<Later<()>> {
    let later = after_first_part(&mut asked);
    let decided = ask_redis(&shared, &asked, OnMiss::Warm).await;
    asked.note_decided();
    Some(Box::pin(async move {
        answer(&shared, asked, decided).await;
        decide_in_order(&shared, later).await;
    }))
}

/// Takes out the operations that Redis may decide only once those before them are answered.
fn after_first_part(asked: &mut Asked) -> Asked {
    let first = api_ends::parts(asked.operations()).first().map_or(0, |part| part.len());
    asked.split_off(first)
}

/// Decides operations in order. If Redis lacks data that they need, the data are loaded first.
async fn decide_in_order(shared: &Shared, mut asked: Asked) {
    while !asked.is_empty() {
        let later = after_first_part(&mut asked);
        let decided = ask_redis(shared, &asked, OnMiss::Warm).await;
        asked.note_decided();
        answer(shared, asked, decided).await;
        asked = later;
    }
}

async fn ask_redis(shared: &Shared, asked: &Asked, on_miss: OnMiss) -> DecidedBatch {
    let items: Vec<_> = asked.operations().iter().map(BatchItem::Operation).collect();
    Box::pin(work::ask_redis(shared, &items, HoldsToAskFor::ALL, on_miss)).await
}

/// Makes the decisions durable, and passes the outcomes on.
async fn answer(shared: &Shared, mut asked: Asked, decided: DecidedBatch) {
    let mut outcomes = durable_outcomes(shared, asked.operations(), decided).await;
    api_ends::correct_outcomes(shared, asked.operations(), &mut outcomes).await;
    asked.answer_all(outcomes);
}

/// Makes the decisions about these operations durable, and returns their outcomes. The releases of holds that may be
/// granted and are not answered become owed, also if this future is dropped.
pub(crate) async fn durable_outcomes(
    shared: &Shared,
    operations: &[Operation],
    decided: DecidedBatch,
) -> Vec<Outcome> {
    let undo = decided.undo(shared, operations.iter().map(BatchItem::Operation));
    let (decisions, uncertain) = decided.make_durable(shared).await;
    undo.forget();
    let uncertain = uncertain.into_iter();
    shared.debts.owe(uncertain.filter_map(|place| release_of(&operations[place])));
    outcomes_of(operations.iter(), decisions)
}

/// The outcomes of operations that Redis has decided. A call that was cut off is logged.
pub(crate) fn outcomes_of<'a>(
    operations: impl Iterator<Item = &'a Operation>,
    decisions: Vec<Decision>,
) -> Vec<Outcome> {
    for (operation, decision) in operations.zip(&decisions) {
        if decision.verdict == Verdict::Expired
            && let Some(call) = operation.crashed_call(wall_ms())
        {
            call.log();
        }
    }
    decisions.into_iter().map(Decision::outcome).collect()
}
