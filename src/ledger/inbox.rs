//! The inbox: Stripe's events as they came, kept before they are acknowledged.

use std::sync::Arc;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    /// Kept, and not yet taken up.
    Received,
    /// Taken up, with all that it moves.
    Applied,
    /// About something that this ledger did not start.
    Foreign,
    /// Of a kind that says nothing about credits.
    Ignored,
    /// It could not be taken up; the note says why. It can be replayed.
    Failed,
}

impl EventState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Received, Self::Applied, Self::Foreign, Self::Ignored, Self::Failed];

    /// As it is stored and shown.
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

/// An event of Stripe's to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Stripe's id of it; once only.
    pub id: Arc<str>,
    /// Stripe's name of its kind.
    pub kind: Arc<str>,
    /// The JSON, as it was signed.
    pub payload: Arc<str>,
}

/// An event in the inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeEvent {
    /// Stripe's id; one event is kept once.
    pub id: Arc<str>,
    /// Stripe's name of its kind, such as `checkout.session.completed`.
    pub kind: Arc<str>,
    /// The JSON, as it was signed.
    pub payload: Arc<str>,
    /// What became of it.
    pub state: EventState,
    /// Why it failed.
    pub note: Option<Arc<str>>,
    /// When it came, in milliseconds since 1970.
    pub received_at_ms: i64,
}
