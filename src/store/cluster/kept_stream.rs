//! How much of the stream Redis keeps behind the newest batch that Postgres has.
//!
//! A Postgres that fails over to an asynchronous replica lacks the batches of the last seconds, although it had said
//! that it has them. The stream still has their text, so the next recovery writes them again. Batches of earlier
//! epochs are kept equally long, since the replica may lack the beginning of the present epoch as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::StreamBatch;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::stream_marks::StreamId;

/// The most memory that the stream may take for batches that Postgres has, in bytes.
const KEPT_BYTES: i64 = 64 << 20;

/// How many batches are added to the stream at once.
const AT_ONCE: usize = 100;

/// How long a recovery adds batches to the stream.
const ADD_FOR: Duration = Duration::from_secs(2);

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

fn newest_durable(shared: &Shared) -> Option<(Arc<Scripts>, StreamId)> {
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
