//! The queue between the gateway and the pipeline.

use tokio::sync::{mpsc, oneshot};

use crate::ledger::operation::{Operation, Outcome, Refusal};

/// An operation in the queue.
#[derive(Debug)]
pub(crate) struct Queued {
    pub operation: Operation,
    /// The channel to the waiting caller. `None` for the end of a call's hold: no caller waits for
    /// it, and the pipeline retries it until it succeeds.
    pub reply: Option<oneshot::Sender<Outcome>>,
}

/// A message in the queue.
#[derive(Debug)]
pub(crate) enum Message {
    /// An operation to decide.
    Operation(Queued),
    /// The request to decide everything that was queued before, and to stop.
    Stop,
}

impl Message {
    /// Whether this is the end of a call's hold, which no caller waits for.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Operation(Queued { reply: None, .. }))
    }
}

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue(mpsc::UnboundedSender<Message>);

impl Queue {
    /// A new queue, with its receiving end.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Queues an operation and waits for its outcome.
    pub async fn ask(&self, operation: Operation) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let queued = Queued { operation, reply: Some(reply) };
        match self.0.send(Message::Operation(queued)) {
            // The pipeline has stopped, so the operation changes nothing.
            Err(_) => Outcome::Refused(Refusal::Unavailable),
            Ok(()) => outcome.await.unwrap_or(Outcome::Refused(Refusal::Unavailable)),
        }
    }

    /// Queues the end of a call's hold without waiting. The pipeline retries it until it succeeds.
    pub fn end_hold(&self, operation: Operation) {
        let queued = Queued { operation, reply: None };
        if self.0.send(Message::Operation(queued)).is_err() {
            tracing::error!("a hold ended after the ledger had stopped; the next start ends it");
        }
    }

    /// Asks the pipeline to stop.
    pub fn stop(&self) {
        // A closed queue means that the pipeline has stopped already.
        let _ = self.0.send(Message::Stop);
    }
}
