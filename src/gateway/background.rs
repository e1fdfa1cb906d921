//! The tasks that run beside the listeners while a gateway runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::app::App;
use crate::ledger::Ledger;

/// How often the API keys that other gateways made or revoked are read.
const FOLLOW_KEYS_EVERY: Duration = Duration::from_secs(1);

/// Keeps the published keys of the token issuers up to date.
pub(super) async fn refresh_keys(app: Arc<App>, stopping: watch::Receiver<bool>) {
    app.identifier.run(stopping).await;
}

/// Applies the API keys that other gateways of the same ledger make and revoke.
pub(super) async fn follow_keys(app: Arc<App>) {
    let mut version = 0;
    loop {
        match app.ledger.read().key_changes(version).await {
            // On the embedded ledger no other process makes keys, so there is nothing to follow.
            Ok(None) => return,
            Ok(Some(changes)) => {
                version = changes.version;
                for key in changes.keys {
                    if app.keys.insert(key).is_err() {
                        tracing::error!("two API keys share an id; run `farebox reconcile`");
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "changes of the API keys cannot be read"),
        }
        tokio::time::sleep(FOLLOW_KEYS_EVERY).await;
    }
}

/// Reconciles the ledger once after a start, and logs every difference.
pub(super) async fn reconcile(ledger: Ledger) {
    match ledger.reconcile().await {
        Ok(report) if report.is_clean() => {
            tracing::debug!(accounts = report.accounts, entries = report.entries, "reconciled");
        }
        Ok(report) => {
            for difference in &report.differences {
                tracing::error!(
                    account = difference.account,
                    what = difference.what,
                    "the ledger does not reconcile"
                );
            }
        }
        Err(error) => tracing::error!(%error, "the ledger could not be reconciled"),
    }
}

/// Runs `work` until it ends or `stop` turns true.
pub(super) async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
