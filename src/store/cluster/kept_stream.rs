//! How much of the stream Redis keeps behind the newest batch that Postgres has.
//!
//! A Postgres that fails over to an asynchronous replica lacks the batches of the last seconds, although it had said
//! that it has them. The stream still has their text, so the next recovery writes them again. Batches of earlier
//! epochs are kept equally long, since the replica may lack the beginning of the present epoch as well.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::StreamBatch;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;

/// How long a batch stays in the stream after Postgres has it.
const KEPT_FOR: Duration = Duration::from_secs(180);

/// The most memory that the stream may take for batches that Postgres has, in bytes.
const KEPT_BYTES: i64 = 64 << 20;

/// The time between two marks.
const MARK_EVERY: Duration = Duration::from_secs(5);

/// How many batches are added to the stream at once.
const AT_ONCE: usize = 100;

/// How long a recovery adds batches to the stream.
const ADD_FOR: Duration = Duration::from_secs(2);

/// A place in the stream: the epoch, and the number of the batch in it.
pub(crate) type StreamId = (i64, i64);

/// The newest durable batch at several moments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<VecDeque<(Instant, StreamId)>>);

impl Marks {
    /// Notes the newest batch that Postgres has. Returns the batch up to which the stream may be cut: Postgres has had
    /// that one for [`KEPT_FOR`].
    fn note(&self, newest: StreamId, now: Instant) -> Option<StreamId> {
        let mut marks = self.lock();
        let age = |at: Instant| now.saturating_duration_since(at);
        if marks.back().is_none_or(|(at, _)| age(*at) >= MARK_EVERY) {
            marks.push_back((now, newest));
        }
        let mut old = None;
        while let Some((_, batch)) = marks.pop_front_if(|(at, _)| age(*at) >= KEPT_FOR) {
            old = Some(batch);
        }
        old
    }

    /// Forgets the oldest mark, and returns its batch: the stream is to be cut there before the time.
    fn give_up_oldest(&self) -> Option<StreamId> {
        self.lock().pop_front().map(|(_, batch)| batch)
    }

    fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, StreamId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts off the stream what Postgres has had for long, and more where it has grown large.
///
/// # Errors
/// Where Redis does not reply.
pub(crate) async fn trim(shared: &Shared) -> Result<(), LedgerError> {
    let Some((scripts, newest)) = newest_durable(shared) else { return Ok(()) };
    if let Some(old) = shared.kept.note(newest, Instant::now()) {
        shared.redis.trim_stream(&scripts, old).await?;
    }
    while shared.redis.stream_bytes(&scripts).await? > KEPT_BYTES {
        let oldest = shared.kept.give_up_oldest();
        shared.redis.trim_stream(&scripts, oldest.unwrap_or(newest)).await?;
        if oldest.is_none() {
            // Postgres does not have the rest.
            break;
        }
    }
    Ok(())
}

/// Cuts off everything that Postgres has, since Redis has no memory left.
///
/// # Errors
/// Where Redis does not reply.
pub(crate) async fn give_back(shared: &Shared) -> Result<(), LedgerError> {
    let Some((scripts, newest)) = newest_durable(shared) else { return Ok(()) };
    shared.kept.clear();
    shared.redis.trim_stream(&scripts, newest).await
}

fn newest_durable(shared: &Shared) -> Option<(std::sync::Arc<Scripts>, StreamId)> {
    let scripts = shared.epoch.scripts()?;
    let newest = shared.redo.checkpoint();
    (newest.0 == scripts.epoch.number).then_some((scripts, newest))
}

/// Adds batches that only gateways had remembered to the stream, as far as they come after all that is in it. Postgres
/// has them with this recovery, and may fail over to a replica that does not.
pub(crate) async fn add(shared: &Shared, scripts: &Scripts, batches: &[StreamBatch]) {
    let began = Instant::now();
    for some in batches.chunks(AT_ONCE) {
        // They are sent in their order before the first reply is read.
        let added = join_all(some.iter().map(|batch| shared.redis.add_to_stream(scripts, batch)));
        if let Some(error) = added.await.into_iter().find_map(Result::err) {
            tracing::debug!(%error, "a batch is not added to the stream");
        }
        if began.elapsed() >= ADD_FOR {
            tracing::debug!("not all batches are added to the stream: the recovery goes on");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stays_for_minutes_after_postgres_has_it() {
        let (marks, began) = (Marks::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(marks.note((7, 1), at(0)), None);
        assert_eq!(marks.note((7, 2), at(4)), None, "no mark is due");
        for second in (5..180).step_by(5) {
            assert_eq!(marks.note((8, second as i64), at(second)), None);
        }
        assert_eq!(marks.note((8, 180), at(180)), Some((7, 1)));
        assert_eq!(marks.note((8, 190), at(190)), Some((8, 10)), "the newer of two");
        assert_eq!(marks.give_up_oldest(), Some((8, 15)));
        marks.clear();
        assert_eq!(marks.give_up_oldest(), None);
    }
}
