//! The decision of a group of operations beside the pipeline. Each operation is answered, and its names are free for
//! later operations, as soon as it is decided: it does not wait for those that were only asked for at the same time.
//!
//! A group is decided in two steps. The first one takes a short time. The second one, if there is any, is the work on
//! operations that wait for a locked row, or until Postgres has caught up with Redis; other groups of the same way are
//! decided meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ledger::backend::{Aside, Later};
use crate::ledger::operation::{Operation, Outcome, Refusal};
use crate::store::cluster::asked::{Answer, Asked};
use crate::store::cluster::beside::{Group, Guard, Way};
use crate::store::cluster::in_postgres;
use crate::store::cluster::in_redis;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::sync::{self, WRITTEN_WITHIN};

/// How long the decision of a group may take before its operations are refused.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// Begins to decide the group. Returns one future for each operation, and one for each step. If a step takes too
/// long, the operations that are not answered by then are refused.
pub(crate) fn start(group: Group, shared: &Arc<Shared>) -> Vec<Aside> {
    let Group { way, members, room } = group;
    let operations = members.iter().map(|member| member.operation.clone()).collect();
    let (mut asked, answers) = Asked::new(operations);
    let mut aside = Vec::with_capacity(members.len() + 2);
    for (nth, (member, answer)) in members.into_iter().zip(answers).enumerate() {
        if let Some(guard) = member.until_decided {
            asked.guard(nth, guard);
        }
        aside.push(answering(member.place, answer, member.until_answered));
    }
    let (hand_on, rest) = oneshot::channel();
    let (until, shared) = (Instant::now() + LIMIT, shared.clone());
    aside.push(step(async move {
        let _room = room;
        if let Some(Some(rest)) = in_time(until, way, first(shared, way, asked)).await {
            // The receiver waits for this.
            drop(hand_on.send(rest));
        }
    }));
    aside.push(step(async move {
        if let Ok(rest) = rest.await {
            in_time(until, way, rest).await;
        }
    }));
    aside
}

/// Waits for the work until this time. After that the operations that are not decided are dropped, and so refused.
async fn in_time<T>(until: Instant, way: Way, work: impl Future<Output = T>) -> Option<T> {
    let done = tokio::time::timeout_at(until, work).await;
    if done.is_err() {
        tracing::warn!(
            ?way,
            "operations waited too long for Postgres; they get 503: see what keeps rows locked or slows Postgres down"
        );
    }
    done.ok()
}

/// Waits for the outcome of the operation at this place. The names that `guard` stands for are free after that.
fn answering(place: usize, answer: Answer, guard: Arc<Guard>) -> Aside {
    let outcomes: Later<_> = Box::pin(async move {
        let outcome = answer.outcome().await;
        drop(guard);
        vec![outcome]
    });
    Aside { places: vec![place], outcomes }
}

/// A step of the decision, which answers through channels.
fn step(work: impl Future<Output = ()> + Send + 'static) -> Aside {
    let outcomes: Later<_> = Box::pin(async move {
        work.await;
        Vec::new()
    });
    Aside { places: Vec::new(), outcomes }
}

/// Decides operations, and returns their outcomes once all of them are decided.
pub(crate) async fn decide(
    shared: &Arc<Shared>,
    way: Way,
    operations: &[Operation],
) -> Vec<Outcome> {
    let (asked, answers) = Asked::new(operations.to_vec());
    if let Some(rest) = first(shared.clone(), way, asked).await {
        rest.await;
    }
    let mut outcomes = Vec::with_capacity(answers.len());
    for answer in answers {
        outcomes.push(answer.outcome().await);
    }
    outcomes
}

/// The first step. Returns the second one, if there is any.
async fn first(shared: Arc<Shared>, way: Way, asked: Asked) -> Option<Later<()>> {
    match way {
        Way::Call => in_redis::decide_calls(shared, asked).await,
        Way::Api => in_redis::decide_api(shared, asked).await,
        Way::Newcomer => in_postgres::open(shared, asked).await,
        Way::Grant => in_postgres::decide(shared, asked).await,
        Way::Audit => audit(shared, asked).await,
    }
}

/// Makes all decisions of Redis durable. The reader compares Redis with Postgres later, because the comparison may take
/// long.
async fn audit(shared: Arc<Shared>, mut asked: Asked) -> Option<Later<()>> {
    let outcome = match sync::catch_up(&shared, WRITTEN_WITHIN).await {
        Ok(()) => Outcome::Audited(Vec::new()),
        Err(error) => {
            tracing::warn!(%error, "not everything is in Postgres yet");
            Outcome::Refused(Refusal::Unavailable)
        }
    };
    asked.answer_all(vec![outcome; asked.operations().len()]);
    None
}
