//! Makes trials while Postgres refuses appends, to find out when it takes them again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::cluster::postgres;
use crate::store::cluster::shared::Shared;

/// The time between two trials. It doubles with each append that Postgres refuses soon after it has taken a trial, up to
/// the longest time.
const TRY_EVERY: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// An append that is refused within this time after a trial shows that the trial told too little.
const SOON: Duration = Duration::from_secs(10);

/// The most bytes of a trial.
const MOST_BYTES: usize = 64 * 1024;

/// Runs until the task is aborted.
pub(crate) async fn run(shared: Arc<Shared>) {
    let gate = &shared.writes;
    let (mut wait, mut taken): (Duration, Option<Instant>) = (TRY_EVERY, None);
    loop {
        gate.wake.notified().await;
        if gate.takes_appends() {
            continue;
        }
        let told_too_little = taken.is_some_and(|at| at.elapsed() < SOON);
        wait = if told_too_little { (2 * wait).min(LONGEST) } else { TRY_EVERY };
        while !gate.takes_appends() {
            tokio::time::sleep(wait).await;
            // The heartbeat finds out when a Postgres that is away is back.
            if !shared.store.is_up() {
                continue;
            }
            match postgres::try_append(&shared.store, gate.refused_bytes().min(MOST_BYTES)).await {
                Ok(()) => {
                    taken = Some(Instant::now());
                    gate.note_taken();
                }
                Err(error) => tracing::debug!(%error, "Postgres takes no batch"),
            }
        }
    }
}
