//! Calls that a crash left. The next start ends their holds.

use sqlx::sqlite::SqliteConnection;

use crate::ledger::LedgerError;
use crate::ledger::crash::{AfterCrash, CrashOutcome, CrashedCall};
use crate::ledger::rules;
use crate::ledger::rules::state::{Changes, Now, State};
use crate::metrics::Metrics;
use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::write::{Batch, Log};

/// Ends the holds of calls in `state`, which was just read from the file, and adds the calls to the
/// list of calls that were cut off. All of this is one transaction, which counts as the commit in
/// `now`. So a start that is killed leaves nothing half done. Returns the calls, oldest first.
///
/// Holds made through the API stay, because the app that made them may still capture them.
pub(crate) async fn end_left_calls(
    connection: &mut SqliteConnection,
    state: &mut State,
    after: AfterCrash,
    now: Now,
) -> Result<Vec<CrashedCall>, LedgerError> {
    let calls = CallHolds::of(state);
    let mut changes = Changes::default();
    rules::abandon_calls(after, state, &mut changes, now);
    if !changes.is_empty() {
        let batch = Batch::new(state, &calls, &changes, now, Log::Stays);
        batch.write(&changes.entries, &mut *connection).await?;
        state.claims.forget_written(changes.claims.keys());
    }
    // Rows whose holds have all ended may be left.
    sqlx::query("DELETE FROM call_holds").execute(&mut *connection).await?;
    // No call runs, so no claim of a running call is left.
    sqlx::query("DELETE FROM claims WHERE charged = 0").execute(connection).await?;
    let mut ended: Vec<_> = changes.crashed.into_values().collect();
    ended.sort_by(|a, b| a.id.cmp(&b.id));
    ended.iter().for_each(CrashedCall::log);
    Ok(ended)
}

/// Counts these calls in the metrics of this process. The process that began them is gone, and its
/// metrics with it.
pub(crate) fn count_left_calls(ended: &[CrashedCall], metrics: &Metrics) {
    for call in ended {
        let (outcome, credits) = match call.outcome {
            CrashOutcome::Released => ("released", &metrics.credits_released),
            CrashOutcome::Charged | CrashOutcome::Corrected => {
                ("captured", &metrics.credits_captured)
            }
        };
        metrics.holds.with_label_values(&[&*call.route, outcome]).inc();
        credits.with_label_values(&[&*call.route]).inc_by(call.amount.as_metric());
    }
}
