//! The limit on the number of connections of a listener.
//!
//! Staying connected without sending a request costs a client nothing, so silent clients could keep
//! all others out. When the limit is reached, the connection that has waited longest for a request
//! is closed, so that the next one can be accepted. A connection with a running call is never
//! closed for that.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::watch::HeadWatch;

/// How long each connection may wait for its request before it can be closed to make room.
const GRACE: Duration = Duration::from_millis(250);

/// Ended connections are removed from the list only once the list has this many entries.
const FEW: usize = 64;

/// The connections of one listener. Each connection is a task.
pub(crate) struct Places {
    most: usize,
    tasks: JoinSet<()>,
    /// The connections in `tasks`. Some may have ended and not been removed yet.
    open: Vec<Place>,
}

struct Place {
    head: Arc<HeadWatch>,
    task: AbortHandle,
}

impl Places {
    /// Creates places for at most `most` connections.
    pub fn new(most: usize) -> Self {
        Self { most, tasks: JoinSet::new(), open: Vec::new() }
    }

    /// Serves a connection. `head` knows how long the connection has waited for a request.
    pub fn serve(
        &mut self,
        head: Arc<HeadWatch>,
        serving: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.open.len() >= FEW.max(2 * self.tasks.len()) {
            self.open.retain(|place| !place.task.is_finished());
        }
        let task = self.tasks.spawn(serving);
        self.open.push(Place { head, task });
    }

    /// Resolves when a connection has ended; never if there are no connections.
    pub async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Returns once there is room for another connection. Closes waiting connections if it must.
    pub async fn make_room(&mut self) {
        while self.tasks.len() >= self.most {
            self.open.retain(|place| !place.task.is_finished());
            let waited = |place: &Place| place.head.waited().filter(|waited| *waited >= GRACE);
            let places = self.open.iter().enumerate();
            let longest = places
                .filter_map(|(index, place)| Some((waited(place)?, index)))
                .max()
                .map(|(_, index)| self.open.swap_remove(index));
            if let Some(place) = longest {
                place.task.abort();
            } else {
                tracing::warn!(
                    target: "farebox::anybody",
                    connections = self.most,
                    "every connection is in use; the next client waits"
                );
            }
            // If no connection ends within `GRACE`, one may by then have waited long enough to be
            // closed.
            let _ = tokio::time::timeout(GRACE, self.tasks.join_next()).await;
        }
    }

    /// The tasks of the connections that are open.
    pub fn into_tasks(self) -> JoinSet<()> {
        self.tasks
    }
}
