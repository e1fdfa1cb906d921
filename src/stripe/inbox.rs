//! Receiving Stripe's events: each is checked, stored in the ledger, acknowledged, and applied once.

use std::sync::Arc;

use bytes::Bytes;

use super::objects::{Envelope, Thin};
use super::read::{Reading, label, read};
use super::sales::Sales;
use super::signature::{Claim, SignatureError};
use super::trim::trim;
use crate::ledger::{EventState, LedgerError, NewEvent, Refusal, StripeEvent};

/// The number of stored events that are read at a time.
const PAGE: u32 = 200;

/// A body up to this size is hashed on the thread that received it, which takes a fraction of a
/// millisecond. Stripe's events are smaller.
const HASHED_IN_PLACE_BYTES: usize = 64 * 1024;

/// The most characters of a failure's reason that are stored.
const MAX_NOTE: usize = 500;

/// The receipt for an event that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The state of the event now.
    pub state: EventState,
    /// False if the event was stored before.
    pub new: bool,
}

/// The reason why an event was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The signature is wrong. If Stripe did send the event, `webhook_secret` or this machine's clock
    /// is wrong.
    #[error(transparent)]
    Unsigned(#[from] SignatureError),
    /// The signature is right, and the body is not an event.
    #[error("the signed body is not an event: {0}")]
    NotAnEvent(String),
    /// The ledger could not store the event. Stripe has to send it again.
    #[error("the event could not be stored: {0}")]
    NotStored(Refusal),
}

impl Sales {
    /// Receives an event. Once this returns `Ok`, the event is stored. Usually the event is applied
    /// too; if the ledger failed in between, [`Sales::catch_up`] applies it later.
    ///
    /// # Errors
    /// After an error nothing was stored.
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
            return Ok(ignore(&thin));
        }
        let parsed = text.and_then(|text| {
            let envelope: Envelope<'_> =
                serde_json::from_str(text).map_err(|error| not_an_event(&error))?;
            let payload = trim(&envelope).into();
            Ok(NewEvent { id: envelope.id, kind: envelope.kind, payload })
        });
        let event = parsed.inspect_err(|error| {
            count("", "unreadable");
            tracing::error!(%error, "a webhook has a good signature and cannot be read; it was not stored");
        })?;
        let receipt = self.store(event.clone()).await;
        let receipt = receipt.map_err(ReceiveError::NotStored).inspect_err(|error| {
            count(&event.kind, "unavailable");
            tracing::error!(event = &*event.id, %error, "a webhook could not be stored; Stripe will send it again");
        })?;
        if !receipt.new && !matches!(receipt.state, EventState::Received | EventState::Failed) {
            count(&event.kind, "duplicate");
            return Ok(receipt);
        }
        // If applying fails, Stripe need not send the event again, because it is stored and will be
        // applied later.
        let state = self.apply(&event.id, &event.payload).await.unwrap_or(EventState::Received);
        count(&event.kind, state.as_str());
        Ok(Receipt { state, ..receipt })
    }

    /// Checks a body's signature. Anybody may send a body of half a megabyte. So large bodies are
    /// hashed on threads of their own, a few at a time, and not on the threads that serve calls.
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
        // The hashing has panicked, so it is unknown whether the signature is right.
        hashed.unwrap_or(Err(SignatureError::Wrong))
    }

    /// Applies a stored event again, whatever its state is. Credits that it has already moved are not
    /// moved again.
    ///
    /// # Errors
    /// [`Refusal::UnknownEvent`], and failures to read or write the ledger.
    pub async fn replay(&self, id: &str) -> Result<EventState, LedgerError> {
        let event = self.ledger.read().event(id).await?.ok_or(Refusal::UnknownEvent)?;
        Ok(self.apply(&event.id, &event.payload).await?)
    }

    /// Applies the events that were stored but not applied, because of a crash or a ledger that failed.
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
                        "applied an event that had been waiting in the inbox"
                    ),
                    // The ledger is unavailable. The next round finds the event again.
                    Err(_) => return,
                }
            }
        }
    }

    async fn store(&self, event: NewEvent) -> Result<Receipt, Refusal> {
        let (state, new) = self.ledger.record_event(event).await?;
        Ok(Receipt { state, new })
    }

    /// Applies a stored event, and returns its new state. An error means that the ledger is
    /// unavailable.
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
        tracing::error!(
            event = &**id,
            error = failure,
            "an event could not be applied; `farebox stripe replay` tries again"
        );
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

/// Ignores a thin event. It contains nothing that could be applied, so Stripe need not send it again.
fn ignore(thin: &Thin) -> Receipt {
    if thin.kind.starts_with("v1.") {
        tracing::warn!(
            kind = &*thin.kind,
            "ignored a thin event, which does not contain the object that it is about: choose the \
             snapshot payload for this webhook at Stripe, or run `farebox packs sync --webhook-url`"
        );
    }
    Receipt { state: EventState::Ignored, new: true }
}

fn not_an_event(error: &dyn std::error::Error) -> ReceiveError {
    ReceiveError::NotAnEvent(error.to_string())
}
