//! The inbox: Stripe's events as they arrived, stored before they are acknowledged.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The state of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    /// The event is stored, and not applied yet.
    Received,
    /// The event and all credits that it moves are applied.
    Applied,
    /// The event concerns a payment that this ledger did not start.
    Foreign,
    /// Events of this kind do not concern credits.
    Ignored,
    /// The event could not be applied; its note has the reason. The operator can replay it.
    Failed,
}

impl EventState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Received, Self::Applied, Self::Foreign, Self::Ignored, Self::Failed];

    /// The word that is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
            Self::Foreign => "foreign",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }

    /// Reads [`EventState::as_str`] back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A Stripe event to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Stripe's id; an event is stored once.
    pub id: Arc<str>,
    /// Stripe's name of the kind, such as `checkout.session.completed`.
    pub kind: Arc<str>,
    /// The event's JSON.
    pub payload: Arc<str>,
}

/// An event in the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeEvent {
    /// Stripe's id; an event is stored once.
    pub id: Arc<str>,
    /// Stripe's name of the kind, such as `checkout.session.completed`.
    pub kind: Arc<str>,
    /// The event's JSON.
    pub payload: Arc<str>,
    /// Whether the event was applied, and if not, why.
    pub state: EventState,
    /// The reason, if the event failed.
    pub note: Option<Arc<str>>,
    /// The time at which the event arrived, in milliseconds since 1970.
    pub received_at_ms: i64,
}
