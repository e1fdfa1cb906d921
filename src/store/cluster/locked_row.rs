//! What the log says while another program keeps the row of an account locked in Postgres.

use std::convert::Infallible;

use crate::store::cluster::postgres::{self, Blocker};
use crate::store::cluster::shared::Shared;
use crate::store::cluster::stuck::TELL_AFTER;

/// Says that batches of all accounts wait for the row, and who keeps it.
pub(crate) async fn tell_of_batches(shared: &Shared) {
    let by = postgres::blocker(&shared.store).await.ok().flatten();
    let by = by.as_ref();
    tracing::warn!(
        pid = by.map(|by| by.pid),
        user = by.map(|by| &*by.user),
        application = by.map(|by| &*by.application),
        seconds = by.map(|by| by.seconds),
        "the row of an account is locked in Postgres: calls go on, charges reach Postgres later, and grants and the like \
         for that account get 503; end the transaction that keeps the row (`SELECT pg_terminate_backend(pid)`)"
    );
}

/// Says once that a recovery waits for the row, and who keeps it. Never ends.
pub(crate) async fn tell_of_recovery(shared: &Shared) -> Infallible {
    loop {
        tokio::time::sleep(TELL_AFTER).await;
        if let Ok(Some(Blocker { pid, user, application, seconds })) =
            postgres::blocker(&shared.store).await
        {
            tracing::error!(
                pid,
                user,
                application,
                seconds,
                "the recovery waits for the row of an account, which is locked in Postgres, and every call gets 503 \
                 until it is free: end the transaction that keeps it (`SELECT pg_terminate_backend(pid)`)"
            );
            return std::future::pending().await;
        }
    }
}
