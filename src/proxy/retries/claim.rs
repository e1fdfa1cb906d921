//! Asks the ledger for a call's hold and its claim in one operation. The claim shows whether the
//! call is a retry.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{KeptAnswer, Replay};
use super::call::Repeatable;
use crate::account::AccountId;
use crate::app::App;
use crate::credits::Credits;
use crate::ledger::{CallId, ClaimState, HeldOrClaimed, Hold, HoldId};
use crate::problem::{Code, Problem, texts};
use crate::proxy::body;
use crate::proxy::client::Client;
use crate::proxy::live::{Destination, PricedRoute};
use crate::proxy::refused::Refused;

/// The pause before the ledger is asked again about a running first call: the shortest and the
/// longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// A call that asks for its hold and its claim.
pub(in crate::proxy) struct Asked<'a> {
    pub app: &'a App,
    pub unheld: CallId,
    pub account: &'a AccountId,
    pub route: &'a Arc<PricedRoute>,
    pub credits: Credits,
    /// The longest time that a retry waits for the first call.
    pub patience: Duration,
    /// The longest time that the client may send nothing in the body.
    pub silence: Duration,
}

impl Asked<'_> {
    /// Holds the credits of the call, unless another call already has the claim.
    ///
    /// The hash of the request is needed only if another call has the claim. So if the claim is
    /// free, a body that is still arriving is left to be streamed. Otherwise the body is read to
    /// its end here, and is not forwarded.
    ///
    /// # Errors
    /// [`Refused`]: the ledger's refusal, 409, 422, or the answer of the first call. Nothing is
    /// held then.
    pub async fn decide(
        mut self,
        client: &mut Client,
        call: &mut Repeatable,
    ) -> Result<Hold, Refused> {
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSES[0];
        let mut claim = call.claim();
        let mut is_forwardable = true;
        loop {
            let (account, label) = (self.account.clone(), self.route.label.clone());
            let ledger = &self.app.ledger;
            let asked = ledger.hold_claiming(self.unheld, account, self.credits, label, claim);
            let asked = asked.await.map_err(|no| self.app.refuse_call(no, self.credits))?;
            let claimed = match asked {
                HeldOrClaimed::Held(hold) if is_forwardable => return Ok(hold),
                // The first call was released meanwhile. But this call's body was already read and
                // dropped, so the call cannot be forwarded, and its hold is released.
                HeldOrClaimed::Held(_) => return Err(Problem::in_progress().into()),
                HeldOrClaimed::Claimed(claimed, unheld) => {
                    self.unheld = unheld;
                    claimed
                }
            };
            match claimed.state {
                ClaimState::Conflict => {
                    return Err(Problem::other_payload(texts::OTHER_REQUEST).into());
                }
                ClaimState::Running if !call.is_retry || Instant::now() >= deadline => {
                    return Err(Problem::in_progress().into());
                }
                _ if !call.is_known() => {
                    self.read_rest(client, call).await?;
                    is_forwardable = false;
                    claim = call.claim();
                }
                ClaimState::Running => {
                    tokio::select! {
                        error = client.left() => return Err(Refused::Left(error)),
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSES[1]);
                }
                ClaimState::Charged => match self.read(call, claimed.hold).await? {
                    Some(replay) => return Err(Refused::Answered(Box::new(replay))),
                    None if call.has_key() => return Err(Problem::not_kept().into()),
                    // The answer was not kept. Without a key the client has not asked for at most
                    // one charge, so the call is made again.
                    None => claim = None,
                },
            }
        }
    }

    /// Answers a call that may not run, for the reason `problem`: its model has no price any more,
    /// say, or it costs more than its client allows. If the call is a retry of a charged or a
    /// running call, it gets what any retry gets. Otherwise it gets `problem`.
    ///
    /// The ledger decides on a claim together with a hold. So the call asks for all credits that an
    /// account can have: it hears of another call's claim, and leaves nothing behind.
    pub async fn answer_or(
        self,
        client: &mut Client,
        call: &mut Repeatable,
        problem: Problem,
    ) -> Refused {
        let asked = Self { credits: Credits::MAX, ..self };
        match asked.decide(client, call).await {
            Ok(hold) => {
                hold.release();
                problem.into()
            }
            Err(Refused::Told(told)) => match told.code {
                Code::InsufficientCredits | Code::IdempotencyConflict => problem.into(),
                _ => told.into(),
            },
            Err(refused) => refused,
        }
    }

    /// Reads the rest of the body, for its hash.
    async fn read_rest(&self, client: &mut Client, call: &mut Repeatable) -> Result<(), Refused> {
        if body::expects_continue(client.head()) && client.head().version >= http::Version::HTTP_11
        {
            client.write_continue().map_err(Refused::Left)?;
        }
        while !client.is_body_done() {
            let part = tokio::time::timeout(self.silence, client.read_body()).await;
            match part.map_err(|_| body::Unread::Silent) {
                Ok(Ok(Some(part))) => call.hash(&part),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(body::Unread::Failed(error).into()),
                Err(silent) => return Err(silent.into()),
            }
        }
        call.request_ended(None);
        Ok(())
    }

    /// The kept answer of a call that was charged.
    async fn read(&self, call: &Repeatable, first: HoldId) -> Result<Option<Replay>, Problem> {
        let sealed = call.retries.answers.read(&first).await.map_err(|error| {
            tracing::error!(request_id = first.as_str(), %error, "a kept answer cannot be read");
            Problem::ledger_unavailable()
        })?;
        let (Some(sealed), Some(seal)) = (sealed, call.seal(&first)) else { return Ok(None) };
        let answer = seal.open(&sealed).ok().and_then(KeptAnswer::decode);
        if answer.is_none() {
            tracing::error!(
                request_id = first.as_str(),
                "a kept answer was changed, or is not of this ledger; its retry is told that it was not kept"
            );
        }
        let (account, route) = (self.account.clone(), self.route.clone());
        Ok(answer.map(|answer| Replay { answer, call: first, account, route }))
    }
}

/// The longest time that a retry waits for the first call: the read timeout of the route, or else
/// of the upstream that the call goes to.
pub(in crate::proxy) fn patience(route: &PricedRoute, of_model: Option<&Destination>) -> Duration {
    let destination = of_model.or(route.destination.as_deref());
    let of_upstream = destination.map(|to| to.upstream.read_timeout());
    route.rule.read_timeout.or(of_upstream).unwrap_or_default()
}
