//! The part of the stream that Redis keeps although Postgres already has these batches.
//!
//! A Postgres that fails over to an asynchronous replica lacks the batches of the last seconds, although it had
//! confirmed them. The stream still has their text, so the next recovery writes them again. Batches of earlier epochs
//! are kept equally long, because the replica may lack the beginning of the present epoch as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::StreamBatch;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::stream_marks::StreamId;

/// How many batches are added to the stream at once.
const AT_ONCE: usize = 100;

/// How long a recovery spends on adding batches to the stream.
const ADD_FOR: Duration = Duration::from_secs(2);

/// Removes from the stream the batches that Postgres has had for long, and those behind which it has had many bytes of
/// others. The batches that Postgres does not have yet count for neither.
///
/// # Errors
/// Fails if Redis does not reply.
pub(crate) async fn trim(shared: &Shared) -> Result<(), LedgerError> {
    let Some((scripts, newest)) = newest_durable(shared) else { return Ok(()) };
    match shared.kept.note(newest, Instant::now()) {
        Some(old) => shared.redis.trim_stream(&scripts, old).await,
        None => Ok(()),
    }
}

/// Removes from the stream all batches that Postgres has, because Redis has no memory left.
///
/// # Errors
/// Fails if Redis does not reply.
pub(crate) async fn give_back(shared: &Shared) -> Result<(), LedgerError> {
    let Some((scripts, newest)) = newest_durable(shared) else { return Ok(()) };
    shared.kept.clear();
    shared.redis.trim_stream(&scripts, newest).await
}

fn newest_durable(shared: &Shared) -> Option<(Arc<Scripts>, StreamId)> {
    let scripts = shared.epoch.scripts()?;
    let newest = shared.redo.checkpoint();
    (newest.0 == scripts.epoch.number).then_some((scripts, newest))
}

/// Adds to the stream batches that only gateways remembered or that were only appended, if they come after all batches in
/// the stream. This recovery writes them into Postgres, but Postgres may then fail over to a replica that lacks them.
pub(crate) async fn add(shared: &Shared, scripts: &Scripts, batches: &[StreamBatch]) {
    let began = Instant::now();
    for some in batches.chunks(AT_ONCE) {
        // All batches are sent, in order, before the first reply is read.
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
