//! Taking Stripe's events in: signed, kept, acknowledged, and taken up once.

use std::sync::Arc;

use bytes::Bytes;

use super::kept::kept;
use super::objects::{Envelope, Thin};
use super::read::{Reading, label, read};
use super::sales::Sales;
use super::signature::{Claim, SignatureError};
use crate::ledger::{EventState, LedgerError, NewEvent, Refusal, StripeEvent};

/// How many events of the inbox are looked at together.
const PAGE: u32 = 200;

/// Bodies up to this size are hashed where they arrive: a fraction of a millisecond. Stripe's events
/// are smaller.
const HASHED_IN_PLACE_BYTES: usize = 64 * 1024;

/// How many larger bodies are hashed at a time, on threads of their own.
pub(super) const HASHED_AT_ONCE: usize = 2;

/// The longest reason for a failure that is kept.
const MAX_NOTE: usize = 500;

/// An event that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it so far.
    pub state: EventState,
    /// False where it had been taken in before.
    pub new: bool,
}

/// Why an event was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It is not believed. Stripe's own are, unless a secret or a clock is wrong.
    #[error(transparent)]
    Unsigned(#[from] SignatureError),
    /// It is signed, and is no event.
    #[error("the signed body is not an event: {0}")]
    NotAnEvent(String),
    /// It could not be kept: Stripe is to send it again.
    #[error("the event could not be kept: {0}")]
    NotKept(Refusal),
}

impl Sales {
    /// Takes an event in. When this returns, it is kept; unless the ledger failed in between, it is
    /// taken up as well, and what is not is taken up later.
    ///
    /// # Errors
    /// Nothing was kept then.
    pub async fn receive(
        &self,
        payload: Bytes,
        signature: Option<&str>,
        now_secs: i64,
    ) -> Result<Receipt, ReceiveError> {
        let count = |kind: &str, outcome: &str| {
            self.metrics.stripe_webhooks.with_label_values(&[label(kind), outcome]).inc();
        };
        self.verify(&payload, signature, now_secs).await.inspect_err(|error| {
            count("", "unsigned");
            tracing::warn!(target: "farebox::anybody", %error, "refused a webhook");
        })?;
        let text = std::str::from_utf8(&payload).map_err(|error| not_an_event(&error));
        if let Some(thin) = text.as_ref().ok().and_then(|text| Thin::of(text)) {
            count(&thin.kind, EventState::Ignored.as_str());
            return Ok(pass_over(&thin));
        }
        let parsed = text.and_then(|text| {
            let envelope: Envelope<'_> =
                serde_json::from_str(text).map_err(|error| not_an_event(&error))?;
            let payload = kept(&envelope).into();
            Ok(NewEvent { id: envelope.id, kind: envelope.kind, payload })
        });
        let event = parsed.inspect_err(|error| {
            count("", "unreadable");
            tracing::error!(%error, "a webhook that is signed and cannot be read");
        })?;
        let kept = self.keep(event.clone()).await;
        let kept = kept.map_err(ReceiveError::NotKept).inspect_err(|error| {
            count(&event.kind, "unavailable");
            tracing::error!(event = &*event.id, %error, "a webhook could not be kept");
        })?;
        if !kept.new && !matches!(kept.state, EventState::Received | EventState::Failed) {
            count(&event.kind, "duplicate");
            return Ok(kept);
        }
        // Where this fails it is tried again later; Stripe need not know.
        let state = self.apply(&event.id, &event.payload).await.unwrap_or(EventState::Received);
        count(&event.kind, state.as_str());
        Ok(Receipt { state, ..kept })
    }

    /// Checks a body's signature. Anybody may send one of half a megabyte, so a large body is hashed
    /// beside the threads that serve calls, a few at a time.
    async fn verify(
        &self,
        payload: &Bytes,
        signature: Option<&str>,
        now_secs: i64,
    ) -> Result<(), SignatureError> {
        let claim = Claim::read(signature, now_secs)?;
        let secrets = &self.config.webhook_secret;
        if payload.len() <= HASHED_IN_PLACE_BYTES {
            return claim.verify(payload, secrets);
        }
        // The semaphore is never closed.
        let _turn = self.hashing.acquire().await;
        let (payload, secrets) = (payload.clone(), secrets.clone());
        let hashed = tokio::task::spawn_blocking(move || claim.verify(&payload, &secrets)).await;
        // A panic there is no proof of who sent it.
        hashed.unwrap_or(Err(SignatureError::Wrong))
    }

