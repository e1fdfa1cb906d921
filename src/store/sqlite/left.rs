//! The calls that a crash left: their holds end with the next start, which is the first to know.

use sqlx::sqlite::SqliteConnection;

use crate::ledger::LedgerError;
use crate::ledger::crash::{AfterCrash, CrashOutcome, CrashedCall};
use crate::ledger::rules;
use crate::ledger::rules::state::{Changes, Now, State};
use crate::metrics::Metrics;

use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::write::Batch;

/// Ends the holds of calls that are left in `state`, as they were read from the file: all of them, and
/// their lines in the list of such calls, in one transaction, which counts as the commit that `now`
/// names. So a start that is killed at any moment has done all of it or nothing. Returns the calls,
/// oldest first.
///
/// Holds made through the API belong to somebody else, and stay.
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
        Batch::new(state, &calls, &changes, now).write(&mut *connection).await?;
    }
    // Rows of which no hold was live, if there are any.
    sqlx::query("DELETE FROM call_holds").execute(connection).await?;
    let mut ended: Vec<_> = changes.crashed.into_values().collect();
    ended.sort_by(|a, b| a.id.cmp(&b.id));
    ended.iter().for_each(CrashedCall::log);
    Ok(ended)
}

/// Counts them as this process's: the one that they began in is gone, and its figures with it.
pub(crate) fn count(ended: &[CrashedCall], metrics: &Metrics) {
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
