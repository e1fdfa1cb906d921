//! The places that a listener has for connections.
//!
//! A client that connects and stays silent costs nothing, and could keep everybody else out. So
//! where every place is taken, the connection that has waited longest for a request makes room for
//! the next one. A connection on which a call runs never does.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::watch::HeadWatch;

/// How long a connection may wait for its request, at least, before it has to make room.
const GRACE: Duration = Duration::from_millis(250);

/// The fewest connections whose list is worth clearing of those that have ended.
const FEW: usize = 64;

/// The connections of one listener, each of which is a task.
pub(crate) struct Places {
    most: usize,
    tasks: JoinSet<()>,
    /// The connections in `tasks`, and some that have ended but are not removed yet.
    open: Vec<Place>,
}

struct Place {
    head: Arc<HeadWatch>,
    task: AbortHandle,
}

impl Places {
    /// For at most `most` connections.
    pub fn new(most: usize) -> Self {
        Self { most, tasks: JoinSet::new(), open: Vec::new() }
    }

    /// Serves a connection, of which `head` knows how long it has waited.
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

    /// Resolves when a connection has ended; never while there is none.
    pub async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Returns once another connection fits.
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
            // Where none has ended in the meantime, one may have waited long enough.
            let _ = tokio::time::timeout(GRACE, self.tasks.join_next()).await;
        }
    }

    /// The connections that are open.
    pub fn into_tasks(self) -> JoinSet<()> {
        self.tasks
    }
}
