//! The tasks that run beside the listeners while a gateway runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::account::AccountId;
use crate::app::App;
use crate::ledger::{Ledger, wall_ms};
use crate::stripe::{ReconcileError, Reconciled, Sales};

/// How often the API keys that other gateways made or revoked are read.
const FOLLOW_KEYS_EVERY: Duration = Duration::from_secs(1);

/// How far back the comparison with Stripe goes after a failover, in seconds.
const RECONCILED_SECS: i64 = 24 * 3600;

/// The time between two attempts of the comparison with Stripe.
const RECONCILE_AGAIN_AFTER: Duration = Duration::from_secs(10);

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
                app.keys.note_behind(false);
                for key in changes.keys {
                    if app.keys.insert(key).is_err() {
                        tracing::error!("two API keys share an id; run `farebox reconcile`");
                    }
                }
            }
            Err(error) => {
                app.keys.note_behind(true);
                tracing::debug!(%error, "changes of the API keys cannot be read");
            }
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

/// Compares the last day with Stripe after each noticed failover of the ledger's database: the database may have lost
/// purchases whose events Stripe takes for received.
pub(super) async fn reconcile_after_failovers(ledger: Ledger, sales: Arc<Sales>) {
    let Some(mut failovers) = ledger.read().failovers() else { return };
    while failovers.changed().await.is_ok() {
        loop {
            match sales.reconcile(wall_ms() / 1000 - RECONCILED_SECS).await {
                Ok(report) => {
                    log_reconciled(&report);
                    break;
                }
                Err(ReconcileError::Sandbox) => return,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "the last day cannot be compared with Stripe after a failover of Postgres; it is tried again"
                    );
                    tokio::time::sleep(RECONCILE_AGAIN_AFTER).await;
                }
            }
        }
    }
}

fn log_reconciled(report: &Reconciled) {
    for applied in &report.applied {
        tracing::warn!(
            account = applied.account.as_ref().map(AccountId::as_str),
            from = applied.from,
            granted = %applied.granted,
            clawed_back = %applied.clawed_back,
            "the ledger had lost this payment, and has it again from Stripe"
        );
    }
    let (sessions, applied) = (report.sessions, report.applied.len());
    tracing::warn!(
        sessions,
        applied,
        "the last day was compared with Stripe after a failover of Postgres"
    );
}

/// Runs `work` until it ends or `stop` turns true.
pub(super) async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