    /// Takes up an event of the inbox once more, whatever became of it before.
    ///
    /// # Errors
    /// [`Refusal::UnknownEvent`], or where the ledger cannot be read or written.
    pub async fn replay(&self, id: &str) -> Result<EventState, LedgerError> {
        let event = self.ledger.read().event(id).await?.ok_or(Refusal::UnknownEvent)?;
        Ok(self.apply(&event.id, &event.payload).await?)
    }

    /// Takes up what was kept and not taken up: a crash was in between.
    pub async fn catch_up(&self) {
        let mut after: Option<(i64, Arc<str>)> = None;
        loop {
            let place = after.as_ref().map(|(at_ms, id)| (*at_ms, &**id));
            let waiting = self.ledger.read().events(Some(EventState::Received), place, PAGE).await;
            let waiting = match waiting {
                Ok(waiting) => waiting,
                Err(error) => return tracing::error!(%error, "the inbox cannot be read"),
            };
            let Some(last) = waiting.last() else { return };
            after = Some((last.received_at_ms, last.id.clone()));
            for StripeEvent { id, kind, payload, .. } in &waiting {
                match self.apply(id, payload).await {
                    Ok(state) => tracing::info!(
                        event = &**id,
                        kind = &**kind,
                        state = state.as_str(),
                        "took up an event that was left in the inbox"
                    ),
                    // The ledger is away; the next round finds it again.
                    Err(_) => return,
                }
            }
        }
    }

    async fn keep(&self, event: NewEvent) -> Result<Receipt, Refusal> {
        let (state, new) = self.ledger.record_event(event).await?;
        Ok(Receipt { state, new })
    }

    /// Takes up an event that is kept; what became of it. An error only where the ledger is away.
    async fn apply(&self, id: &Arc<str>, payload: &str) -> Result<EventState, Refusal> {
        let reading = serde_json::from_str::<Envelope<'_>>(payload)
            .and_then(|envelope| read(&envelope, &self.ledger_id));
        let failure = match reading {
            Ok(Some(Reading { facts, because })) => {
                match self.take(Some(id.clone()), facts, because).await {
                    Ok(settled) if settled.is_ours() => return Ok(EventState::Applied),
                    Ok(_) => return Ok(EventState::Foreign),
                    Err(Refusal::Unavailable) => return Err(Refusal::Unavailable),
                    Err(refusal) => refusal.to_string(),
                }
            }
            Ok(None) => return self.end(id, EventState::Ignored, None).await,
            Err(error) => error.to_string(),
        };
        tracing::error!(event = &**id, error = failure, "an event could not be taken up");
        let note = failure.chars().take(MAX_NOTE).collect::<String>();
        self.end(id, EventState::Failed, Some(note.into())).await
    }

    async fn end(
        &self,
        id: &Arc<str>,
        state: EventState,
        note: Option<Arc<str>>,
    ) -> Result<EventState, Refusal> {
        self.ledger.end_event(id.clone(), state, note).await?;
        Ok(state)
    }
}

/// A thin event has nothing in it that could be taken up, and asking Stripe to send it again would not
/// change that.
fn pass_over(thin: &Thin) -> Receipt {
    if thin.kind.starts_with("v1.") {
        tracing::warn!(
            kind = &*thin.kind,
            "a thin event does not contain what it is about, and is passed over: choose the \
             snapshot payload for this webhook at Stripe, or run `farebox packs sync --webhook-url`"
        );
    }
    Receipt { state: EventState::Ignored, new: true }
}

fn not_an_event(error: &dyn std::error::Error) -> ReceiveError {
    ReceiveError::NotAnEvent(error.to_string())
}
